"""What a backend must offer, and the values that cross the seam between the loop and a backend.

NumPy batches go in; floats and checkpoint-named tensors come out. Shapes: B rows, T positions, V vocabulary entries.

A position t of a row trains when `loss_weights[t] != 0` and `segment_ids[t] == segment_ids[t - 1]`: the weight belongs
to the token that is *predicted*, so position 0 never trains. Padding is a segment of its own (id 0) with weight 0; the
first real segment has id 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from toolkit.config import BaseConfig, LoraConfig, OptimizerName
from toolkit.tensor_files import StoredTensor

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Batch:
    """Rows of tokens, right-padded to a common length.

    tokens:       (B, T) int32
    loss_weights: (B, T) float32, the weight of predicting `tokens[:, t]` from what stands before it
    segment_ids:  (B, T) int32, 0 for padding, 1, 2, … for the sequences packed into a row
    positions:    (B, T) int32, restarting at 0 with every segment
    """

    tokens: NDArray[np.int32]
    loss_weights: NDArray[np.float32]
    segment_ids: NDArray[np.int32]
    positions: NDArray[np.int32]

    @property
    def trained_weight(self) -> float:
        """The sum of the weights that count (see the module docstring); a loss is divided by sums of these."""
        same = self.segment_ids[:, 1:] == self.segment_ids[:, :-1]
        return float((self.loss_weights[:, 1:] * same).sum(dtype=np.float64))

    @property
    def token_count(self) -> int:
        """Tokens that are not padding."""
        return int((self.segment_ids != 0).sum())


@dataclass(frozen=True)
class Sampling:
    """How to pick the next token. `temperature` 0 is greedy; `top_p` 1 and `top_k` 0 switch those filters off."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class GeneratedToken:
    """One streamed token of one prompt. The last item of a row has `token is None` and a `finish_reason`.

    A stop token ends its row and is not yielded as a token.
    """

    row: int
    token: int | None
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class StepFigures:
    """What one optimizer update did. `loss` is nats per unit of weight; `grad_norm` is measured before clipping."""

    loss: float
    weight_sum: float
    grad_norm: float


class StepResult(Protocol):
    """An update whose figures stay on the device until they are asked for (reading them forces a sync)."""

    def read(self) -> StepFigures:
        """Wait for the device and return the figures."""
        ...


@dataclass(frozen=True)
class TrainerState:
    """Everything a trainer needs to go on exactly: trainable weights and optimizer moments, by checkpoint name.

    weights: trainable tensors by Hugging Face / PEFT name
    moments: float32 tensors named `<weight name>.<moment>` (`OptimizerSpec.moments`), in the weights' orientation
    updates: optimizer updates applied so far (Adam's bias correction needs it)
    """

    weights: Mapping[str, StoredTensor]
    moments: Mapping[str, StoredTensor]
    updates: int


@dataclass(frozen=True)
class ScorerSpec:
    """Which weights to open. device: auto | cpu | cuda | mps; dtype: auto | float32 | bfloat16.

    base: open the folder's quantised copy of this layout (made and kept when it is not there); None: as the folder is
    """

    model_folder: Path
    adapter_folder: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    base: BaseConfig | None = None


@dataclass(frozen=True)
class OptimizerSpec:
    """AdamW with bias correction, or SGD; gradients are clipped first, norms and biases do not decay.

    Decay is decoupled in AdamW and added to the gradient in SGD, as in torch.optim. `momentum` is SGD's, without
    dampening and Nesterov's look-ahead; betas and epsilon are AdamW's.
    """

    name: OptimizerName = "adamw"
    momentum: float = 0.9
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0

    @property
    def moments(self) -> tuple[str, ...]:
        """What is kept for each weight, by its name on disk: `<weight name>.<moment>`."""
        if self.name == "adamw":
            return "exp_avg", "exp_avg_sq"
        return ("momentum",) if self.momentum > 0 else ()


