"""The MLX backend: opens models for scoring and for training behind the protocols of `toolkit.protocols`."""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from toolkit.config import BaseConfig
from toolkit.errors import ToolkitError
from toolkit.initial_values import derive_seed
from toolkit.mlx_backend import adapters, losses, packing
from toolkit.mlx_backend.checkpointing import checkpoint_blocks
from toolkit.mlx_backend.devices import (
    choose_device,
    choose_dtype,
    device_label,
    device_memory_bytes,
    device_name,
    devices,
    memory_errors,
    use_device,
    versions,
)
from toolkit.mlx_backend.generate import generate
from toolkit.mlx_backend.loading import blas_name, blas_threads
from toolkit.mlx_backend.model import (
    Parameter,
    SplitModel,
    load_model,
    named_parameters,
    named_weights,
    parameter_count,
    stored,
)
from toolkit.mlx_backend.optimizers import Optimizer, fill
from toolkit.mlx_backend.quantised import base_folder, refuse_full_training, resolve_base
from toolkit.protocols import (
    BackendDescription,
    Batch,
    GeneratedToken,
    Sampling,
    ScorerSpec,
    StepFigures,
    TrainerSpec,
    TrainerState,
)
from toolkit.tensor_files import FolderTensors, StoredTensor

_TRAINING_MEMORY_HINT = (
    "lower train.batch_size (raise train.accumulation to keep the update as large), lower data.max_seq_tokens, "
    "or set train.gradient_checkpointing=true"
)
_SCORING_MEMORY_HINT = "choose a smaller model, dtype bfloat16, or shorter inputs (data.max_seq_tokens)"


class MlxBackend:
    """MLX on Apple silicon, or on the CPU (and CUDA) of a Linux machine."""

    name = "mlx"

    def devices(self) -> list[str]:
        """Usable devices, best first."""
        return devices()

    def describe(self, device: str) -> BackendDescription:
        """Report threads, BLAS, device name and versions for the manifest."""
        chosen = choose_device(device)
        return BackendDescription(
            name=self.name,
            device=device_label(chosen),
            device_name=device_name(chosen),
            threads=blas_threads(),
            blas=blas_name(),
            versions=versions("mlx", "mlx-lm", "safetensors", "numpy"),
            memory_bytes=device_memory_bytes(chosen),
        )

    def resolve_base(self, base: BaseConfig, device: str) -> BaseConfig:
        """Fill the open choices for a full-precision model. Raises ToolkitError for a layout that cannot run here."""
        return resolve_base(base, choose_device(device))

    def prepare_base(self, spec: ScorerSpec, report: Callable[[str], None]) -> Path:
        """Return the folder that is loaded for `spec`; quantise the model when that is still to do.

        Raises:
            ToolkitError: the layout cannot run here, or does not fit the model.
            JobFailed: the disk is full.
        """
        return base_folder(spec, choose_device(spec.device), report)

    def open_scorer(self, spec: ScorerSpec) -> MlxScorer:
        """Load a model (and its adapter) for inference.

        Raises:
            ToolkitError: the model, the adapter or the device is not usable.
            JobFailed: out of memory.
        """
        device = choose_device(spec.device)
        dtype = choose_dtype(spec.dtype, device)
        with memory_errors(device, _SCORING_MEMORY_HINT):
            base = load_model(base_folder(spec, device, _silent), dtype, device)
            adapted = None
            if spec.adapter_folder is not None:
                adapted = adapters.load_adapters(base, spec.adapter_folder, trainable=False)
            return MlxScorer(base, adapted, dtype)

    def open_trainer(self, spec: TrainerSpec) -> MlxTrainer:
        """Load a model for training: every weight in float32, or LoRA (new, or continued from `spec.adapter_folder`).

        Raises:
            ToolkitError: the model, the adapter or the device is not usable.
            JobFailed: out of memory.
        """
        device = choose_device(spec.device)
        dtype = choose_dtype(spec.dtype, device)
        full = spec.lora is None
        if device.type == mx.DeviceType.gpu:
            mx.reset_peak_memory()
        with memory_errors(device, _TRAINING_MEMORY_HINT):
            base = load_model(base_folder(spec, device, _silent), mx.float32 if full else dtype, device)
            if full:
                refuse_full_training(base, spec.model_folder)
            adapted = None
            if spec.lora is not None and spec.adapter_folder is not None:
                adapted = adapters.load_adapters(base, spec.adapter_folder, trainable=True)
            elif spec.lora is not None:
                adapted = adapters.insert_adapters(base, spec.lora, spec.seed)
            trainer = MlxTrainer(base, adapted, dtype, spec)
            if spec.gradient_checkpointing:
                checkpoint_blocks(base, spec.checkpoint_layers)
            return trainer


