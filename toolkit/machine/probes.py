"""Starts the probes side by side, each in a process of its own, so that nothing that breaks takes the doctor along."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

LOOKS, SECONDS_BETWEEN_LOOKS = 10, 0.03
PACKAGE_PARENT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Answer:
    """What a probe came back with: `found`, or `fault`, one line that says why there is nothing.

    missing: the package that Python did not find, if that is the fault
    is_late: the time was up while the probe was still at work, so nothing is known
    """

    found: dict[str, Any] = field(default_factory=dict)
    fault: str = ""
    missing: str = ""
    is_late: bool = False


def run_probes(names: Sequence[str], seconds: float) -> dict[str, Answer]:
    """Run probes at the same time and return an answer for each, within `seconds` in all."""
    deadline = time.monotonic() + seconds
    running = {name: _start(name) for name in names}
    return {name: _collect(process, output, deadline, seconds) for name, (process, output) in running.items()}


def _start(name: str) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    # Files, not pipes: a process that is killed may leave children behind that hold a pipe open.
    output = tempfile.TemporaryFile()
    path = os.pathsep.join(part for part in (os.environ.get("PYTHONPATH"), str(PACKAGE_PARENT)) if part)
    command = [sys.executable, "-P", "-m", "toolkit.machine.probe", name]
    environment = {**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryFile() as unread:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=unread, env=environment, start_new_session=True
        )
    return process, output


def _collect(process: subprocess.Popen[bytes], output: IO[bytes], deadline: float, seconds: float) -> Answer:
    with output:
        try:
            code = process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            is_late = _is_working(process.pid)
            _kill(process)
            does = "is still loading" if is_late else "hangs: no answer"
            return Answer(fault=f"{does} after {seconds:g} s", is_late=is_late)
        if code < 0:
            return Answer(fault=f"crashed while it was loaded ({_signal_name(-code)})")
        output.seek(0)
        lines = output.read().decode("utf-8", "replace").strip().splitlines()
    try:
        found = json.loads(lines[-1])
    except (IndexError, ValueError):
        return Answer(fault=f"ended while it was loaded, with exit code {code}")
    if "error" not in found:
        return Answer(found)
    fault = " ".join(f"{found['kind']}: {found['error']}".split())
    return Answer(fault=fault, missing=found["missing"])


def _is_working(pid: int) -> bool:
    """Say whether a process computes or waits for a disk, looking several times; one that sleeps all the time hangs."""
    try:
        import psutil

        probe = psutil.Process(pid)
        for _ in range(LOOKS):
            if probe.status() in (psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP):
                return True
            time.sleep(SECONDS_BETWEEN_LOOKS)
    except Exception:  # psutil is missing or broken, or the process has just ended: nothing speaks for a hang
        return True
    return False


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)  # its own group: start_new_session
    except ProcessLookupError:
        pass
    process.wait()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
