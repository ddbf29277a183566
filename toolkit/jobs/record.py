"""Keep a run's records in step with the loop: config, manifest, metrics, checkpoints, result."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil

from toolkit.atomic_files import remove_partials
from toolkit.checkpoints import (
    Checkpoint,
    checkpoint_step,
    clean_checkpoints,
    list_checkpoints,
    load_checkpoint,
    load_notes,
    newest_good_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    step_folder_name,
)
from toolkit.config import FinetuneConfig
from toolkit.config_files import save_config
from toolkit.errors import ToolkitError
from toolkit.events import (
    Best,
    CheckpointEvent,
    CheckpointRequest,
    EarlyStopEvent,
    EvaluationEvent,
    Event,
    FinishedEvent,
    Position,
    RollbackEvent,
    StepEvent,
    StoppedEvent,
)
from toolkit.guards import GuardState, data_position
from toolkit.jobs.job import Job, batch_figures
from toolkit.jobs.results import write_result
from toolkit.protocols import BackendDescription, Trainer
from toolkit.runs import RunFolder, now, package_versions, process_started


class Record:
    """Keeps the run folder in step with the loop."""

    def __init__(self, job: Job, run: RunFolder, trainer: Trainer, description: BackendDescription) -> None:
        """Set up; nothing is written yet. A rollback can replace `trainer`."""
        self.job = job
        self.run = run
        self.trainer = trainer
        self.description = description
        self.process = psutil.Process()
        self.disk_bytes = 0

    def begin(self, checkpoint: Checkpoint | None) -> Position:
        """Write config and manifest, drop what a killed run left beyond its checkpoint, return where to start."""
        job, run = self.job, self.run
        start = Position() if checkpoint is None else _resumed_position(run, checkpoint)
        if checkpoint is not None:
            remove_partials(run.path)
            clean_checkpoints(run.checkpoints, checkpoint.step)
            self._prune(start)  # What a kill after the last save may have kept from being done.
            run.trim_metrics(checkpoint.step, start.guards.rollbacks)
        save_config(job.config, run.config_path)
        trainable, total = self.trainer.parameter_counts()
        resumed = run.manifest().get("resumed", [])
        if checkpoint is not None:
            resumed = [*resumed, {"step": checkpoint.step, "time": now()}]
        entries = {
            "name": run.name,
            "kind": job.kind,
            "status": "running",
            "process_id": os.getpid(),
            "process_started": process_started(),
            "started": run.manifest().get("started") or now(),
            "resumed": resumed,
            "method": job.method,
            "model": job.facts.name if job.kind == "finetune" else None,
            "model_folder": str(job.facts.folder.resolve()),
            "model_sha256": job.facts.sha256(),
            "tokenizer_sha256": job.tokenizer.sha256,
            **self._lineage(),
            "data": self._data_name(),
            "data_files": {str(path): _file_sha256(path) for path in job.data_files},
            "data_figures": asdict(job.figures),
            "batches": batch_figures(job),
            "parameters": {"trainable": trainable, "total": total},
            "seed": job.config.train.seed,
            "total_steps": job.total_steps,
            "backend": {**asdict(self.description), "versions": dict(self.description.versions), "why": job.reason},
            "versions": package_versions(),
            "rolled_back_to": {"step": start.step, "guards": asdict(start.guards)} if start.guards.rollbacks else None,
        }
        run.update_manifest(entries)
        return start

    def _lineage(self) -> dict[str, Any]:
        """Say which run and which adapter this one goes on from; a resumed run has said so."""
        held, start = self.run.manifest(), self.job.start
        if start is not None:
            return {"parent_run": start.run.name if start.run else None, "adapter": start.lineage()}
        adapter = held.get("adapter")
        parent = held.get("parent_run") if adapter else _parent_run(self.job.facts.folder)
        return {"parent_run": parent, "adapter": adapter}

    def save(self, request: CheckpointRequest) -> None:
        """Write a checkpoint and delete those that nothing needs any more."""
        job, run = self.job, self.run
        spec = job.trainer_spec()
        notes = {
            "kind": job.kind,
            "method": job.method,
            "moments": list(spec.optimizer.moments),
            "seed": job.config.train.seed,
            # Order, learning rate and dropout are pure functions of the update and of what the guards remember.
            "data_position": data_position(request.step + 1, request.guards.left_out),
            "epoch": request.step / job.training.updates_per_epoch,
            "total_steps": job.total_steps,
            "reason": request.reason,
            "val_loss": request.val_loss,
            "best": asdict(request.best) if request.best else None,
            "guards": asdict(request.guards),
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
            run.checkpoints, request.step, self.trainer.state(), notes, lora=spec.lora, base_model=job.base_model
        )
        self._prune(request)
        self.disk_bytes = sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())

    def _prune(self, at: Position | CheckpointRequest) -> None:
        """Keep the newest checkpoints, the best, and the one that a rollback would go to with its own best."""
        needed = {at.best.step} if at.best else set()
        good = self.run.checkpoints / step_folder_name(at.guards.good_step)
        if at.guards.good_step != at.step and good.is_dir():
            best = _position(load_notes(good)).best
            needed |= {at.guards.good_step} | ({best.step} if best else set())
        prune_checkpoints(self.run.checkpoints, self.job.config.train.keep_checkpoints, needed)

    def roll_back(self, step: int, reopen: Callable[[], Trainer]) -> tuple[Trainer, Position]:
        """Restore the newest good checkpoint up to `step` (0: a new trainer) and delete those after it."""
        saved = list_checkpoints(self.run.checkpoints)
        # Where someone has pruned all up to `step`, a later one is nearer to it than a new start.
        candidates = [path for path in saved if checkpoint_step(path) <= step] or (saved if step else [])
        checkpoint = None
        for path in reversed(candidates):
            with suppress(ToolkitError):  # A corrupted one: the one before it will do.
                checkpoint = load_checkpoint(path)
                break
        if checkpoint is None:
            self.trainer.close()
            self.trainer = reopen()
        else:
            self.trainer.restore(checkpoint.state)
        clean_checkpoints(self.run.checkpoints, checkpoint.step if checkpoint else 0)
        return self.trainer, _position(checkpoint.notes) if checkpoint else Position()

    def note(self, event: Event) -> None:
        """Write down what has happened, before it is reported."""
        if isinstance(event, StepEvent):
            self._append(asdict(event))
        elif isinstance(event, EvaluationEvent):
            self._append({**asdict(event), "evaluation_seconds": event.seconds})
        elif isinstance(event, RollbackEvent):
            self._note_rollback(event)
        elif isinstance(event, EarlyStopEvent):
            self.run.update_manifest({"stopped_early": {"step": event.step, "evaluations": event.evaluations}})
        elif isinstance(event, StoppedEvent):
            self.run.update_manifest({"status": "interrupted", "finished": now(), "stopped_at_step": event.step})
        elif isinstance(event, FinishedEvent):
            self._finish(event)
        elif not isinstance(event, CheckpointEvent):
            raise TypeError(f"unknown event {event!r}")

    def _append(self, figures: dict[str, Any]) -> None:
        figures = {key: None if _is_nan(value) else value for key, value in figures.items()}  # JSON has no NaN.
        figures.pop("total_steps", None)
        figures.pop("seconds", None)
        machine = {
            "rss_bytes": self.process.memory_info().rss,
            "cpu_percent": self.process.cpu_percent(),
            "disk_bytes": self.disk_bytes,
        }
        self.run.append_metrics({**figures, **machine, "time": now()})

    def _note_rollback(self, event: RollbackEvent) -> None:
        guards = event.guards
        self.run.mark_rolled_back(
            event.to_step,
            {
                "event": "rollback",
                "step": event.step,
                "to_step": event.to_step,
                "why": str(event.trouble),
                "learning_rate_scale": guards.learning_rate_scale,
                "left_out": list(guards.left_out),
                "rolled_back": guards.rollbacks,
                "time": now(),
            },
        )
        self.run.update_manifest({"rolled_back_to": {"step": event.to_step, "guards": asdict(guards)}})

    def _finish(self, event: FinishedEvent) -> None:
        run = self.run
        step = event.best.step if event.best else event.step
        checkpoint = _load_or_newest_good(run, step)
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


def _position(notes: Mapping[str, Any]) -> Position:
    """Read from a checkpoint's notes where the run stood."""
    step, best = int(notes["update"]), notes.get("best")
    guards = _guards(notes["guards"]) if "guards" in notes else GuardState(good_step=step)
    return Position(step, Best(int(best["step"]), float(best["val_loss"])) if best else None, guards)


