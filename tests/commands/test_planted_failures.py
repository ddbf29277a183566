"""Failures planted into real runs, on both backends, by the command line: each ends as docs/training.md says."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.small_runs import settings, toolkit, write_questions
from toolkit.checkpoints import list_checkpoints, load_notes, verify_checkpoint
from toolkit.config import FinetuneConfig
from toolkit.config_files import load_config
from toolkit.datasets.batching import TrainingData
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.events import Event, RollbackEvent, StepEvent
from toolkit.jobs.finetune import prepare_finetune
from toolkit.jobs.record import Record, rollbacks
from toolkit.jobs.running import open_trainer, run_job
from toolkit.runs import RunFolder, create_run, find_run, runs_root
from toolkit.tensor_files import read_tensors

BACKENDS = ["torch", pytest.param("mlx", marks=pytest.mark.slow)]
MEMORY = {
    "torch": "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory",
    "mlx": "[malloc] Unable to allocate 137438953472 bytes.",
}
SHORT = settings(train__max_steps=8, train__save_every=2, train__eval_every=4, train__batch_size=4, train__device="cpu")
ADAPTER = "adapter_model.safetensors"


def finetune(name: str, backend: str, *arguments: object, code: int = 0) -> tuple[RunFolder, str]:
    """Run the command; return the run and stderr's last line."""
    result = toolkit("finetune", "--name", name, "--backend", backend, *arguments)
    assert result.exit_code == code, result.stderr
    assert "Traceback" not in result.stderr
    return RunFolder(runs_root() / name), result.stderr.splitlines()[-1]


# NaN batches: a model in which one token's embedding is not a number, and data in which some examples have it.


