"""Quantised bases: which layout runs where, the folder that is loaded, what a packed layer stands for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.base_cache import affine_base, cached_base
from toolkit.config import BaseConfig
from toolkit.errors import Problem, ToolkitError
from toolkit.models import read_model
from toolkit.protocols import ScorerSpec
from toolkit.torch_backend.affine_layers import AffineEmbedding, AffineLinear
from toolkit.torch_backend.nf4 import LABEL, Nf4Packer, dequantised_nf4, is_nf4

# PEFT imports bitsandbytes where it is installed, which then complains of an optional package that nothing here needs.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def resolve_base(base: BaseConfig, device: torch.device) -> BaseConfig:
    """Fill the open choices of a base's layout: for `auto` nf4 where 4 bits are to run on CUDA, else affine.

    Raises:
        ToolkitError: torch cannot compute in that layout on this device.
    """
    bits, layout = base.bits or 4, base.layout
    if layout == "auto":
        layout = "nf4" if device.type == "cuda" and bits == 4 else "affine"
    if layout == "nf4":
        _check_nf4(base, bits, device)
    return base.model_copy(update={"layout": layout, "bits": bits, "group_size": base.group_size or 64})


def _check_nf4(base: BaseConfig, bits: int, device: torch.device) -> None:
    problems = []
    affine = "Use base.layout=affine"
    if bits != 4:
        problems.append(Problem(f"nf4 has 4 bits, not {bits}", "base.bits", f"{affine}, or base.bits=4"))
    if base.group_size not in (None, 64):
        problems.append(Problem("nf4 shares scales among 64 weights", "base.group_size", f"Leave it out, or {affine}"))
    if device.type == "mps":
        problems.append(Problem("nf4 (bitsandbytes) does not run on the Apple GPU", "base.layout", affine))
    try:
        version("bitsandbytes")
    except PackageNotFoundError:
        hint = f"pip install bitsandbytes (Linux, Windows), or {affine.lower()}"
        problems.append(Problem("nf4 needs bitsandbytes, which is not installed", "base.layout", hint))
    if problems:
        raise ToolkitError.gather(problems)


def base_folder(spec: ScorerSpec, device: torch.device, report: Callable[[str], None]) -> Path:
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
    base = resolve_base(spec.base, device)
    return cached_base(facts, Nf4Packer(), LABEL, report) if base.layout == "nf4" else affine_base(facts, base, report)


def is_quantised(layer: Any) -> bool:
    """Tell whether a layer keeps its weight packed."""
    return isinstance(layer, AffineLinear | AffineEmbedding) or is_nf4(layer)


def dequantised(layer: Any) -> Tensor:
    """Return a packed layer's weight in full: (out, in), or (entries, width) of an embedding."""
    return dequantised_nf4(layer) if is_nf4(layer) else layer.dequantize()


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
