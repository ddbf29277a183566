"""A job: everything that the loop needs, resolved and read, before anything is written."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from toolkit.config import FinetuneConfig, PretrainConfig, TrainConfig
from toolkit.datasets.batching import TrainingData
from toolkit.datasets.chat import TokenizedExample
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.errors import Problem
from toolkit.jobs.adapter_start import AdapterStart
from toolkit.models import ModelFacts
from toolkit.protocols import Backend, Batch, OptimizerSpec, TrainerSpec

Kind = Literal["finetune", "pretrain"]


@dataclass(frozen=True)
class DataFigures:
    """What the data came to: counts of examples (rows when pretraining) and of tokens in one epoch."""

    train_examples: int
    validation_examples: int
    truncated: int
    tokens: int
    trained_tokens: int
    sha256: str


@dataclass(frozen=True)
class Job:
    """A resolved request. `config` has no open defaults; `reason` says why this backend was chosen.

    asked:      the section `train` before its steps were counted
    data_label: short name for the run folder
    data_files: files that were read, for the manifest
    dropped:    one problem for each example that lost all its trained tokens to truncation
    start:      the adapter to go on from; None for a fresh one, and in a resumed run
    """

    config: FinetuneConfig | PretrainConfig
    asked: TrainConfig
    facts: ModelFacts
    tokenizer: Tokenizer
    training: TrainingData
    train_examples: Sequence[TokenizedExample]
    validation: Sequence[Batch]
    backend: Backend
    reason: str
    data_label: str
    data_files: tuple[Path, ...]
    figures: DataFigures
    dropped: tuple[Problem, ...] = ()
    start: AdapterStart | None = None

    @property
    def kind(self) -> Kind:
        """The command that runs it."""
        return "finetune" if isinstance(self.config, FinetuneConfig) else "pretrain"

    @property
    def method(self) -> str:
        """How weights change: lora | qlora | full."""
        return self.config.method if isinstance(self.config, FinetuneConfig) else "full"

    @property
    def total_steps(self) -> int:
        """Updates of the whole run."""
        if self.config.train.max_steps is None:
            raise ValueError("a job's config must be resolved")
        return self.config.train.max_steps

    @property
    def base_model(self) -> str:
        """Name of the base for an adapter's config: a hub name or `nano` as it is, a folder by its absolute path."""
        return str(self.facts.folder.resolve()) if Path(self.facts.name).is_dir() else self.facts.name

    def trainer_spec(self) -> TrainerSpec:
        """Say to a backend what to open."""
        train = self.config.train
        lora = base = None
        if isinstance(self.config, FinetuneConfig) and self.config.method != "full":
            lora = self.config.lora
            base = self.config.base if self.config.method == "qlora" else None
        return TrainerSpec(
            model_folder=self.facts.folder,
            device=train.device,
            dtype=train.dtype,
            base=base,
            lora=lora,
            optimizer=OptimizerSpec(
                name=train.optimizer,
                momentum=train.momentum,
                weight_decay=train.weight_decay,
                beta1=train.beta1,
                beta2=train.beta2,
                max_grad_norm=train.max_grad_norm,
            ),
            gradient_checkpointing=bool(train.gradient_checkpointing),
            checkpoint_layers=train.checkpoint_layers,
            seed=train.seed,
        )


def measure(train: Sequence[TokenizedExample], validation: Sequence[TokenizedExample], truncated: int) -> DataFigures:
    """Count examples and tokens, and hash what will be trained on (tokens and weights, in the order given)."""
    digest = hashlib.sha256()
    for example in train:
        digest.update(len(example.tokens).to_bytes(8, "little"))
        digest.update(example.tokens.tobytes())
        digest.update(example.loss_weights.tobytes())
    return DataFigures(
        train_examples=len(train),
        validation_examples=len(validation),
        truncated=truncated,
        tokens=sum(len(example.tokens) for example in train),
        trained_tokens=sum(example.trained_tokens for example in train),
        sha256=digest.hexdigest(),
    )


def batch_figures(job: Job) -> dict[str, bool | int | float]:
    """Say how an epoch is cut into batches, and how much of them is padding."""
    training = job.training
    return {
        "packed": training.is_packed,
        "rows_per_epoch": training.rows_per_epoch,
        "updates_per_epoch": training.updates_per_epoch,
        "padding_share": round(training.padding_share, 4),
    }
