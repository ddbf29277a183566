"""Every test here runs on each backend: `kit` holds what the tests need to know about one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from toolkit.protocols import Backend, Batch, Sampling, TrainerSpec


@dataclass(frozen=True)
class Kit:
    """One backend under test.

    label:        how its messages call it
    packages:     what its description names
    memory_error: what its allocator says when memory is out
    """

    backend: Backend
    label: str
    packages: frozenset[str]
    memory_error: str
    losses: ModuleType
    generate: ModuleType
    optimizers: ModuleType

    @property
    def name(self) -> str:
        return self.backend.name

    def gradients(self, trainer: Any, batch: Batch, normaliser: float) -> dict[str, np.ndarray]:
        """Return the gradient of weighted NLL / normaliser by name, and leave none behind."""
        trainer.base.train()
        self.losses.backward_nll(trainer.split, batch, normaliser)
        found = {n: np.asarray(p.grad).copy() for n, p in trainer.parameters.items() if p.grad is not None}
        for parameter in trainer.parameters.values():
            parameter.grad = None
        return found

    def pick(self, logits: np.ndarray, sampling: Sampling, uniform: np.ndarray) -> np.ndarray:
        """Pick with arrays in and out."""
        return np.asarray(self.generate.pick(self.array(logits), sampling, uniform))

    def array(self, values: np.ndarray) -> Any:
        """Return the framework's array."""
        if self.name == "torch":
            return torch.from_numpy(values)
        import mlx.core as mx

        return mx.array(values)

    def parameter(self, values: np.ndarray) -> Any:
        """Return what the backend's optimizer updates."""
        if self.name == "torch":
            return torch.nn.Parameter(torch.from_numpy(values))
        from toolkit.mlx_backend.model import Parameter

        return Parameter({"weight": self.array(values)}, "weight")

    def value(self, parameter: Any) -> np.ndarray:
        """Return a parameter's values."""
        return parameter.detach().numpy() if self.name == "torch" else np.array(parameter.value)

    def put(self, parameter: Any, values: np.ndarray) -> None:
        """Overwrite a parameter's values."""
        if self.name == "torch":
            parameter.data.copy_(torch.from_numpy(values))
        else:
            parameter.value = self.array(values)

    def disturb_random_state(self) -> None:
        """Set the framework's own random state, which must not matter."""
        torch.manual_seed(99)
        if self.name == "mlx":
            import mlx.core as mx

            mx.random.seed(99)


def _torch_kit() -> Kit:
    from toolkit.torch_backend import generate, losses, optimizers
    from toolkit.torch_backend.session import TorchBackend

    message = "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
    packages = frozenset({"python", "torch", "transformers", "peft"})
    return Kit(TorchBackend(), "torch", packages, message, losses, generate, optimizers)


def _mlx_kit() -> Kit:
    from toolkit.mlx_backend import generate, losses, optimizers
    from toolkit.mlx_backend.session import MlxBackend

    message = "[malloc] Unable to allocate 137438953472 bytes."
    return Kit(MlxBackend(), "MLX", frozenset({"python", "mlx", "mlx-lm"}), message, losses, generate, optimizers)


@pytest.fixture(params=["torch", "mlx"])
def kit(request: pytest.FixtureRequest) -> Kit:
    """One backend after the other."""
    return _torch_kit() if request.param == "torch" else _mlx_kit()


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)  # for models as small as these, threads that wait for each other cost more than they give


@pytest.fixture
def open_trainer(kit: Kit) -> Callable[..., Any]:
    """Return `open(folder, **fields of TrainerSpec)`."""

    def open_it(folder: Path, **fields: Any) -> Any:
        return kit.backend.open_trainer(TrainerSpec(folder, device="cpu", **{"dtype": "float32", **fields}))

    return open_it


@pytest.fixture
def plain_model() -> Callable[[Path], Any]:
    """Return `load(folder)`: transformers' own model, in float32, to compare with."""

    def load(folder: Path) -> Any:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    return load
