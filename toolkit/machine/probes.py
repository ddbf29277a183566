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

PACKAGE_PARENT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Answer:
    """What a probe came back with: `found`, or `fault`, one line that says why there is nothing.

    missing: the package that Python did not find, if that is the fault
    """

    found: dict[str, Any] = field(default_factory=dict)
    fault: str = ""
    missing: str = ""


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
            _kill(process)
            return Answer(fault=f"gave no answer within {seconds:g} s")
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