@dataclass(frozen=True)
class TrainerSpec(ScorerSpec):
    """What to train on top of a `ScorerSpec`.

    lora:              None for full fine-tuning
    checkpoint_layers: with `gradient_checkpointing`, recompute every so many blocks (1: all)
    seed:              draws initial adapters
    """

    lora: LoraConfig | None = None
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    gradient_checkpointing: bool = False
    checkpoint_layers: int = 1
    seed: int = 0


@dataclass(frozen=True)
class BackendDescription:
    """What a run must record about where it ran. Bits depend on the thread count and the BLAS.

    memory_bytes: what the device offers of its own; None for a CPU
    """

    name: str
    device: str
    device_name: str
    threads: int
    blas: str
    versions: Mapping[str, str]
    memory_bytes: int | None = None


class Scorer(Protocol):
    """A model that can be asked; rows are right-padded, and sums are returned, never means of means."""

    def evaluate(self, batch: Batch) -> tuple[float, float]:
        """Return (sum of weighted NLL in nats, sum of weights) over the positions that train."""
        ...

    def token_logprobs(self, batch: Batch) -> NDArray[np.float32]:
        """Return (B, T) log-probabilities of `tokens[:, t]` given what precedes it; 0 where nothing precedes."""
        ...

    def logits(self, tokens: NDArray[np.int32]) -> Iterator[NDArray[np.float32]]:
        """Yield float32 chunks (B, t, V) that concatenate along axis 1 to (B, T, V)."""
        ...

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterator[GeneratedToken]:
        """Continue every prompt, batched, yielding tokens as they come."""
        ...

    def named_weights(self) -> Iterator[StoredTensor]:
        """Yield the model's tensors under their Hugging Face names, lazily, adapters not merged."""
        ...

    def close(self) -> None:
        """Release the device memory; the scorer is of no use afterwards."""
        ...


class Trainer(Scorer, Protocol):
    """A scorer that learns."""

    def train_step(
        self, micro_batches: Sequence[Batch], learning_rate: float, normaliser: float, seed: int
    ) -> StepResult:
        """Apply one optimizer update.

        The gradient is that of `sum over micro-batches of weighted NLL / normaliser`; `normaliser` is usually the sum
        of the micro-batches' `trained_weight`. Dropout in micro-batch i draws from (seed, i) alone.
        """
        ...

    def state(self) -> TrainerState:
        """Copy out what `restore` needs."""
        ...

    def restore(self, state: TrainerState) -> None:
        """Continue from a state taken by either backend. Raises ToolkitError when names or shapes differ."""
        ...

    def set_weights(self, weights: Mapping[str, StoredTensor]) -> None:
        """Overwrite trainable weights by name."""
        ...

    def adapters(self, enabled: bool) -> AbstractContextManager[None]:
        """Switch the adapters on or off within a `with` block."""
        ...

    def parameter_counts(self) -> tuple[int, int]:
        """Return (trainable, total) parameters."""
        ...

    def keeps_sequences_apart(self) -> bool:
        """Tell whether sequences packed into one row do not see each other (tried on the model itself)."""
        ...

    def peak_memory_bytes(self) -> int:
        """Peak device memory since the trainer was opened (the process's peak RSS on the CPU)."""
        ...


@runtime_checkable
class Backend(Protocol):
    """One framework on this machine."""

    name: str

    def devices(self) -> list[str]:
        """Usable devices, best first."""
        ...

    def describe(self, device: str) -> BackendDescription:
        """Report threads, BLAS, device name and versions for the manifest."""
        ...

    def resolve_base(self, base: BaseConfig, device: str) -> BaseConfig:
        """Fill the open choices for a full-precision model. Raises ToolkitError for a layout that cannot run here."""
        ...

    def prepare_base(self, spec: ScorerSpec, report: Callable[[str], None]) -> Path:
        """Return the folder that `open_scorer` and `open_trainer` load; quantise the model when that is still to do."""
        ...

    def open_scorer(self, spec: ScorerSpec) -> Scorer:
        """Load a model for inference."""
        ...

    def open_trainer(self, spec: TrainerSpec) -> Trainer:
        """Load a model for training."""
        ...
