"""Rollbacks with real checkpoints and a trainer of one number: any difference in what it is called with shows."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from toolkit.checkpoints import list_checkpoints, load_checkpoint
from toolkit.config import FinetuneConfig, TrainConfig
from toolkit.errors import JobFailed
from toolkit.events import EarlyStopEvent, Event, FinishedEvent, RollbackEvent, StepEvent
from toolkit.jobs import record
from toolkit.jobs.job import DataFigures, Job
from toolkit.jobs.running import run_job
from toolkit.protocols import BackendDescription, Batch, StepFigures, TrainerSpec, TrainerState
from toolkit.runs import RunFolder, create_run
from toolkit.tensor_files import StoredTensor

MACHINE = ("time", "rss_bytes", "cpu_percent", "disk_bytes", "tokens_per_second", "step_seconds", "evaluation_seconds")


@dataclass(frozen=True)
class Result:
    figures: StepFigures

    def read(self) -> StepFigures:
        return self.figures


class Data:
    """The batch at a position holds nothing but the position."""

    updates_per_epoch = rows_per_epoch = 5
    is_packed = False
    padding_share = 0.0

    def update(self, index: int) -> list[Batch]:
        shape = (1, 3)
        return [Batch(np.full(shape, index, np.int32), *(np.ones(shape, t) for t in (np.float32, np.int32, np.int32)))]


@dataclass
class Toy:
    """Adds up the positions that it is trained on, times the rate; skips those that are `broken`."""

    broken: frozenset[int] = frozenset()
    spiking: frozenset[int] = frozenset()
    weight: float = 1.0
    updates: int = 0
    calls: list[tuple[int, float, int]] = field(default_factory=list)
    closed: bool = False

    def train_step(self, micro_batches, learning_rate, normaliser, seed):
        position = int(micro_batches[0].tokens[0, 0])
        self.calls.append((position, learning_rate, seed))
        if position in self.broken:
            return Result(StepFigures(math.nan, 2.0, 1.0))
        self.updates += 1
        self.weight = 0.9 * self.weight + learning_rate * (position + 1) + seed % 97
        loss = 50.0 if position in self.spiking else 2.0 + 0.1 * math.sin(position)
        return Result(StepFigures(loss, 2.0, 1.0))

    def evaluate(self, batch):
        return 10.0 + self.updates + math.tanh(self.weight), 1.0

    def state(self):
        weight = np.array([self.weight]).view(np.int32)  # its very bits
        return TrainerState({"w": StoredTensor("w", "int32", weight)}, {}, self.updates)

    def restore(self, state):
        self.weight, self.updates = float(np.array(state.weights["w"].array).view(np.float64)[0]), state.updates

    def parameter_counts(self):
        return 1, 1

    def peak_memory_bytes(self):
        return 1

    def close(self):
        self.closed = True


class ToyBackend:
    """Opens toys, and remembers them."""

    name = "toy"

    def __init__(self, broken: Iterable[int], spiking: Iterable[int]) -> None:
        self.faults = frozenset(broken), frozenset(spiking)
        self.opened: list[Toy] = []

    def describe(self, device: str) -> BackendDescription:
        return BackendDescription("toy", device, "toy", 1, "none", {})

    def prepare_base(self, spec: TrainerSpec, report: Any) -> None:
        """There is no base to prepare."""

    def open_trainer(self, spec: TrainerSpec) -> Toy:
        self.opened.append(Toy(*self.faults))
        return self.opened[-1]


def job_of(broken=(), spiking=(), **train: Any) -> Any:
    options = {"max_steps": 18, "eval_every": 3, "save_every": 4, "keep_checkpoints": 1, "learning_rate": 0.1}
    options |= {"max_skipped": 3, "spike_window": 10, "epochs": None, **train}
    config = FinetuneConfig(method="full", train=TrainConfig(**options))
    given: dict[str, Any] = {
        "facts": SimpleNamespace(name="toy", folder=Path("."), sha256=lambda: "m"),
        "tokenizer": SimpleNamespace(sha256="t"),
        "training": Data(),
        "backend": ToyBackend(broken, spiking),
    }
    return Job(
        config=config,
        asked=config.train,
        train_examples=[],
        validation=Data().update(0),
        reason="",
        data_label="toy",
        data_files=(),
        figures=DataFigures(5, 1, 0, 15, 10, "d"),
        **given,
    )


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "write_result", lambda job, run, checkpoint: run.adapter)
    monkeypatch.setattr(os, "fsync", lambda _: None)


def events_of(job: Any, run: RunFolder, **more: Any) -> Iterator[Event]:
    """Start or go on with a run as the command line does: from its newest checkpoint."""
    saved = list_checkpoints(run.checkpoints)
    checkpoint = load_checkpoint(saved[-1]) if saved else None
    trainer = job.backend.open_trainer(None)
    if checkpoint:
        trainer.restore(checkpoint.state)
    return run_job(job, trainer, run, checkpoint=checkpoint, **more)


def outcome(job: Any, run: RunFolder) -> dict[str, Any]:
    """What must not depend on kills: the weight, the last update's data, rate and seed, metrics, the saved state."""
    last = load_checkpoint(list_checkpoints(run.checkpoints)[-1])
    rows = [{key: row[key] for key in row if key not in MACHINE} for row in run.metrics(rolled_back=True)]
    notes = {key: last.notes[key] for key in ("update", "guards", "best", "data_position", "optimizer_updates")}
    calls = [call for trainer in job.backend.opened for call in trainer.calls]
    return {"weight": job.backend.opened[-1].weight, "call": calls[-1], "metrics": rows, "notes": notes}