def _resumed_position(run: RunFolder, checkpoint: Checkpoint) -> Position:
    """Read where the run stands; a rollback to this very checkpoint is known to the manifest only."""
    position = _position(checkpoint.notes)
    rollback = run.manifest().get("rolled_back_to")
    if rollback and rollback["step"] == position.step:
        later = _guards(rollback["guards"])
        if later.rollbacks > position.guards.rollbacks:
            return replace(position, guards=later)
    return position


def _guards(saved: Mapping[str, Any]) -> GuardState:
    return GuardState(**{**saved, "left_out": tuple(saved["left_out"]), "losses": tuple(saved["losses"])})


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _load_or_newest_good(run: RunFolder, step: int) -> Checkpoint:
    """Load the checkpoint of `step`. Lost to a resume from an older one, or damaged since: the newest good one."""
    try:
        return load_checkpoint(run.checkpoints / step_folder_name(step))
    except ToolkitError:
        good = newest_good_checkpoint(run.checkpoints)
        if good is None:
            raise
        return load_checkpoint(good)


def final_figures(run: RunFolder, event: FinishedEvent) -> dict[str, Any]:
    """Sum a run's metrics up: losses before, best and last, tokens, speed, peak memory.

    What was spent (tokens, time, skipped updates) includes the steps that a rollback took back; losses do not.
    """
    rows, work = run.metrics(), [row for row in run.metrics(rolled_back=True) if "loss" in row]
    losses = [row for row in rows if "loss" in row]
    evaluations = [row for row in rows if "val_loss" in row]
    tokens = sum(row["tokens"] for row in work)
    seconds = sum(row["tokens"] / row["tokens_per_second"] for row in work if row["tokens_per_second"])
    return {
        "steps": event.step,
        "loss": losses[-1]["loss"] if losses else None,
        "val_loss_before": evaluations[0]["val_loss"] if evaluations and evaluations[0]["step"] == 0 else None,
        "val_loss": evaluations[-1]["val_loss"] if evaluations else None,
        "best_val_loss": event.best.val_loss if event.best else None,
        "best_step": event.best.step if event.best else None,
        "tokens": tokens,
        "trained_tokens": sum(row["trained_tokens"] for row in work),
        "skipped_updates": sum(row.get("skipped", 0) for row in work),
        "rollbacks": len(rollbacks(run)),
        "training_seconds": round(seconds, 3),
        "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
        "peak_memory_bytes": max((row["peak_memory_bytes"] for row in work), default=None),
    }


def rollbacks(run: RunFolder) -> list[dict[str, Any]]:
    """Return what is noted of every rollback: from which step to which, why, and the learning rate's scale since."""
    return [row for row in run.metrics(rolled_back=True) if row.get("event") == "rollback"]


def _parent_run(model_folder: Path) -> str | None:
    parent = model_folder.resolve().parent
    return parent.name if (parent / "manifest.json").is_file() and model_folder.name == "model" else None


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
