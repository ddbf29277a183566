"""SIGKILL at bad moments: at most the steps since the last checkpoint are lost, and the end is the same."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import toolkit.jobs.record as record
import toolkit.jobs.running as running
from tests.killing import Points, differences
from tests.small_runs import settings, toolkit, write_questions
from toolkit.checkpoints import list_checkpoints, verify_checkpoint
from toolkit.runs import RunFolder, find_run, runs_root

STEPS = 8
OPTIONS = settings(
    train__max_steps=STEPS, train__eval_every=4, train__save_every=2, train__batch_size=4, train__accumulation=2,
    lora__dropout=0.1, train__device="cpu",
)  # fmt: skip
BACKENDS = pytest.mark.parametrize("backend", ["torch", "mlx"])


@pytest.fixture
def arguments(tiny_qwen2: Path, tmp_path: Path) -> list[str]:
    """Return the command that every run here begins with; it goes on with its backend and name."""
    data = write_questions(tmp_path / "sums.jsonl")
    return ["finetune", "--model", str(tiny_qwen2), "--data", str(data), *OPTIONS]


def start(*command: object) -> subprocess.Popen[str]:
    # The same number of threads as the run that it is compared with: bits depend on it.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, *map(str, command)]
    return subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, text=True
    )


def die_at(point: int, note: Path, *arguments: object) -> dict[str, str]:
    """Run a command in a process of its own, which is killed at a point of its code; say where that was."""
    process = start("-m", "tests.killing", point, note, *arguments)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    return json.loads(note.read_text())


def whole_run(arguments: list[str]) -> tuple[RunFolder, Points]:
    """Train without interruption, counting the points at which it could be killed."""
    with Points() as points:
        result = toolkit(*arguments, "--name", "whole")
    assert result.exit_code == 0, result.stderr
    return find_run("whole"), points


@BACKENDS
def test_a_run_killed_at_a_random_point_resumes_to_the_bits_of_one_that_was_not(
    arguments: list[str], tmp_path: Path, backend: str
) -> None:
    arguments = [*arguments, "--backend", backend]
    whole, points = whole_run(arguments)
    draw = random.Random(f"{backend} 1")
    first_save = points.phases.index("pruning")
    place = die_at(draw.randrange(first_save, len(points.phases)), tmp_path / "note", *arguments, "--name", "killed")
    run = find_run("killed")
    assert run.status() == "killed"
    # Another process than the one that was killed, with other generators.
    result = toolkit("finetune", "--resume", "killed")
    assert result.exit_code == 0, (place, result.stderr)
    assert differences(whole, run) == [], place
    assert toolkit("checkpoint", "verify", "killed", "--strict").exit_code == 0


@pytest.mark.slow
@BACKENDS
@pytest.mark.parametrize("method", ["lora", "full"])
def test_runs_killed_at_three_random_points_one_after_the_other_end_with_the_same_bits(
    arguments: list[str], tmp_path: Path, backend: str, method: str
) -> None:
    """Killed, resumed, killed again …, each time in a new process."""
    arguments = [*arguments, "--backend", backend, "--method", method]
    whole, points = whole_run(arguments)
    draw = random.Random(f"{backend} {method}")
    command = [*arguments, "--name", "killed"]
    seen = []
    # In parts of all the calls that a run makes: the first kill comes after a checkpoint, the others soon enough that
    # something is left to do.
    for low, high in ((0.3, 0.45), (0.1, 0.3), (0.05, 0.25)):
        point = int(draw.uniform(low, high) * len(points.phases))
        seen.append(die_at(point, tmp_path / "note", *command))
        command = ["finetune", "--resume", "killed"]
    process = start("-m", "toolkit", *command)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert differences(whole, find_run("killed")) == [], seen


@pytest.mark.slow
@BACKENDS
def test_a_run_killed_from_outside_at_random_moments_ends_with_the_same_bits(
    arguments: list[str], tmp_path: Path, backend: str
) -> None:
    arguments = [*arguments, "--backend", backend]
    whole, _ = whole_run(arguments)
    draw = random.Random(20)
    process = start("-m", "toolkit", *arguments, "--name", "killed")
    metrics = runs_root() / "killed" / "metrics.jsonl"
    for step in sorted(draw.sample(range(3, STEPS), 2)):
        while process.poll() is None and not (metrics.is_file() and f'"step": {step},' in metrics.read_text()):
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.05))
        process.kill()
        process.communicate()
        process = start("-m", "toolkit", "finetune", "--resume", "killed")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert differences(whole, find_run("killed")) == []


def die_in(function: str, *arguments: object, module: object = record, before: bool = True, times: int = 1) -> None:
    """Run a command in a forked process that is killed when a function is called for the n-th time, or has returned."""
    child = os.fork()
    if child == 0:
        real: Callable[..., object] = getattr(module, function)
        calls = []

        def dying(*values: object, **named: object) -> object:
            calls.append(1)
            if before and len(calls) == times:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*values, **named)
            if len(calls) == times:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(module, function, dying)
        toolkit(*arguments)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_kill_in_the_middle_of_a_checkpoint_write_costs_only_the_steps_since_the_last_one(
    arguments: list[str],
) -> None:
    """It dies with the second checkpoint's files written but neither its sums nor its name."""
    import toolkit.checkpoints as checkpoints

    die_in("write_sums", *arguments, "--name", "killed", module=checkpoints, times=2)
    run = find_run("killed")
    assert run.status() == "killed"
    assert [path.name for path in list_checkpoints(run.checkpoints)] == ["step-000002"]
    assert verify_checkpoint(run.checkpoints / "step-000002") == []
    assert any(name.endswith(".partial") for name in os.listdir(run.checkpoints))
    resumed = toolkit("finetune", "--resume", "killed")
    assert resumed.exit_code == 0, resumed.stderr
    assert not any(name.endswith(".partial") for name in os.listdir(run.checkpoints))
    steps = [row["step"] for row in run.metrics() if "loss" in row]
    assert steps == list(range(1, STEPS + 1))
    assert run.status() == "finished"


