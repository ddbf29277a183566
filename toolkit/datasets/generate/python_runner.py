"""Run small Python programs and say what became of each: many programs an interpreter, each in a process of its own.

The interpreter starts isolated (`-I -S -B`), with no environment, in an empty folder that is deleted afterwards and in
a process group of its own; the limits are those of `python_worker`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import JobFailed

WORKER = Path(__file__).with_name("python_worker.py")
CPU_SECONDS = 0.1
"""User CPU time of one program; the programs of the data take a hundredth of that, or never end."""
WALL_SECONDS = 30.0
MEMORY_BYTES = 256 * 2**20
OUTPUT_BYTES = 20_000


@dataclass(frozen=True)
class Outcome:
    """What a program printed, and what ended it: an exception's name, `time`, `memory`, `output`, or nothing."""

    printed: str
    error: str = ""


def run_programs(programs: Sequence[str], cpu_seconds: float = CPU_SECONDS) -> list[Outcome]:
    """Run programs one after the other and return an outcome for each.

    Args:
        programs: source texts of Python.
        cpu_seconds: the CPU time of each.

    Raises:
        JobFailed: the interpreter did not start or did not answer, or a program waited `WALL_SECONDS` without using its
            CPU time: no outcome of that would be the same on another machine.
    """
    request = {
        "programs": list(programs),
        "cpu_seconds": cpu_seconds,
        "wall_seconds": WALL_SECONDS,
        "memory_bytes": MEMORY_BYTES,
        "output_bytes": OUTPUT_BYTES,
    }
    with tempfile.TemporaryDirectory(prefix="toolkit-python-") as folder:
        answer = _answer_of_worker(json.dumps(request), folder, WALL_SECONDS * (1 + len(programs)))
    outcomes = [Outcome(one["printed"], one["error"]) for one in answer]
    if len(outcomes) != len(programs) or any(outcome.error == "wall" for outcome in outcomes):
        raise JobFailed(
            "a Python program waited too long for the processor", hint="Try again when less else is running"
        )
    return outcomes


def _answer_of_worker(request: str, folder: str, seconds: float) -> list[dict[str, str]]:
    command = [sys.executable, "-I", "-S", "-B", str(WORKER)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={},
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )
    try:
        answer, complaint = process.communicate(request, timeout=seconds)
    except subprocess.TimeoutExpired:
        answer, complaint = "", f"no answer after {seconds:g} s"
    finally:
        _end_group(process)
    if process.returncode:
        last = complaint.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        raise JobFailed(f"Python programs could not be run: {last[0]}", where=sys.executable)
    return json.loads(answer)


def _end_group(process: subprocess.Popen[str]) -> None:
    """Kill the worker's process group, by its own id, and reap the worker."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # ended already (macOS says EPERM for a group of zombies)
        pass
    process.wait()
