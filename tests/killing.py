"""Kill a `toolkit` command with SIGKILL at any call that its code makes, and compare what a resumed run ends with.

A point is a number of calls into or out of the toolkit's own code since the run folder was made: the 5,000th is the
same place in every run of the same command. Nothing in the toolkit knows about this; the interpreter counts.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import toolkit
from toolkit.jobs.record import Record
from toolkit.runs import RunFolder

PACKAGE = str(Path(toolkit.__file__).resolve().parent)
# Whose call a point lies within, the innermost one counting; outside all of them it lies in the loop.
PHASES = {
    "begin": "beginning",
    "train_step": "in a step",
    "validation_loss": "evaluating",
    "save_checkpoint": "writing a checkpoint",
    "prune_checkpoints": "pruning",
    "_finish": "writing the result",
}
BETWEEN = "between micro-batches"
LOOP = "in the loop"


class Points:
    """Counts calls since the run began, by phase; at call number `kill_at` it notes where it is and kills."""

    def __init__(self, kill_at: int | None = None, note: Path | None = None) -> None:
        self.kill_at = kill_at
        self.note = note
        self.phases: list[str] = []  # the phase of every call
        self._inside: list[tuple[FrameType, str]] = []
        self._ours: dict[CodeType, bool] = {}

    def __enter__(self) -> Points:
        # Not before the run begins: importing the frameworks makes more calls than training here.
        begin = self._begin = Record.begin

        def counted(*arguments: Any, **named: Any) -> Any:
            sys.setprofile(self._seen)
            return begin(*arguments, **named)

        Record.begin = counted
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        Record.begin = self._begin

    def _seen(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        ours = self._ours.get(code)
        if ours is None:
            ours = self._ours[code] = os.path.realpath(code.co_filename).startswith(PACKAGE)
        if not ours:
            return
        if event == "call":
            if code.co_name in PHASES:
                self._inside.append((frame, PHASES[code.co_name]))
        elif event == "return":
            if self._inside and self._inside[-1][0] is frame:
                self._inside.pop()
            elif code.co_name == "backward_nll" and self._inside:  # the first micro-batch is done
                self._inside[-1] = (self._inside[-1][0], BETWEEN)
            return
        if event in ("call", "c_call"):
            self._count(frame)

    def _count(self, frame: FrameType) -> None:
        self.phases.append(self._inside[-1][1] if self._inside else LOOP)
        if len(self.phases) == self.kill_at:
            if self.note is not None:
                place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
                self.note.write_text(json.dumps({"phase": self.phases[-1], "place": place}))
            os.kill(os.getpid(), signal.SIGKILL)

    def numbers(self, phase: str) -> list[int]:
        """Return the numbers of the calls made in a phase, to draw a point from."""
        return [number for number, one in enumerate(self.phases, start=1) if one == phase]


def run_until(kill_at: int, note: Path, arguments: list[str]) -> None:
    """Run a command in this process and die at a point."""
    from toolkit.cli import main

    with Points(kill_at, note):
        main(arguments)


def differences(whole: RunFolder, other: RunFolder) -> list[str]:
    """Say in what a resumed run differs from one that was never interrupted; times and places may."""
    found = []
    files = [
        {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()} for run in (whole, other)
    ]
    found += [f"{name} is in one of the two only" for name in sorted(files[0] ^ files[1])]
    for name in sorted(files[0] & files[1]):
        if name in ("metrics.jsonl", "manifest.json"):
            continue
        if (whole.path / name).read_bytes() != (other.path / name).read_bytes():
            found.append(f"{name} has other bytes")
    kept = ("step", "loss", "val_loss", "learning_rate", "grad_norm", "tokens", "trained_tokens", "skipped")
    rows = [[{key: row.get(key) for key in kept} for row in run.metrics()] for run in (whole, other)]
    if rows[0] != rows[1]:
        found.append("metrics.jsonl has other figures")
    figures = [_figures(run) for run in (whole, other)]
    found += [
        f"manifest.json: {key} is {figures[1].get(key)}, not {value}"
        for key, value in figures[0].items()
        if figures[1].get(key) != value
    ]
    return found


def _figures(run: RunFolder) -> dict[str, Any]:
    manifest = run.manifest()
    final = {
        key: value for key, value in manifest.get("final", {}).items() if "second" not in key and "peak" not in key
    }
    return {**final, **{key: manifest.get(key) for key in ("status", "result", "result_step")}}


def summary(phases: list[str]) -> str:
    """Count phases for a person: `12 in a step, 3 pruning`."""
    return ", ".join(f"{count} {phase}" for phase, count in Counter(phases).most_common())


if __name__ == "__main__":  # python -m tests.killing POINT NOTE ARGUMENTS…: in a process of its own
    run_until(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
