"""Drive the loop for a job, its records kept on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from toolkit.checkpoints import Checkpoint, newest_good_checkpoint, step_folder_name
from toolkit.config import FinetuneConfig
from toolkit.errors import ToolkitError
from toolkit.events import Event
from toolkit.guards import Diverged
from toolkit.jobs.adapter_start import start_from_adapter
from toolkit.jobs.job import Job
from toolkit.jobs.record import Record
from toolkit.protocols import Trainer
from toolkit.runs import RunFolder, now, runs_root
from toolkit.train import train


def open_trainer(
    job: Job, checkpoint: Checkpoint | None = None, report: Callable[[str], None] = lambda _: None
) -> Trainer:
    """Load the model for training, and the checkpoint into it, or else the adapter that the run begins from.

    report: told when the model has to be quantised first
    """
    start = job.start
    if checkpoint is None and start is None and isinstance(job.config, FinetuneConfig) and job.config.adapter:
        _, _, start = start_from_adapter(job.config)  # a resumed run that has to begin again
    spec = job.trainer_spec()
    job.backend.prepare_base(spec, report)
    trainer = job.backend.open_trainer(spec)
    if checkpoint is not None:
        trainer.restore(checkpoint.state)
    elif start is not None:
        start.load_into(trainer)
    return trainer


def run_job(
    job: Job,
    trainer: Trainer,
    run: RunFolder,
    *,
    checkpoint: Checkpoint | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Train into `run`, from the start or from `checkpoint`, and yield the loop's events as they come.

    The run's records are written before an event is yielded. Closing the iterator early leaves the run as a kill would.

    Raises:
        JobFailed: the job broke (a full disk, a lost gradient); the message names the last good checkpoint.
    """
    record = Record(job, run, trainer, job.backend.describe(job.config.train.device))
    start = record.begin(checkpoint)
    try:
        events = train(
            trainer,
            job.training,
            job.validation,
            job.config.train,
            total_steps=job.total_steps,
            start=start,
            save=record.save,
            roll_back=lambda step: record.roll_back(step, lambda: open_trainer(job)),
            should_stop=should_stop,
        )
        for event in events:
            record.note(event)
            yield event
    except GeneratorExit:
        raise
    except BaseException as error:
        # The records may be what failed (a full disk), and the first error is the one that counts.
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        with suppress(ToolkitError):
            run.update_manifest({"status": status, "finished": now(), "error": str(error) or type(error).__name__})
        if isinstance(error, ToolkitError):
            raise _with_last_good(error, job, run) from error
        raise
    finally:
        record.trainer.close()


def resume_command(kind: str, run: RunFolder, checkpoint: Path | None = None) -> str:
    """Return what to type to go on with a run (from one checkpoint, if given)."""
    if checkpoint is not None:
        return f"toolkit {kind} --resume {checkpoint}"
    in_root = run.path.resolve().parent == runs_root().resolve()
    return f"toolkit {kind} --resume {run.name if in_root else run.path}"


def _with_last_good(error: ToolkitError, job: Job, run: RunFolder) -> ToolkitError:
    good = newest_good_checkpoint(run.checkpoints)
    if isinstance(error, Diverged):  # Going on would end in the same place.
        again = f"toolkit {job.kind} --config {run.config_path} --set train.learning_rate={error.learning_rate:.2g}"
        sound = f". The last sound checkpoint is {step_folder_name(error.good_step)}" if error.good_step else ""
        advice = f"Start again, for example: {again}{sound}"
    elif good is None:
        advice = "No checkpoint had been written yet"
    else:
        advice = f"The last good checkpoint is {good.name}; go on with: {resume_command(job.kind, run)}"
    first = error.problems[0]
    hint = f"{first.hint}. {advice}" if first.hint else advice
    return type(error)(first.what, where=first.where, hint=hint)