def of(events: list[Event], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


BROKEN = {"broken": (9, 10, 11)}
SPIKING = {"spiking": (10, 11, 12, 13, 14)}
EARLY = {"broken": (1, 2, 3)}


def test_a_run_goes_back_leaves_the_bad_data_out_and_ends_with_half_the_rate(tmp_path):
    job = job_of(**BROKEN)
    run = create_run("a", "m", "d", root=tmp_path)
    events = list(events_of(job, run))
    (rollback,) = of(events, RollbackEvent)
    assert (rollback.step, rollback.to_step, rollback.trouble.kind) == (12, 8, "not finite")
    calls = job.backend.opened[0].calls
    assert [position for position, _, _ in calls] == [*range(12), 8, *range(12, 21)]
    plain = job_of()
    list(events_of(plain, create_run("b", "m", "d", root=tmp_path)))
    rates = [rate for _, rate, _ in plain.backend.opened[0].calls]
    assert [rate for _, rate, _ in calls] == [*rates[:12], *(0.5 * rate for rate in rates[8:])]
    assert [seed for _, _, seed in calls[12:]] == [seed for _, _, seed in plain.backend.opened[0].calls[8:]]
    assert run.manifest()["final"]["rollbacks"] == 1 and run.manifest()["final"]["skipped_updates"] == 3
    assert run.manifest()["rolled_back_to"]["step"] == 8


def test_the_curves_show_what_counts_and_the_file_what_happened(tmp_path):
    run = create_run("a", "m", "d", root=tmp_path)
    list(events_of(job_of(**BROKEN), run))
    assert [row["step"] for row in run.metrics() if "loss" in row] == list(range(1, 19))
    assert [row["step"] for row in run.metrics() if "val_loss" in row] == [0, 3, 6, 9, 12, 15, 18]
    everything = run.metrics(rolled_back=True)
    assert [row["step"] for row in everything if row.get("rolled_back") == 1] == [9, 9, 10, 11, 12, 12]
    (note,) = [row for row in everything if row.get("event") == "rollback"]
    assert (note["step"], note["to_step"], note["left_out"], note["learning_rate_scale"]) == (12, 8, [9, 10, 11], 0.5)
    assert [row["loss"] for row in everything if row["step"] == 12 and "loss" in row][0] is None


def test_a_spike_goes_back_too(tmp_path):
    job = job_of(**SPIKING)
    (rollback,) = of(list(events_of(job, create_run("a", "m", "d", root=tmp_path))), RollbackEvent)
    assert (rollback.step, rollback.to_step, rollback.trouble.kind) == (15, 8, "spike")
    assert rollback.guards.left_out == (10, 11, 12, 13, 14)


def test_trouble_before_the_first_checkpoint_starts_anew(tmp_path):
    job = job_of(**EARLY)
    (rollback,) = of(list(events_of(job, create_run("a", "m", "d", root=tmp_path))), RollbackEvent)
    assert (rollback.step, rollback.to_step) == (4, 0)
    assert len(job.backend.opened) == 2 and job.backend.opened[0].closed
    assert [position for position, _, _ in job.backend.opened[1].calls] == [0, *range(4, 21)]


def test_a_checkpoint_saved_amid_trouble_is_not_gone_back_to(tmp_path):
    job = job_of(broken=(6, 7, 8))  # step 8 is saved after two of them
    (rollback,) = of(list(events_of(job, create_run("a", "m", "d", root=tmp_path))), RollbackEvent)
    assert (rollback.step, rollback.to_step) == (9, 4)


def test_the_best_checkpoint_from_before_a_rollback_is_still_there(tmp_path, monkeypatch):
    losses = {3: 5.0, 6: 9.0, 9: 1.0}  # 9 is the best, but was measured amid trouble
    job = job_of(broken=(8, 9, 10))
    monkeypatch.setattr(
        Toy, "evaluate", lambda self, _: (losses.get(self.calls[-1][0] + 1, 7.0), 1.0) if self.calls else (9, 1)
    )
    run = create_run("a", "m", "d", root=tmp_path)
    events = list(events_of(job, run))
    assert of(events, RollbackEvent)[0].to_step == 8
    assert of(events, FinishedEvent)[0].best.step == 3
    assert run.manifest()["result_step"] == 3


def test_too_many_rollbacks_fail_and_say_how_to_start_again(tmp_path):
    job = job_of(broken=range(9, 60), max_rollbacks=2)
    run = create_run("a", "m", "d", root=tmp_path)
    with pytest.raises(JobFailed) as failure:
        list(events_of(job, run))
    assert str(failure.value) == (
        "loss or gradient was not finite 3 times on end (step 12); 2 rollbacks, each with half the learning rate, did "
        "not help. lower train.learning_rate or train.max_grad_norm, lengthen train.warmup, or look at the data. "
        f"Start again, for example: toolkit finetune --config {run.config_path} --set train.learning_rate=0.013. "
        "The last sound checkpoint is step-000008"
    )
    assert run.manifest()["status"] == "failed" and len(record.rollbacks(run)) == 2


def test_a_corrupted_checkpoint_is_not_gone_back_to_the_one_before_it_is(tmp_path):
    job = job_of(keep_checkpoints=5, **BROKEN)
    run = create_run("a", "m", "d", root=tmp_path)
    events = []
    for event in events_of(job, run):
        events.append(event)
        if isinstance(event, StepEvent) and event.step == 10 and not of(events, RollbackEvent):
            weights = run.checkpoints / "step-000008" / "model" / "model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert of(events, RollbackEvent)[0].to_step == 4


class Killed(BaseException):
    """What SIGKILL would do, at a moment of our choice."""


class Mortal:
    """Counts every change that the disk is asked for; from the `dies_at`-th on, none happens any more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, dies_at: float = math.inf) -> None:
        self.count, self.dies_at = 0, dies_at
        for owner, name in ((os, "replace"), (os, "rename"), (shutil, "rmtree"), (Path, "unlink")):
            monkeypatch.setattr(owner, name, self._counting(getattr(owner, name)))
        monkeypatch.setattr(RunFolder, "append_metrics", self._counting(RunFolder.append_metrics))

    def _counting(self, real):
        def change(*arguments, **options):
            self.count += 1
            if self.count >= self.dies_at:
                raise Killed
            return real(*arguments, **options)

        return change


def lived(tmp_path: Path, name: str, scenario: dict, monkeypatch: pytest.MonkeyPatch, dies_at: float = math.inf):
    """Run a scenario, killed once, resumed as often as it takes; return its outcome and the number of changes."""
    job = job_of(**scenario)
    run = create_run(name, "m", "d", root=tmp_path)
    with monkeypatch.context() as patch:
        mortal = Mortal(patch, dies_at)
        with suppress(Killed):
            list(events_of(job, run))
    if mortal.count >= dies_at:
        if not list_checkpoints(run.checkpoints):
            run = create_run(f"{name}-anew", "m", "d", root=tmp_path)
        list(events_of(job, run))
    return outcome(job, run), mortal.count


@pytest.mark.parametrize(
    "scenario",
    [
        SPIKING,
        pytest.param({"broken": (5, 6, 7, 9, 10, 11)}, marks=pytest.mark.slow),
        pytest.param({**BROKEN, "log_every": 5}, marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_at_any_change_of_the_disk_ends_as_one_that_was_not(tmp_path, monkeypatch, scenario):
    whole, changes = lived(tmp_path, "whole", scenario, monkeypatch)
    assert changes > 60
    compared = [key for key in whole if key != "metrics" or "log_every" not in scenario]  # rows then cover other steps
    for moment in range(1, changes + 1):
        killed, _ = lived(tmp_path, f"killed-{moment}", scenario, monkeypatch, dies_at=moment)
        assert {key: killed[key] for key in compared} == {key: whole[key] for key in compared}, f"change {moment}"


@pytest.mark.parametrize("scenario", [BROKEN, SPIKING, EARLY, {"broken": (7, 8, 9)}, {**BROKEN, "log_every": 5}])
def test_a_run_interrupted_after_any_update_ends_as_one_that_was_not(tmp_path, monkeypatch, scenario):
    whole, _ = lived(tmp_path, "whole", scenario, monkeypatch)
    total = 0
    for moment in range(1, 25):
        job, run = job_of(**scenario), create_run(f"stopped-{moment}", "m", "d", root=tmp_path)
        asked = iter(range(1, 99))
        events = list(events_of(job, run, should_stop=lambda asked=asked, moment=moment: next(asked) >= moment))
        if not of(events, FinishedEvent):
            total += 1
            list(events_of(job, run))
        ended = outcome(job, run)
        assert (ended["weight"], ended["call"]) == (whole["weight"], whole["call"]), moment
        assert ended["notes"] == whole["notes"], moment
        if "log_every" not in scenario:
            assert ended["metrics"] == whole["metrics"], moment
    assert total > 15


def test_early_stopping_ends_the_run_with_its_best_checkpoint_and_survives_a_resume(tmp_path, monkeypatch):
    losses = {3: 5.0, 6: 4.0, 9: 4.5, 12: 4.4}

    def evaluate(self, _):
        return losses.get(self.updates, 9.0), 1.0

    monkeypatch.setattr(Toy, "evaluate", evaluate)
    for stop_at in (99, 4, 7, 10, 11):
        job, run = job_of(patience=2), create_run(f"s{stop_at}", "m", "d", root=tmp_path)
        events = list(events_of(job, run, should_stop=lambda job=job, at=stop_at: job.backend.opened[-1].updates >= at))
        if stop_at != 99:
            assert not of(events, EarlyStopEvent)
            events = list(events_of(job, run))
        (early,) = of(events, EarlyStopEvent)
        assert (early.step, early.evaluations, early.best.step) == (12, 2, 6)
        assert isinstance(events[-1], FinishedEvent) and job.backend.opened[-1].updates == 12
        manifest = run.manifest()
        assert (manifest["status"], manifest["result_step"]) == ("finished", 6)
        assert manifest["stopped_early"] == {"step": 12, "evaluations": 2}
        saved = [path.name for path in list_checkpoints(run.checkpoints)]
        assert saved == ["step-000006", "step-000012"]
