"""What a run would do, in figures, without loading the weights: for `--dry-run`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from toolkit.config import FinetuneConfig
from toolkit.datasets.chat import trained_pieces
from toolkit.jobs.job import Job
from toolkit.jobs.quantised_base import frozen_bytes
from toolkit.memory_plan import training_bytes
from toolkit.models import ModelFacts
from toolkit.schedules import warmup_steps

_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Plan:
    """Figures of a run that has not begun.

    unpacked_padding_share: what packing saves: the padding that it would be without; None when not packed
    length_percentiles: tokens of the training examples at 50, 90 and 99 %, and of the longest
    memory_bytes:       a guess: weights, optimizer and activations of the longest micro-batch
    example:            the first training example as (text, is it trained) pieces
    """

    trainable: int
    total: int
    dtype: str
    device: str
    length_percentiles: tuple[int, int, int, int]
    padding_share: float
    unpacked_padding_share: float | None
    updates_per_epoch: int
    warmup_steps: int
    tokens: int
    memory_bytes: int
    example: tuple[tuple[str, bool], ...]


def make_plan(job: Job) -> Plan:
    """Work out the figures of a job."""
    train = job.config.train
    device = train.device if train.device != "auto" else job.backend.devices()[0]
    halved = device == "cuda" or (job.backend.name == "mlx" and device != "cpu")
    dtype = train.dtype if train.dtype != "auto" else ("bfloat16" if halved else "float32")
    first = job.train_examples[0]
    lengths = np.array([len(example.tokens) for example in job.train_examples])
    trainable = trainable_count(job)
    per_epoch = job.training.updates_per_epoch
    return Plan(
        trainable=trainable,
        total=job.facts.parameter_count + (trainable if job.method != "full" else 0),
        dtype=dtype,
        device=device,
        length_percentiles=_percentiles(lengths),
        padding_share=job.training.padding_share,
        unpacked_padding_share=job.training.unpacked().padding_share if job.training.is_packed else None,
        updates_per_epoch=per_epoch,
        warmup_steps=warmup_steps(job.total_steps, train),
        tokens=round(job.figures.tokens * job.total_steps / per_epoch),
        memory_bytes=_memory_bytes(job, trainable, dtype, job.training.longest_row),
        example=tuple(trained_pieces(first, job.tokenizer)),
    )


def trainable_count(job: Job) -> int:
    """Count the parameters that training changes: all, or r·(in + out), for DoRA + out, for each adapted layer."""
    if not isinstance(job.config, FinetuneConfig) or job.config.method == "full":
        return job.facts.parameter_count
    lora = job.config.lora
    return sum(
        lora.rank * sum(entry.shape) + (entry.shape[0] if lora.variant == "dora" else 0)
        for name, entry in job.facts.block_matrices.items()
        if lora.targets(name.removesuffix(".weight"))
    )


def _percentiles(lengths: np.ndarray) -> tuple[int, int, int, int]:
    middle, most, nearly_all = (int(value) for value in np.percentile(lengths, (50, 90, 99)))
    return middle, most, nearly_all, int(lengths.max())


def _memory_bytes(job: Job, trainable: int, dtype: str, longest: int) -> int:
    size = _BYTES[dtype]
    return training_bytes(
        moments=len(job.trainer_spec().optimizer.moments),
        frozen_bytes=frozen_bytes(job.config, job.facts, size, job.backend.name),
        trainable=trainable,
        positions=job.config.train.batch_size * longest,
        hidden_size=_number(job.facts, "hidden_size"),
        layers=_number(job.facts, "num_hidden_layers"),
        checkpointing=bool(job.config.train.gradient_checkpointing),
        checkpoint_layers=job.config.train.checkpoint_layers,
        activation_bytes=size,
    )


def _number(facts: ModelFacts, key: str) -> int:
    value = facts.config.get(key, 0)
    return value if isinstance(value, int) else 0
