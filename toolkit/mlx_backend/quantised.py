"""Quantised bases: what a packed layer stands for, and what cannot be done with a model that has some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from toolkit.errors import ToolkitError


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
