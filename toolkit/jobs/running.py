"""Drive the loop for a job and keep its records: config, manifest, metrics, checkpoints, result."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from toolkit.checkpoints import (
    Checkpoint,
    clean_checkpoints,
    list_checkpoints,
    load_checkpoint,
    newest_good_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    step_folder_name,
)
from toolkit.config import FinetuneConfig
from toolkit.config_files import save_config
from toolkit.errors import ToolkitError
from toolkit.jobs.job import Job
from toolkit.jobs.results import write_result
from toolkit.protocols import BackendDescription, Trainer
from toolkit.runs import RunFolder, now, package_versions, runs_root
from toolkit.train import (
    Best,
    CheckpointEvent,
    CheckpointRequest,
    EvaluationEvent,
    Event,
    FinishedEvent,
    StepEvent,
    StoppedEvent,
    train,
)


def open_trainer(job: Job, checkpoint: Checkpoint | None = None) -> Trainer:
    """Load the model for training, and the checkpoint into it."""
    trainer = job.backend.open_trainer(job.trainer_spec())
    if checkpoint is not None:
        trainer.restore(checkpoint.state)
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
    record = _Record(job, run, job.backend.describe(job.config.train.device))
    record.begin(trainer, checkpoint)
    try:
        events = train(
            trainer,
            job.training,
            job.validation,
            job.config.train,
            total_steps=job.total_steps,
            start_update=checkpoint.step if checkpoint else 0,
            best=_best_of(checkpoint),
            save=lambda request: record.save(trainer, request),
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
        trainer.close()


def resume_command(kind: str, run: RunFolder, checkpoint: Path | None = None) -> str:
    """Return what to type to go on with a run (from one checkpoint, if given)."""
    if checkpoint is not None:
        return f"toolkit {kind} --resume {checkpoint}"
    in_root = run.path.resolve().parent == runs_root().resolve()
    return f"toolkit {kind} --resume {run.name if in_root else run.path}"


def _with_last_good(error: ToolkitError, job: Job, run: RunFolder) -> ToolkitError:
    good = newest_good_checkpoint(run.checkpoints)
    if good is None:
        advice = "No checkpoint had been written yet"
    else:
        advice = f"The last good checkpoint is {good.name}; go on with: {resume_command(job.kind, run)}"
    first = error.problems[0]
    hint = f"{first.hint}. {advice}" if first.hint else advice
    return type(error)(first.what, where=first.where, hint=hint)


def _best_of(checkpoint: Checkpoint | None) -> Best | None:
    best = checkpoint.notes.get("best") if checkpoint else None
    return Best(int(best["step"]), float(best["val_loss"])) if best else None


class _Record:
    """Keeps the run folder in step with the loop."""

    def __init__(self, job: Job, run: RunFolder, description: BackendDescription) -> None:
        self.job = job
        self.run = run
        self.description = description
        self.process = psutil.Process()
        self.disk_bytes = 0

    def begin(self, trainer: Trainer, checkpoint: Checkpoint | None) -> None:
        job, run = self.job, self.run
        if checkpoint is not None:
            clean_checkpoints(run.checkpoints, checkpoint.step)
            run.trim_metrics(checkpoint.step)
        save_config(job.config, run.config_path)
        trainable, total = trainer.parameter_counts()
        resumed = run.manifest().get("resumed", [])
        if checkpoint is not None:
            resumed = [*resumed, {"step": checkpoint.step, "time": now()}]
        entries = {
            "name": run.name,
            "kind": job.kind,
            "status": "running",
            "process_id": os.getpid(),
            "started": run.manifest().get("started") or now(),
            "resumed": resumed,
            "method": job.method,
            "model": job.facts.name if job.kind == "finetune" else None,
            "model_folder": str(job.facts.folder.resolve()),
            "model_sha256": job.facts.sha256(),
            "tokenizer_sha256": job.tokenizer.sha256,
            "parent_run": _parent_run(job.facts.folder),
            "data": self._data_name(),
            "data_files": {str(path): _file_sha256(path) for path in job.data_files},
            "data_figures": asdict(job.figures),
            "parameters": {"trainable": trainable, "total": total},
            "seed": job.config.train.seed,
            "total_steps": job.total_steps,
            "backend": {**asdict(self.description), "versions": dict(self.description.versions), "why": job.reason},
            "versions": package_versions(),
        }
        run.update_manifest(entries)

    def save(self, trainer: Trainer, request: CheckpointRequest) -> None:
        job, run = self.job, self.run
        spec = job.trainer_spec()
        notes = {
            "kind": job.kind,
            "method": job.method,
            "seed": job.config.train.seed,
            # Order, learning rate and dropout are pure functions of the update: this is the whole position in the data.
            "data_position": request.step,
            "epoch": request.step / job.training.updates_per_epoch,
            "total_steps": job.total_steps,
            "reason": request.reason,
            "val_loss": request.val_loss,
            "best": asdict(request.best) if request.best else None,
            "model_sha256": run.manifest().get("model_sha256"),
            "tokenizer_sha256": job.tokenizer.sha256,
            "data_sha256": job.figures.sha256,
            "backend": self.description.name,
            "device": self.description.device,
            "threads": self.description.threads,
            "blas": self.description.blas,
            "versions": dict(self.description.versions),
        }
        save_checkpoint(
            run.checkpoints, request.step, trainer.state(), notes, lora=spec.lora, base_model=job.base_model
        )
        best_step = request.best.step if request.best else None
        prune_checkpoints(run.checkpoints, job.config.train.keep_checkpoints, best_step)
        self.disk_bytes = sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())

    def note(self, event: Event) -> None:
        if isinstance(event, StepEvent):
            self._append(asdict(event))
        elif isinstance(event, EvaluationEvent):
            self._append({**asdict(event), "evaluation_seconds": event.seconds})
        elif isinstance(event, StoppedEvent):
            self.run.update_manifest({"status": "interrupted", "finished": now(), "stopped_at_step": event.step})
        elif isinstance(event, FinishedEvent):
            self._finish(event)
        elif not isinstance(event, CheckpointEvent):
            raise TypeError(f"unknown event {event!r}")

    def _append(self, figures: dict[str, Any]) -> None:
        figures.pop("total_steps", None)
        figures.pop("seconds", None)
        machine = {
            "rss_bytes": self.process.memory_info().rss,
            "cpu_percent": self.process.cpu_percent(),
            "disk_bytes": self.disk_bytes,
        }
        self.run.append_metrics({**figures, **machine, "time": now()})

    def _finish(self, event: FinishedEvent) -> None:
        run = self.run
        step = event.best.step if event.best else event.step
        path = run.checkpoints / step_folder_name(step)
        if not path.is_dir():  # The best one may have been lost to a resume from an older checkpoint.
            path = list_checkpoints(run.checkpoints)[-1]
        checkpoint = load_checkpoint(path)
        folder = write_result(self.job, run, checkpoint)
        run.update_manifest(
            {
                "status": "finished",
                "finished": now(),
                "result": folder.name,
                "result_step": checkpoint.step,
                "final": final_figures(run, event),
            }
        )

    def _data_name(self) -> str:
        config = self.job.config
        return config.data.path if isinstance(config, FinetuneConfig) else config.corpus


def final_figures(run: RunFolder, event: FinishedEvent) -> dict[str, Any]:
    """Sum a run's metrics up: losses before, best and last, tokens, speed, peak memory."""
    rows = run.metrics()
    losses = [row for row in rows if "loss" in row]
    evaluations = [row for row in rows if "val_loss" in row]
    tokens = sum(row["tokens"] for row in losses)
    seconds = sum(row["tokens"] / row["tokens_per_second"] for row in losses if row["tokens_per_second"])
    return {
        "steps": event.step,
        "loss": losses[-1]["loss"] if losses else None,
        "val_loss_before": evaluations[0]["val_loss"] if evaluations and evaluations[0]["step"] == 0 else None,
        "val_loss": evaluations[-1]["val_loss"] if evaluations else None,
        "best_val_loss": event.best.val_loss if event.best else None,
        "best_step": event.best.step if event.best else None,
        "tokens": tokens,
        "trained_tokens": sum(row["trained_tokens"] for row in losses),
        "skipped_updates": sum(row.get("skipped", 0) for row in losses),
        "training_seconds": round(seconds, 3),
        "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
        "peak_memory_bytes": max((row["peak_memory_bytes"] for row in losses), default=None),
    }


def _parent_run(model_folder: Path) -> str | None:
    parent = model_folder.resolve().parent
    return parent.name if (parent / "manifest.json").is_file() and model_folder.name == "model" else None


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