def _silent(_: str) -> None:
    """Tell nobody: who wants to know calls `prepare_base` first."""


class MlxScorer:
    """A model that can be asked. Open it through `MlxBackend.open_scorer`."""

    _memory_hint = _SCORING_MEMORY_HINT

    def __init__(self, base: nn.Module, adapted: adapters.AdaptedModel | None, dtype: mx.Dtype) -> None:
        """Wrap a loaded causal LM; `adapted` names the adapters inserted into it, if any."""
        self.base = base
        self.adapted = adapted
        self.split = SplitModel(base, dtype)
        self.device = self.split.device

    def evaluate(self, batch: Batch) -> tuple[float, float]:
        """Return (sum of weighted NLL in nats, sum of weights) over the positions that train."""
        with self._asking():
            return losses.evaluate_nll(self.split, batch)

    def token_logprobs(self, batch: Batch) -> NDArray[np.float32]:
        """Return (B, T) log-probabilities of `tokens[:, t]` given its segment so far; 0 where nothing precedes."""
        with self._asking():
            return losses.token_logprobs(self.split, batch)

    def logits(self, tokens: NDArray[np.int32]) -> Iterator[NDArray[np.float32]]:
        """Yield float32 chunks (B, t, V) that concatenate along axis 1 to (B, T, V)."""
        with self._asking():
            yield from losses.logit_chunks(self.split, tokens)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterator[GeneratedToken]:
        """Continue every prompt, batched, yielding tokens as they come."""
        with self._asking():
            yield from generate(self.split, prompts, sampling)

    def named_weights(self) -> Iterator[StoredTensor]:
        """Yield the model's tensors by Hugging Face name, lazily; adapters are not merged, tied weights come once."""
        return named_weights(self.base)

    def adapters(self, enabled: bool) -> AbstractContextManager[None]:
        """Switch the adapters on or off within a `with` block."""
        if enabled or self.adapted is None:
            return nullcontext()
        return self.adapted.disable_adapter()

    def close(self) -> None:
        """Release the device memory; the scorer is of no use afterwards."""
        self.__dict__.pop("split", None)
        self.__dict__.pop("base", None)
        self.__dict__.pop("adapted", None)
        gc.collect()
        mx.clear_cache()

    def _asking(self) -> AbstractContextManager[None]:
        use_device(self.device)
        if self.base.training:
            self.base.eval()
        return memory_errors(self.device, self._memory_hint)


@dataclass(frozen=True)
class MlxStepResult:
    """Figures that stay on the device until `read`."""

    loss_sum: mx.array
    grad_norm: mx.array
    normaliser: float
    weight_sum: float

    def read(self) -> StepFigures:
        """Wait for the device and return the figures."""
        loss_sum, grad_norm = (float(figure) for figure in np.array(mx.stack([self.loss_sum, self.grad_norm])))
        return StepFigures(loss=loss_sum / self.normaliser, weight_sum=self.weight_sum, grad_norm=grad_norm)


