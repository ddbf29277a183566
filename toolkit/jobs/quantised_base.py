"""The quantised base of a run: its layout, decided from the config, the model and the backend, and its size."""

from __future__ import annotations

from collections.abc import Mapping

from toolkit.affine import AffineLayout, AffineTensors
from toolkit.config import BaseConfig, FinetuneConfig, PretrainConfig
from toolkit.errors import Problem, ToolkitError
from toolkit.models import ModelFacts
from toolkit.packed_folders import FLOATS
from toolkit.protocols import Backend

# Of 64 weights nf4 keeps 4 bits each, an 8-bit scale, and of 256 scales one float32.
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)


def resolve_base(config: FinetuneConfig, facts: ModelFacts, backend: Backend) -> FinetuneConfig:
    """Fill `base` for method qlora.

    Raises:
        ToolkitError: base is given for another method, the layout cannot run here, or the model is quantised otherwise.
    """
    _refuse_foreign_layouts(facts)
    quantization = facts.quantization
    if config.method != "qlora":
        if config.base != BaseConfig():
            hint = "Add --method qlora, or leave base out"
            raise ToolkitError(f"base applies to method qlora, not {config.method}", where="base", hint=hint)
        if config.method == "full" and quantization is not None:
            hint = "Train adapters on it with --method qlora, or give the full-precision model"
            raise ToolkitError("a quantised model cannot be trained in full", where=facts.folder, hint=hint)
        return config
    if quantization is None:
        base = backend.resolve_base(config.base, config.train.device)
    else:
        base = _base_of(config.base, quantization.layout, facts)
    return config.model_copy(update={"base": base})


def _refuse_foreign_layouts(facts: ModelFacts) -> None:
    entry = facts.config.get("quantization_config")
    if isinstance(entry, Mapping) and "quant_method" in entry and "quantization" not in facts.config:
        hint = "Give the full-precision model; --method qlora quantises it once by itself"
        raise ToolkitError(f"this model is quantised already, by {entry['quant_method']}", where=facts.name, hint=hint)


def _base_of(wanted: BaseConfig, layout: AffineLayout, facts: ModelFacts) -> BaseConfig:
    """Take a model that is in MLX's layout as it is. Raises ToolkitError when something else is asked for."""
    problems = []
    if wanted.layout == "nf4":
        hint = "Leave base.layout out, or give the full-precision model"
        problems.append(Problem(f"{facts.name} is quantised in layout affine already", "base.layout", hint))
    for key, has in (("bits", layout.bits), ("group_size", layout.group_size)):
        asked = getattr(wanted, key)
        if asked not in (None, has):
            hint = f"Leave base.{key} out, or give the full-precision model"
            problems.append(Problem(f"{facts.name} is quantised already, with {has}, not {asked}", f"base.{key}", hint))
    if layout.bits not in (4, 8) and not problems:
        hint = "Use --method lora, which takes the model as it is"
        problems.append(Problem(f"{facts.name} is quantised to {layout.bits} bits, qlora takes 4 or 8", "base", hint))
    if problems:
        raise ToolkitError.gather(problems)
    return wanted.model_copy(
        update={"layout": "affine", "bits": layout.bits, "group_size": layout.group_size}  # the model's own
    )


def frozen_bytes(config: FinetuneConfig | PretrainConfig, facts: ModelFacts, size: int, backend: str) -> int:
    """Guess what the weights that do not learn take in memory; `size` is the bytes of an unquantised number.

    torch dequantises one layer at a time: the largest comes on top.
    """
    if not isinstance(config, FinetuneConfig) or config.method == "full":
        return 0
    tensors = facts.tensors
    total = largest = 0.0
    for name, entry in tensors.entries.items():
        bits = 8.0 * size
        if isinstance(tensors, AffineTensors):
            own = tensors.layout_of(name)
            bits = bits if own is None else own.bits + 16 * size / own.group_size
        elif config.method == "qlora" and name in facts.block_matrices and entry.dtype in FLOATS:
            bits = _bits(config.base, entry.shape[1], size)
        total += entry.parameter_count * bits / 8
        if bits < 8 * size and name in facts.block_matrices:
            largest = max(largest, entry.parameter_count * size)
    return round(total + (largest if backend == "torch" else 0))


def _bits(base: BaseConfig, columns: int, size: int) -> float:
    if base.layout == "nf4":
        return NF4_BITS
    layout = AffineLayout(base.bits or 4, base.group_size or 64)
    return layout.bits + 16 * size / layout.group_size if layout.fits(columns) else 8 * size
