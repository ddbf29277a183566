"""SIGKILL at bad moments: at most the steps since the last checkpoint are lost, and the end is the same."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.small_runs import settings, toolkit, write_questions
from toolkit.checkpoints import list_checkpoints, verify_checkpoint
from toolkit.runs import RunFolder, find_run, runs_root

STEPS = 12
OPTIONS = settings(train__max_steps=STEPS, train__eval_every=4, train__batch_size=4, lora__dropout=0.1)
RUN = "from toolkit.cli import main; main()"
# Dies with the second checkpoint's files written but neither its sums nor its name.
DIE_IN_SECOND_WRITE = """
import os, signal
import toolkit.checkpoints as checkpoints
real = checkpoints.write_sums
def die(folder):
    if "step-000008" in folder.name:
        os.kill(os.getpid(), signal.SIGKILL)
    real(folder)
checkpoints.write_sums = die
"""


def start(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    # The same number of threads as the run that it is compared with: bits depend on it.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *(str(argument) for argument in arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()


def result(run: RunFolder) -> tuple[bytes, list[tuple[int, float]]]:
    rows = [(row["step"], row["loss"]) for row in run.metrics() if "loss" in row]
    return (run.adapter / "adapter_model.safetensors").read_bytes(), rows


def test_a_kill_in_the_middle_of_a_checkpoint_write_costs_only_the_steps_since_the_last_one(
    tiny_qwen2: Path, tmp_path: Path
) -> None:
    arguments = ("finetune", "--model", tiny_qwen2, "--data", write_questions(tmp_path / "sums.jsonl"), *OPTIONS)
    killed = start(DIE_IN_SECOND_WRITE + RUN, *arguments, "--name", "killed")
    _, errors = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, errors.decode()
    run = find_run("killed")
    assert run.status() == "killed"
    assert [path.name for path in list_checkpoints(run.checkpoints)] == ["step-000004"]
    assert verify_checkpoint(run.checkpoints / "step-000004") == []
    assert any(name.endswith(".partial") for name in os.listdir(run.checkpoints))
    resumed = toolkit("finetune", "--resume", "killed")
    assert resumed.exit_code == 0, resumed.stderr
    assert not any(name.endswith(".partial") for name in os.listdir(run.checkpoints))
    steps = [row["step"] for row in run.metrics() if "loss" in row]
    assert steps == list(range(1, STEPS + 1))
    assert run.status() == "finished"


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_the_bits_of_one_that_was_not(
    tiny_qwen2: Path, tmp_path: Path
) -> None:
    arguments = ("finetune", "--model", tiny_qwen2, "--data", write_questions(tmp_path / "sums.jsonl"), *OPTIONS)
    finish(start(RUN, *arguments, "--name", "whole"))
    draw = random.Random(20)
    process = start(RUN, *arguments, "--name", "killed")
    metrics = runs_root() / "killed" / "metrics.jsonl"
    for step in sorted(draw.sample(range(5, STEPS), 3)):
        while process.poll() is None and not (metrics.is_file() and f'"step": {step},' in metrics.read_text()):
            time.sleep(0.001)
        process.kill()
        process.communicate()
        process = start(RUN, "finetune", "--resume", "killed")
    finish(process)
    assert result(find_run("killed")) == result(find_run("whole"))