@pytest.fixture(scope="module")
def poisoned_model(build_tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("poisoned") / "model"
    shutil.copytree(build_tiny_model(family="llama", tied=False), folder)
    (token,) = Tokenizer.load(folder).encode("~")
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][token] = np.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def poisoned(poisoned_model: Path, tmp_path: Path) -> list[object]:
    """Options of a run that meets two bad batches on end several times; its validation data are sound."""
    sound = write_questions(tmp_path / "valid.jsonl", 4)
    lines = write_questions(tmp_path / "train.jsonl", 30).read_text().splitlines()
    lines = [line.replace("What", "~ What") if number % 5 < 2 else line for number, line in enumerate(lines)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n")
    return [
        *("--model", poisoned_model, "--data", tmp_path / "train.jsonl"),
        *settings(data__validation=sound, train__batch_size=1, train__max_skipped=2, train__seed=5),
        *settings(train__max_steps=20, train__save_every=3, train__eval_every=10, train__device="cpu"),
    ]


def poisoned_positions(run: RunFolder) -> list[int]:
    """Return where the run's data have the poison."""
    job = prepare_finetune(load_config(FinetuneConfig, run.config_path))
    (token,) = job.tokenizer.encode("~")
    indices = [job.training.example_indices(position)[0] for position in range(60)]
    return [
        position for position, rows in enumerate(indices) if token in job.train_examples[int(rows[0])].tokens.tolist()
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_batches_are_skipped_and_several_on_end_are_left_out_at_half_the_rate(backend, poisoned):
    run, _ = finetune("nan", backend, *poisoned)
    (first, *others) = rollbacks(run)
    assert "loss or gradient was not finite 2 times on end" in first["why"]
    assert first["learning_rate_scale"] == 0.5 and len(others) < 8
    left_out = [*first["left_out"], *(position for row in others for position in row["left_out"])]
    assert set(left_out) <= set(poisoned_positions(run))
    assert run.manifest()["status"] == "finished"
    final = run.manifest()["final"]
    assert final["skipped_updates"] >= 2 and final["rollbacks"] == 1 + len(others)
    rows = [row for row in run.metrics() if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert all((row["loss"] is None) == (row["skipped"] == 1) for row in rows)
    assert all(math.isfinite(row["val_loss"]) for row in run.metrics() if "val_loss" in row)
    tensors = read_tensors(run.adapter / ADAPTER)
    assert all(np.isfinite(tensors[name].array).all() for name in tensors)
    shown = toolkit("runs", "show", "nan").stdout
    assert "not finite 2 times on end" in shown and f"rollbacks {1 + len(others)}" in shown
    for line in run.metrics_path.read_text().splitlines():
        json.loads(line, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))


def killed_after(job: Any, run: RunFolder, kind: type[Event], count: int) -> None:
    """Run a job and drop it, as a kill would, after `count` events of a kind."""
    events = run_job(job, open_trainer(job), run)
    seen = 0
    for event in events:
        seen += isinstance(event, kind)
        if seen == count:
            events.close()  # pyright: ignore[reportAttributeAccessIssue]
            return
    pytest.fail("the run ended before it was killed")


@pytest.mark.slow  # the same with the toy trainer, at every moment: tests/jobs/test_rollbacks.py
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_killed_in_or_after_a_rollback_ends_with_the_bits_of_one_that_was_not(backend, poisoned, monkeypatch):
    whole, _ = finetune("whole", backend, *poisoned, *settings(lora__dropout=0.1))
    job = prepare_finetune(load_config(FinetuneConfig, whole.config_path))
    rows = whole.metrics(rolled_back=True)
    number = next(number for number, row in enumerate(rollbacks(whole), start=1) if row["to_step"] > 0)
    place = rows.index(rollbacks(whole)[number - 1])
    steps = sum("loss" in row for row in rows[:place])
    killed = [create_run(name, "m", "d") for name in ("after", "later", "within")]
    killed_after(job, killed[0], RollbackEvent, number)
    killed_after(job, killed[1], StepEvent, steps + 1)
    real = Record._note_rollback

    def die(self: Record, event: RollbackEvent) -> None:
        if event.to_step:
            raise KeyboardInterrupt
        real(self, event)

    with monkeypatch.context() as patch:  # the checkpoints are cleaned up, the manifest does not know of it yet
        patch.setattr(Record, "_note_rollback", die)
        with suppress(KeyboardInterrupt):
            killed_after(job, killed[2], RollbackEvent, 99)
    for run in killed:
        result = toolkit("finetune", "--resume", run.name)
        assert result.exit_code == 0, result.stderr
        assert (run.adapter / ADAPTER).read_bytes() == (whole.adapter / ADAPTER).read_bytes(), run.name
        newest = [load_notes(list_checkpoints(one.checkpoints)[-1])["guards"] for one in (run, whole)]
        assert newest[0] == newest[1]
        assert [row.get("loss") for row in run.metrics()] == [row.get("loss") for row in whole.metrics()]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_whose_every_batch_is_bad_fails_with_what_to_change(backend, poisoned, tmp_path):
    data = tmp_path / "train.jsonl"
    data.write_text(data.read_text().replace('"What', '"~ What'))
    run, line = finetune("lost", backend, *poisoned, *settings(train__max_rollbacks=1), code=1)
    assert "not finite 2 times on end" in line and "1 rollbacks" in line
    assert f"toolkit finetune --config {run.config_path} --set train.learning_rate=" in line
    assert run.manifest()["status"] == "failed"


# Spikes.

LONG = settings(
    train__max_steps=44, train__batch_size=4, train__eval_every=11, train__spike_window=12, train__device="cpu",
    train__learning_rate=2e-3, train__schedule="constant", method="full",
)  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_window_of_scrambled_data_is_a_spike_and_is_left_out(backend, tiny_llama, tmp_path, monkeypatch):
    real = TrainingData.update

    def scrambled(self: TrainingData, index: int) -> Any:
        batches = real(self, index)
        if 28 <= index < 36:
            for batch in batches:
                batch.tokens[:] = np.random.default_rng(index).integers(0, 300, batch.tokens.shape)
        return batches

    monkeypatch.setattr(TrainingData, "update", scrambled)
    data = write_questions(tmp_path / "sums.jsonl", 40)
    run, _ = finetune("spike", backend, "--model", tiny_llama, "--data", data, *LONG)
    found = rollbacks(run)
    assert found and all("the loss stood out 5 times on end" in row["why"] for row in found)
    assert found[0]["left_out"] == list(range(28, 33))
    assert (found[0]["step"], found[0]["to_step"]) == (33, 22)
    losses = [row["loss"] for row in run.metrics() if "loss" in row]
    assert max(losses[-10:]) < losses[15]
    assert run.manifest()["status"] == "finished"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_spike_of_the_learning_rate_that_comes_back_fails_with_a_lower_one(
    backend, tiny_llama, tmp_path, monkeypatch
):
    import toolkit.train as loop

    real = loop.learning_rate
    monkeypatch.setattr(loop, "learning_rate", lambda step, *rest: real(step, *rest) * (500 if step >= 30 else 1))
    data = write_questions(tmp_path / "sums.jsonl", 40)
    arguments = ("--model", tiny_llama, "--data", data, *LONG, *settings(train__max_rollbacks=1))
    run, line = finetune("spike", backend, *arguments, code=1)
    assert "times on end (step " in line and "1 rollbacks" in line
    assert "--set train.learning_rate=0.0005. The last sound checkpoint is step-000022" in line
    assert verify_checkpoint(run.checkpoints / "step-000022") == []


# Out of memory.


@pytest.mark.parametrize("backend", BACKENDS)
def test_out_of_memory_names_the_setting_and_keeps_the_last_checkpoint(backend, tiny_qwen2, tmp_path, monkeypatch):
    arguments = ("--model", tiny_qwen2, "--data", write_questions(tmp_path / "sums.jsonl"), *SHORT)
    whole, _ = finetune("whole", backend, *arguments)
    losses = import_module(f"toolkit.{backend}_backend.losses")
    real, calls = losses.backward_nll, []

    def exhausted(*given: object) -> Any:
        calls.append(given)
        if len(calls) > 5:
            raise RuntimeError(MEMORY[backend])
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(losses, "backward_nll", exhausted)
        run, line = finetune("memory", backend, *arguments, code=1)
    assert line.startswith("error: out of memory on cpu. lower train.batch_size")
    assert line.endswith("The last good checkpoint is step-000004; go on with: toolkit finetune --resume memory")
    assert verify_checkpoint(run.checkpoints / "step-000004") == []
    assert toolkit("finetune", "--resume", "memory").exit_code == 0
    assert (run.adapter / ADAPTER).read_bytes() == (whole.adapter / ADAPTER).read_bytes()


# A full disk.


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[bool]:
    """Mount a small file system there, where that is allowed; say whether it was."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def files_limited(monkeypatch: pytest.MonkeyPatch, saves: int, byte_count: int) -> Iterator[None]:
    """Refuse larger files once so many checkpoints are saved; needs no rights."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    real, calls = Record.save, []

    def save(self: Record, request: Any) -> None:
        calls.append(request)
        if len(calls) > saves:
            resource.setrlimit(resource.RLIMIT_FSIZE, (byte_count, hard))
        real(self, request)

    with monkeypatch.context() as patch:
        patch.setattr(Record, "save", save)
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("disk", ["small", "limited"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_full_disk_ends_the_run_with_the_last_good_checkpoint_intact(
    backend, disk, tiny_qwen2, tmp_path, monkeypatch
):
    arguments = ("--model", tiny_qwen2, "--data", write_questions(tmp_path / "sums.jsonl"), *SHORT)
    arguments = (*arguments, *settings(train__keep_checkpoints=9))
    whole, _ = finetune("whole", backend, *arguments)
    before = {path.name: path.read_bytes() for path in (whole.checkpoints / "step-000004").iterdir() if path.is_file()}
    with small_disk(tmp_path / "disk", "1100k") as mounted:
        if disk == "small" and mounted:
            monkeypatch.setenv("TOOLKIT_RUNS_DIR", str(tmp_path / "disk"))
            run, line = finetune("full", backend, *arguments, code=1)
            assert "the disk is full, nothing was written. Free some space and try again" in line
        else:
            with files_limited(monkeypatch, saves=2, byte_count=100_000):
                run, line = finetune("full", backend, *arguments, code=1)
            assert "step-000006" in line and "cannot write: File too large" in line
        assert "The last good checkpoint is step-000004; go on with: toolkit finetune --resume full" in line
        names = [path.name for path in run.checkpoints.iterdir()]
        assert sorted(names) == ["step-000002", "step-000004"]
        assert all(verify_checkpoint(run.checkpoints / name) == [] for name in names)
        good = run.checkpoints / "step-000004"
        assert (good / "optimizer.safetensors").read_bytes() == before["optimizer.safetensors"]
        shutil.copytree(run.path, tmp_path / "larger" / "full")
    monkeypatch.setenv("TOOLKIT_RUNS_DIR", str(tmp_path / "larger"))
    assert toolkit("finetune", "--resume", "full").exit_code == 0
    assert (find_run("full").adapter / ADAPTER).read_bytes() == (whole.adapter / ADAPTER).read_bytes()
