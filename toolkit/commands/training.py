"""What `finetune` and `pretrain` share: follow a run to its end, and say what to type next."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click

from toolkit.checkpoints import Checkpoint, list_checkpoints
from toolkit.commands.progress import ProgressDisplay, say, stop_on_signal
from toolkit.datasets.problems import condense
from toolkit.events import StoppedEvent
from toolkit.jobs.job import Job
from toolkit.jobs.packing import settle_packing
from toolkit.jobs.resume import exactness_warnings
from toolkit.jobs.running import open_trainer, resume_command, run_job
from toolkit.protocols import Trainer
from toolkit.runs import RunFolder

INTERRUPTED = 130


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `stopped_at` is the step of an interruption, None when it finished."""

    run: RunFolder
    stopped_at: int | None


def announce(job: Job, checkpoint: Checkpoint | None = None) -> None:
    """Say on stderr what is about to happen, and what to know before."""
    figures = job.figures
    say(f"backend: {job.reason}")
    if job.start is not None:
        say(f"adapter: goes on from {job.start.adapter.folder}")
    say(
        f"data: {figures.train_examples:,} to train on, {figures.validation_examples:,} to validate on, "
        f"{figures.tokens:,} tokens an epoch ({figures.trained_tokens:,} trained)"
    )
    say(f"batches: {_batches(job)}")
    if figures.truncated:
        say(f"warning: {figures.truncated} examples are longer than data.max_seq_tokens and were truncated")
    for problem in condense(job.dropped):
        say(f"warning: left out: {problem}")
    if checkpoint is not None:
        changes = exactness_warnings(job, checkpoint)
        if changes:
            say(f"warning: going on, but not bit for bit: {'; '.join(changes)}")


def _batches(job: Job) -> str:
    training, order = job.training, "packed" if job.training.is_packed else "by length"
    return f"{training.updates_per_epoch:,} updates an epoch, {order}, {training.padding_share:.1%} padding"


def load_trainer(job: Job, checkpoint: Checkpoint | None = None) -> tuple[Job, Trainer]:
    """Load the model, say how much of it learns, and return the job as this trainer can run it."""
    trainer = open_trainer(job, checkpoint, say)
    settled = settle_packing(job, trainer, resumed=checkpoint is not None)
    if settled is not job:
        say(f"warning: {job.backend.name} cannot keep packed sequences apart in this architecture; batches instead:")
        say(f"batches: {_batches(settled)}")
    trainable, total = trainer.parameter_counts()
    say(f"model: {job.facts.name}, {trainable:,} of {total:,} parameters learn ({job.method})")
    return settled, trainer


def follow_run(job: Job, trainer: Trainer, run: RunFolder, checkpoint: Checkpoint | None = None) -> Outcome:
    """Run a job under a progress display; the first Ctrl-C ends it with a checkpoint."""
    start = checkpoint.step if checkpoint else 0
    say(f"run: {run.path}" + (f", from step {start}" if start else ""))
    stopped_at = None
    try:
        with stop_on_signal() as should_stop, ProgressDisplay(job.total_steps, start) as display:
            for event in display.follow(run_job(job, trainer, run, checkpoint=checkpoint, should_stop=should_stop)):
                if isinstance(event, StoppedEvent):
                    stopped_at = event.step
    except KeyboardInterrupt:
        saved = list_checkpoints(run.checkpoints)
        if saved:
            say(f"aborted; {saved[-1].name} is saved, go on with: {resume_command(job.kind, run)}")
        raise
    return Outcome(run, stopped_at)


def exit_if_stopped(outcome: Outcome, kind: str) -> None:
    """After an interruption, print how to go on and exit with 130."""
    if outcome.stopped_at is None:
        return
    say(f"stopped at step {outcome.stopped_at}; go on with:")
    click.echo(resume_command(kind, outcome.run))
    sys.exit(INTERRUPTED)


def show_result(run: RunFolder, next_commands: Sequence[str]) -> None:
    """Print the final figures and what to type next."""
    manifest = run.manifest()
    final = manifest["final"]
    click.echo(f"{run.path}: {manifest['result']}/ from step {manifest['result_step']} of {final['steps']}")
    if final["best_step"] not in (None, manifest["result_step"]):
        say(
            f"warning: the checkpoint of the best step, {final['best_step']}, is lost or damaged: this is the last good"
        )
    if final["best_val_loss"] is not None:
        before = final["val_loss_before"]
        origin = f" (before: {before:.4f})" if before is not None else ""
        click.echo(f"validation loss {final['best_val_loss']:.4f}{origin}")
    if final["tokens_per_second"]:
        click.echo(f"{final['tokens']:,} tokens in {final['training_seconds']:,.0f} s")
    click.echo("next:")
    for command in next_commands:
        click.echo(f"  {command}")
