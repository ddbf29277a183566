"""Quantised bases: which layout runs where, the folder that is loaded, what a packed layer stands for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from toolkit.base_cache import affine_base
from toolkit.config import BaseConfig
from toolkit.errors import ToolkitError
from toolkit.models import read_model
from toolkit.protocols import ScorerSpec


def resolve_base(base: BaseConfig, device: mx.Device) -> BaseConfig:
    """Fill the open choices of a base's layout.

    Raises:
        ToolkitError: MLX cannot compute in that layout.
    """
    if base.layout == "nf4":
        hint = "Use base.layout=affine in a new run, or go on with backend=torch on CUDA or the CPU"
        raise ToolkitError("nf4 is bitsandbytes' layout; MLX cannot read it", where="base.layout", hint=hint)
    filled = {"layout": "affine", "bits": base.bits or 4, "group_size": base.group_size or 64}
    return base.model_copy(update=filled)


def base_folder(spec: ScorerSpec, device: mx.Device, report: Callable[[str], None]) -> Path:
    """Return the folder to load: the model's own, or its quantised copy, made when it is not there.

    Raises:
        ToolkitError: the layout cannot run here, or does not fit the model.
        JobFailed: the disk is full.
    """
    if spec.base is None:
        return spec.model_folder
    facts = read_model(spec.model_folder)
    if facts.quantization is not None:
        return spec.model_folder
    return affine_base(facts, resolve_base(spec.base, device), report)


def is_quantised(layer: Any) -> bool:
    """Tell whether a layer keeps its weight packed."""
    return isinstance(layer, nn.QuantizedLinear | nn.QuantizedEmbedding)


def dequantised(layer: Any) -> mx.array:
    """Return a packed layer's weight in full: (out, in), or (entries, width) of an embedding."""
    return mx.dequantize(
        layer["weight"],
        layer["scales"],
        layer.get("biases"),
        group_size=layer.group_size,
        bits=layer.bits,
        mode=layer.mode,
    )


def weight_shape(layer: Any) -> tuple[int, int]:
    """Return the shape of a layer's weight, packed or not: (out, in), or (entries, width) of an embedding."""
    rows, columns = layer["weight"].shape
    return rows, columns * 32 // layer.bits if is_quantised(layer) else columns


def refuse_full_training(model: nn.Module, folder: Path) -> None:
    """Raise ToolkitError when packed weights would have to learn."""
    if any(is_quantised(module) for module in model.modules()):
        hint = "use method: lora"
        raise ToolkitError("a quantised model cannot be trained in full", where=folder, hint=hint)
