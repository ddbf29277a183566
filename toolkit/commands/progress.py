"""Live progress on stderr: a bar on a terminal, now and then a plain line elsewhere; and Ctrl-C that stops politely."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType, TracebackType

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from toolkit.events import CheckpointEvent, EarlyStopEvent, EvaluationEvent, Event, RollbackEvent, StepEvent

PLAIN_LINE_SECONDS = 10.0


def say(text: str) -> None:
    """Print a line of progress."""
    click.echo(text, err=True)


def memory(size: int) -> str:
    """Write a number of bytes for a person."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


class ProgressDisplay:
    """Shows a loop's events. Use it as a context manager around `follow`."""

    def __init__(self, total_steps: int, start_step: int = 0) -> None:
        """Choose between the bar and plain lines by whether stderr is a terminal."""
        self.total_steps = total_steps
        self.start_step = start_step
        self.began = time.monotonic()
        self.last_line = -PLAIN_LINE_SECONDS
        self.bar: Progress | None = None
        self.task = TaskID(0)
        if sys.stderr.isatty():
            self.bar = Progress(
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TextColumn("left"),
                TimeRemainingColumn(compact=True),
                console=Console(stderr=True),
            )
            self.task = self.bar.add_task("train", total=total_steps, completed=start_step, figures="")

    def __enter__(self) -> ProgressDisplay:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def follow(self, events: Iterable[Event]) -> Iterator[Event]:
        """Show every event and hand it on."""
        for event in events:
            self.show(event)
            yield event

    def show(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, StepEvent):
            self._step(event)
        elif isinstance(event, EvaluationEvent):
            best = " (best so far)" if event.is_best else ""
            self._line(f"step {event.step}: validation loss {event.val_loss:.4f}{best}, {event.seconds:.1f} s")
        elif isinstance(event, CheckpointEvent) and event.request.reason in ("interrupted", "final"):
            self._line(f"step {event.step}: checkpoint saved")
        elif isinstance(event, RollbackEvent):
            guards, updates = event.guards, event.trouble.updates
            self._line(
                f"{event.trouble}: back to step {event.to_step}, learning rate × {guards.learning_rate_scale:g} from "
                f"now on, without the data of those {updates} updates"
            )
            self.start_step, self.began = event.to_step, time.monotonic()
            if self.bar:
                self.bar.update(self.task, completed=event.to_step)
        elif isinstance(event, EarlyStopEvent):
            best = f", best at step {event.best.step}" if event.best else ""
            self._line(f"step {event.step}: no better validation loss in {event.evaluations} evaluations{best}; done")

    def _step(self, event: StepEvent) -> None:
        figures = (
            f"loss {event.loss:.4f}  lr {event.learning_rate:.2e}  {event.tokens_per_second:,.0f} tokens/s  "
            f"{memory(event.peak_memory_bytes)}"
        )
        if event.skipped:
            self._line(f"step {event.step}: {event.skipped} update(s) skipped, loss or gradient was not finite")
        if self.bar:
            self.bar.update(self.task, completed=event.step, figures=figures)
            return
        now = time.monotonic()
        if now - self.last_line >= PLAIN_LINE_SECONDS or event.step == event.total_steps:
            self.last_line = now
            done = event.step - self.start_step
            left = (now - self.began) / done * (event.total_steps - event.step)
            say(f"step {event.step}/{event.total_steps}  {figures}  {timedelta(seconds=round(left))} left")

    def _line(self, text: str) -> None:
        if self.bar:
            self.bar.console.print(text, highlight=False, markup=False)
        else:
            say(text)


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a request to stop after this step; the second one aborts at once.

    Yields a function that says whether to stop.
    """
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        say("stopping after this step, then saving (once more: abort at once)")

    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handle) for number in signals}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
