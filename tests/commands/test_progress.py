from __future__ import annotations

import io
import os
import signal
import sys

import pytest

from toolkit.commands import progress
from toolkit.commands.progress import ProgressDisplay, memory, stop_on_signal
from toolkit.events import Best, EarlyStopEvent, EvaluationEvent, RollbackEvent, StepEvent
from toolkit.guards import GuardState, Trouble


def step(number: int, total: int = 100, skipped: int = 0) -> StepEvent:
    return StepEvent(
        step=number,
        total_steps=total,
        loss=1.25,
        learning_rate=2e-4,
        grad_norm=1.0,
        tokens=64,
        trained_tokens=32,
        tokens_per_second=1234.5,
        step_seconds=0.05,
        peak_memory_bytes=3 * 2**30,
        skipped=skipped,
    )


def test_off_a_terminal_there_is_a_plain_line_every_so_many_seconds_and_one_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with ProgressDisplay(100) as display:
        for number in range(1, 101):
            display.show(step(number))
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) < 20
    assert lines[0].startswith("step 1/100  loss 1.2500  lr 2.00e-04  1,234 tokens/s  3.0 GiB  0:")
    assert lines[-1].startswith("step 100/100") and lines[-1].endswith("0:00:00 left")


def test_evaluations_and_skipped_updates_are_always_said(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay(100) as display:
        display.show(EvaluationEvent(step=5, val_loss=0.5, val_tokens=9, seconds=1.0, is_best=True))
        display.show(step(6, skipped=2))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "step 5: validation loss 0.5000 (best so far), 1.0 s"
    assert lines[1] == "step 6: 2 update(s) skipped, loss or gradient was not finite"


def test_rollbacks_and_early_stops_are_said_and_the_time_left_counts_from_where_the_run_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    guards = GuardState(learning_rate_scale=0.25, rollbacks=2)
    with ProgressDisplay(100, start_step=50) as display:
        display.show(RollbackEvent(53, 40, Trouble("not finite", 52, 5), guards))
        display.last_line = -1e9
        display.show(step(50))
        display.show(EarlyStopEvent(60, 3, Best(45, 1.5)))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == (
        "loss or gradient was not finite 5 times on end (step 52): back to step 40, learning rate × 0.25 from now on, "
        "without the data of those 5 updates"
    )
    assert lines[1].startswith("step 50/100  loss 1.2500")
    assert lines[2] == "step 60: no better validation loss in 3 evaluations, best at step 45; done"


def test_on_a_terminal_a_bar_shows_step_loss_rate_speed_memory_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with ProgressDisplay(100) as display:
        display.show(step(42))
    shown = terminal.getvalue()
    for part in ("42/100", "loss 1.2500", "lr 2.00e-04", "1,234 tokens/s", "3.0 GiB", "left"):
        assert part in shown


def test_the_first_signal_asks_the_second_aborts_and_the_handlers_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), stop_on_signal() as should_stop:
        assert not should_stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert should_stop()
        os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert "once more: abort at once" in capsys.readouterr().err


def test_memory_is_written_for_people() -> None:
    assert (memory(5 * 2**20), memory(3 * 2**30)) == ("5 MiB", "3.0 GiB")