def test_a_run_killed_between_its_result_and_the_manifest_still_gets_its_figures(arguments: list[str]) -> None:
    die_in("write_result", *arguments, "--name", "killed", before=False)
    run = find_run("killed")
    assert (run.status(), run.adapter.is_dir()) == ("killed", True)
    result = toolkit("finetune", "--resume", "killed")
    assert result.exit_code == 0, result.stderr
    assert run.status() == "finished" and run.manifest()["final"]["steps"] == STEPS
    again = toolkit("finetune", "--resume", "killed")
    assert again.exit_code == 2 and "this run has already done 8 steps of 8" in again.stderr


def test_what_a_kill_kept_from_being_pruned_is_pruned_on_resuming(arguments: list[str]) -> None:
    die_in("prune_checkpoints", *arguments, "--name", "killed", times=4)
    run = find_run("killed")
    assert [path.name for path in list_checkpoints(run.checkpoints)] == [f"step-{n:06d}" for n in (4, 6, 8)]
    assert toolkit("finetune", "--resume", "killed").exit_code == 0
    best = run.manifest()["result_step"]
    kept = {path.name for path in list_checkpoints(run.checkpoints)}
    assert kept == {f"step-{n:06d}" for n in {best, 6, 8}} and run.status() == "finished"


def test_a_run_killed_before_its_first_checkpoint_says_how_to_start_again(arguments: list[str]) -> None:
    die_in("save_checkpoint", *arguments, "--name", "killed")
    run = find_run("killed")
    result = toolkit("finetune", "--resume", "killed")
    assert result.exit_code == 2
    command = f"toolkit finetune --config {run.config_path} --name killed --overwrite"
    assert result.stderr == (f"error: {run.path}: this run has no checkpoint to go on from. Start again: {command}\n")
    assert toolkit(*command.split()[1:]).exit_code == 0
    assert run.status() == "finished"


def test_a_run_killed_before_it_had_a_config_can_be_begun_again_under_its_name(arguments: list[str]) -> None:
    die_in("save_config", *arguments, "--name", "killed")
    folder = runs_root() / "killed"
    (folder / ".config.yaml.123.partial").write_text("mod")  # as a kill within that write leaves it
    result = toolkit(*arguments, "--name", "killed")
    assert result.exit_code == 2
    assert result.stderr.endswith("a run of this name exists. Choose another name or replace it (--overwrite)\n")
    result = toolkit(*arguments, "--name", "killed", "--overwrite")
    assert result.exit_code == 0, result.stderr
    assert not list(folder.glob(".*.partial"))