class MlxTrainer(MlxScorer):
    """A scorer that learns. Open it through `MlxBackend.open_trainer`."""

    _memory_hint = _TRAINING_MEMORY_HINT

    def __init__(
        self, base: nn.Module, adapted: adapters.AdaptedModel | None, dtype: mx.Dtype, spec: TrainerSpec
    ) -> None:
        """Wrap a loaded model; its trainable parameters must be float32."""
        super().__init__(base, adapted, dtype)
        self.parameters: dict[str, Parameter] = (
            named_parameters(base) if adapted is None else dict(adapters.named_adapter_parameters(adapted))
        )
        _check_names(self.parameters, base, spec)
        self.split.trainable = self.parameters
        self.optimizer = Optimizer(self.parameters, spec.optimizer)

    def train_step(
        self, micro_batches: Sequence[Batch], learning_rate: float, normaliser: float, seed: int
    ) -> MlxStepResult:
        """Apply one optimizer update with the gradient of sum over micro-batches of weighted NLL / normaliser.

        Dropout in micro-batch i draws from (seed, i) alone. An update whose loss or gradient is not finite is skipped.

        Raises:
            JobFailed: out of memory.
        """
        use_device(self.device)
        if not self.base.training:
            self.base.train()
        with memory_errors(self.device, self._memory_hint):
            loss_sum = mx.zeros(())
            for index, batch in enumerate(micro_batches):
                if self.adapted is not None:
                    self.adapted.draw_dropout_from(derive_seed(seed, index))
                loss_sum = loss_sum + losses.backward_nll(self.split, batch, normaliser)
                mx.async_eval(loss_sum, [parameter.grad for parameter in self.parameters.values()])
            grad_norm = self.optimizer.step(learning_rate, loss_sum)
        return MlxStepResult(loss_sum, grad_norm, normaliser, sum(batch.trained_weight for batch in micro_batches))

    def state(self) -> TrainerState:
        """Copy out weights (PEFT's on-disk names for LoRA), moments and the update count."""
        weights = {name: stored(name, parameter.value) for name, parameter in self.parameters.items()}
        return TrainerState(weights, self.optimizer.moments(), self.optimizer.updates)

    def restore(self, state: TrainerState) -> None:
        """Continue from a state, filled in place.

        Raises:
            ToolkitError: names or shapes differ.
        """
        fill(self.parameters, state.weights, "the checkpoint")
        self.optimizer.restore(state.moments, state.updates)

    def set_weights(self, weights: Mapping[str, StoredTensor]) -> None:
        """Overwrite trainable weights by name; those not named stay.

        Raises:
            ToolkitError: a name is unknown or a shape differs.
        """
        fill(self.parameters, weights, "the new weights", partly=True)

    def parameter_counts(self) -> tuple[int, int]:
        """Return (trainable, total) parameters; tied weights count once."""
        trainable = sum(parameter.value.size for parameter in self.parameters.values())
        return trainable, parameter_count(self.base)

    def keeps_sequences_apart(self) -> bool:
        """Tell whether sequences packed into one row do not see each other (tried on the model itself)."""
        with self._asking():
            return packing.keeps_sequences_apart(self.split)

    def peak_memory_bytes(self) -> int:
        """Peak device memory since the trainer was opened (the process's peak RSS on the CPU)."""
        if self.device.type == mx.DeviceType.gpu:
            return mx.get_peak_memory()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _check_names(parameters: Mapping[str, Parameter], base: nn.Module, spec: TrainerSpec) -> None:
    """Refuse to train what could not be written under the checkpoint's names.

    Raises:
        ToolkitError: mlx-lm renames or stacks this architecture's weights.
    """
    on_disk = set(FolderTensors(spec.model_folder).entries)
    names = {
        name.removeprefix("base_model.model.")
        .replace(".lora_A", "")
        .replace(".lora_B", "")
        .replace(".lora_magnitude_vector", ".weight")
        for name in parameters
    }
    if unknown := sorted(names - on_disk):
        raise ToolkitError(
            f"mlx-lm calls {len(unknown)} weights otherwise than the checkpoint does ({', '.join(unknown[:3])})",
            where=spec.model_folder,
            hint="train this architecture with backend: torch",
        )
