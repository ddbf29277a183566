"""Open tiny models in float32 on the CPU, whatever else the machine has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from toolkit.protocols import TrainerSpec
from toolkit.torch_backend.session import TorchBackend, TorchTrainer


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)  # for models as small as these, threads that wait for each other cost more than they give


@pytest.fixture
def open_trainer() -> Callable[..., TorchTrainer]:
    """Return `open(folder, **fields of TrainerSpec)`."""

    def open_it(folder: Path, **fields: Any) -> TorchTrainer:
        return TorchBackend().open_trainer(TrainerSpec(folder, device="cpu", **{"dtype": "float32", **fields}))

    return open_it


@pytest.fixture
def plain_model() -> Callable[[Path], Any]:
    """Return `load(folder)`: transformers' own model, in float32, to compare with."""

    def load(folder: Path) -> Any:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    return load