def test_resuming_mends_torn_metrics_and_takes_away_half_written_files(arguments: list[str]) -> None:
    die_in("save_checkpoint", *arguments, "--name", "killed", times=2)
    run = find_run("killed")
    with run.metrics_path.open("a") as file:
        file.write('{"step": 4, "loss": 3.')
    for name in (".manifest.json.123.partial", ".adapter.123.partial/adapter_config.json"):
        (run.path / name).parent.mkdir(exist_ok=True)
        (run.path / name).write_text("{")
    assert toolkit("finetune", "--resume", "killed").exit_code == 0
    assert [row["step"] for row in run.metrics() if "loss" in row] == list(range(1, STEPS + 1))
    assert not list(run.path.rglob("*.partial"))


def test_a_run_that_trains_in_another_process_is_not_gone_on_with(arguments: list[str]) -> None:
    die_in("save_checkpoint", *arguments, "--name", "killed", times=2)
    run = find_run("killed")
    other = os.getppid()
    import psutil

    run.update_manifest({"process_id": other, "process_started": psutil.Process(other).create_time()})
    result = toolkit("finetune", "--resume", "killed")
    assert result.exit_code == 2
    assert f"{run.path}: this run is training, in process {other}. Wait for its end" in result.stderr
    run.update_manifest({"process_started": psutil.Process(other).create_time() - 9000.0})  # its number, given anew
    assert run.status() == "killed"


def test_a_killed_process_that_nobody_has_asked_after_does_not_count_as_training(arguments: list[str]) -> None:
    die_in("save_checkpoint", *arguments, "--name", "killed", times=2)
    run = find_run("killed")
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked how
    run.update_manifest({"process_id": child, "process_started": time.time()})
    assert run.status() == "killed"
    os.waitpid(child, 0)


def test_a_best_checkpoint_damaged_while_training_goes_on_costs_only_itself(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([5.0, 3.0, 3.5])  # before the first step, then after 4 and 8
    monkeypatch.setattr("toolkit.train.validation_loss", lambda scorer, batches: (next(losses), 1))
    real = record.save_checkpoint

    def damage(root: Path, step: int, *rest: object, **named: object) -> object:
        path = real(root, step, *rest, **named)  # type: ignore[arg-type]
        if step == 6:
            (root / "step-000004" / "state.json").write_text("{}")
        return path

    monkeypatch.setattr(record, "save_checkpoint", damage)
    result = toolkit(*arguments, "--name", "mine")
    assert result.exit_code == 0, result.stderr
    assert find_run("mine").manifest()["result_step"] == 8
    assert "warning: the checkpoint of the best step, 4, is lost or damaged: this is the last good" in result.stderr


def test_asked_to_stop_it_saves_and_asked_twice_it_stops_at_once(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = whole_run(arguments)
    asked = {3: [signal.SIGTERM], 5: [signal.SIGINT, signal.SIGINT]}  # after these steps
    real = running.train

    def interrupted(*values: object, **named: object):
        for event in real(*values, **named):  # type: ignore[arg-type]
            if type(event).__name__ == "StepEvent":
                for number in asked.pop(event.step, []):
                    os.kill(os.getpid(), number)
            yield event

    monkeypatch.setattr(running, "train", interrupted)
    result = toolkit(*arguments, "--name", "mine")
    run = find_run("mine")
    assert (result.exit_code, result.stdout, run.status()) == (130, "toolkit finetune --resume mine\n", "interrupted")
    stopped = run.manifest()["stopped_at_step"]
    assert (run.checkpoints / f"step-{stopped:06d}").is_dir() and stopped in (3, 4)
    result = toolkit("finetune", "--resume", "mine")
    assert result.exit_code == 130
    assert "aborted; step-000004 is saved, go on with: toolkit finetune --resume mine\n" in result.stderr
    assert run.status() == "interrupted"
    assert toolkit("finetune", "--resume", "mine").exit_code == 0
    # The step that was saved on request is one that the other run did not save, but only the newest two stay.
    assert differences(whole, run) == []
