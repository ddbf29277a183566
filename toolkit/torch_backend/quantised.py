"""Quantised bases: what a packed layer stands for, and what cannot be done with a model that has some."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from toolkit.errors import ToolkitError
from toolkit.torch_backend.affine_layers import AffineEmbedding, AffineLinear

# PEFT imports bitsandbytes where it is installed, which then complains of an optional package that nothing here needs.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def is_quantised(layer: Any) -> bool:
    """Tell whether a layer keeps its weight packed."""
    return isinstance(layer, AffineLinear | AffineEmbedding)


def dequantised(layer: Any) -> Tensor:
    """Return a packed layer's weight in full: (out, in), or (entries, width) of an embedding."""
    return layer.dequantize()


def weight_shape(layer: Any) -> tuple[int, int]:
    """Return the shape of a layer's weight, packed or not: (out, in), or (entries, width) of an embedding."""
    if isinstance(layer, nn.Embedding):
        return layer.num_embeddings, layer.embedding_dim
    return layer.out_features, layer.in_features


def refuse_full_training(model: nn.Module, folder: Path) -> None:
    """Raise ToolkitError when packed weights would have to learn."""
    if any(is_quantised(module) for module in model.modules()):
        hint = "use method: lora"
        raise ToolkitError("a quantised model cannot be trained in full", where=folder, hint=hint)
