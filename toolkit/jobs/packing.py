"""Packing is settled once the model is open: where packed sequences would see each other, rows go by length."""

from __future__ import annotations

from dataclasses import replace

from toolkit.config import FinetuneConfig, resolve_steps
from toolkit.errors import ToolkitError
from toolkit.jobs.job import Job
from toolkit.protocols import Trainer


def settle_packing(job: Job, trainer: Trainer, *, resumed: bool = False) -> Job:
    """Return the job as this trainer can run it: as it is, or with length buckets in place of packing.

    Raises:
        ToolkitError: a packed run is to go on where packing is not possible; other batches would not be the same run.
    """
    if not job.training.is_packed or trainer.keeps_sequences_apart():
        return job
    if resumed:
        raise ToolkitError(
            f"this run is packed, and {job.backend.name} cannot keep packed sequences apart in {job.facts.name}",
            where="data.packing",
            hint="Go on with the backend that it was begun on",
        )
    return _in_buckets(job)


def _in_buckets(job: Job) -> Job:
    if not isinstance(job.config, FinetuneConfig):
        raise TypeError("only fine-tuning packs")
    training = job.training.unpacked()
    train = {name: getattr(job.asked, name) for name in ("max_steps", "epochs", "eval_every", "save_every")}
    sections = {
        "data": job.config.data.model_copy(update={"packing": False}),
        "train": job.config.train.model_copy(update=train),
    }
    config = resolve_steps(job.config.model_copy(update=sections), training.updates_per_epoch)
    return replace(job, config=config, training=training)
