"""The PyTorch backend: opens models for scoring and for training behind the protocols of `toolkit.protocols`."""

from __future__ import annotations

import gc
import re
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from toolkit.config import BaseConfig
from toolkit.initial_values import derive_seed
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
from toolkit.tensor_files import StoredTensor
from toolkit.torch_backend import adapters, losses, packing
from toolkit.torch_backend.checkpointing import checkpoint_blocks
from toolkit.torch_backend.devices import (
    choose_device,
    choose_dtype,
    device_memory_bytes,
    device_name,
    devices,
    memory_errors,
    versions,
)
from toolkit.torch_backend.generate import generate
from toolkit.torch_backend.model import SplitModel, load_model, named_weights, parameter_count, stored
from toolkit.torch_backend.optimizers import Optimizer, fill
from toolkit.torch_backend.quantised import base_folder, refuse_full_training, resolve_base

_TRAINING_MEMORY_HINT = (
    "lower train.batch_size (raise train.accumulation to keep the update as large), lower data.max_seq_tokens, "
    "or set train.gradient_checkpointing=true"
)
_SCORING_MEMORY_HINT = "choose a smaller model, dtype bfloat16, or shorter inputs (data.max_seq_tokens)"


class TorchBackend:
    """PyTorch on CUDA, Metal (MPS) or the CPU."""

    name = "torch"

    def devices(self) -> list[str]:
        """Usable devices, best first."""
        return devices()

    def describe(self, device: str) -> BackendDescription:
        """Report threads, BLAS, device name and versions for the manifest."""
        chosen = choose_device(device)
        blas = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
        return BackendDescription(
            name=self.name,
            device=chosen.type,
            device_name=device_name(chosen),
            threads=torch.get_num_threads(),
            blas=blas.group(1) if blas else "unknown",
            versions=versions("torch", "transformers", "peft", "bitsandbytes", "safetensors", "numpy"),
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

    def open_scorer(self, spec: ScorerSpec) -> TorchScorer:
        """Load a model (and its adapter) for inference.

        Raises:
            ToolkitError: the model, the adapter or the device is not usable.
            JobFailed: out of memory.
        """
        device = choose_device(spec.device)
        dtype = choose_dtype(spec.dtype, device)
        with memory_errors(device, _SCORING_MEMORY_HINT):
            base = load_model(base_folder(spec, device, _silent), dtype, device)
            base.requires_grad_(False)
            adapted = None
            if spec.adapter_folder is not None:
                adapted = adapters.load_adapters(base, spec.adapter_folder, trainable=False)
            return TorchScorer(base, adapted, dtype)

    def open_trainer(self, spec: TrainerSpec) -> TorchTrainer:
        """Load a model for training: every weight in float32, or LoRA (new, or continued from `spec.adapter_folder`).

        Raises:
            ToolkitError: the model, the adapter or the device is not usable.
            JobFailed: out of memory.
        """
        device = choose_device(spec.device)
        dtype = choose_dtype(spec.dtype, device)
        full = spec.lora is None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with memory_errors(device, _TRAINING_MEMORY_HINT):
            base = load_model(base_folder(spec, device, _silent), torch.float32 if full else dtype, device)
            if full:
                refuse_full_training(base, spec.model_folder)
            adapted = None
            if spec.lora is not None and spec.adapter_folder is not None:
                adapted = adapters.load_adapters(base, spec.adapter_folder, trainable=True)
            elif spec.lora is not None:
                adapted = adapters.insert_adapters(base, spec.lora, spec.seed)
            if spec.gradient_checkpointing:
                checkpoint_blocks(base, spec.checkpoint_layers)
            return TorchTrainer(base, adapted, dtype, spec)


def _silent(_: str) -> None:
    """Tell nobody: who wants to know calls `prepare_base` first."""


class TorchScorer:
    """A model that can be asked. Open it through `TorchBackend.open_scorer`."""

    _memory_hint = _SCORING_MEMORY_HINT

    def __init__(self, base: nn.Module, adapted: Any | None, dtype: torch.dtype) -> None:
        """Wrap a loaded causal LM; `adapted` is the PEFT model around it, if any."""
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
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()

    def _asking(self) -> AbstractContextManager[None]:
        if self.base.training:
            self.base.eval()
        return memory_errors(self.device, self._memory_hint)


@dataclass(frozen=True)
class TorchStepResult:
    """Figures that stay on the device until `read`."""

    loss_sum: Tensor
    grad_norm: Tensor
    normaliser: float
    weight_sum: float

    def read(self) -> StepFigures:
        """Wait for the device and return the figures."""
        loss_sum, grad_norm = torch.stack([self.loss_sum, self.grad_norm]).tolist()
        return StepFigures(loss=loss_sum / self.normaliser, weight_sum=self.weight_sum, grad_norm=grad_norm)


class TorchTrainer(TorchScorer):
    """A scorer that learns. Open it through `TorchBackend.open_trainer`."""

    _memory_hint = _TRAINING_MEMORY_HINT

    def __init__(self, base: nn.Module, adapted: Any | None, dtype: torch.dtype, spec: TrainerSpec) -> None:
        """Wrap a loaded model; its trainable parameters must be float32."""
        super().__init__(base, adapted, dtype)
        self.parameters: dict[str, nn.Parameter] = dict(
            base.named_parameters() if adapted is None else adapters.named_adapter_parameters(adapted)
        )
        self.optimizer = Optimizer(self.parameters, spec.optimizer)
        self._peak_mps_bytes = 0

    def train_step(
        self, micro_batches: Sequence[Batch], learning_rate: float, normaliser: float, seed: int
    ) -> TorchStepResult:
        """Apply one optimizer update with the gradient of sum over micro-batches of weighted NLL / normaliser.

        Dropout in micro-batch i draws from (seed, i) alone. An update whose loss or gradient is not finite is skipped.

        Raises:
            JobFailed: out of memory.
        """
        if not self.base.training:
            self.base.train()
        with memory_errors(self.device, self._memory_hint):
            loss_sum = torch.zeros((), device=self.device)
            for index, batch in enumerate(micro_batches):
                torch.manual_seed(derive_seed(seed, index))
                loss_sum += losses.backward_nll(self.split, batch, normaliser)
            grad_norm = self.optimizer.step(learning_rate, loss_sum)
        if self.device.type == "mps":
            self._peak_mps_bytes = max(self._peak_mps_bytes, torch.mps.driver_allocated_memory())
        return TorchStepResult(loss_sum, grad_norm, normaliser, sum(batch.trained_weight for batch in micro_batches))

    def state(self) -> TrainerState:
        """Copy out weights (PEFT's on-disk names for LoRA), moments and the update count."""
        weights = {name: stored(name, parameter) for name, parameter in self.parameters.items()}
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
        trainable = sum(parameter.numel() for parameter in self.parameters.values())
        return trainable, parameter_count(self.base)

    def keeps_sequences_apart(self) -> bool:
        """Tell whether sequences packed into one row do not see each other (tried on the model itself)."""
        with self._asking():
            return packing.keeps_sequences_apart(self.split)

    def peak_memory_bytes(self) -> int:
        """Peak device memory since the trainer was opened (the process's peak RSS on the CPU)."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if self.device.type == "mps":
            return self._peak_mps_bytes
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
