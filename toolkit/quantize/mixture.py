"""Which kind each tensor gets, and how large the file will be, before a single weight is read.

llama.cpp decides, by a dry run over the real header in front of a body of nothing: the file is sparse, so a plan for
70 billion weights takes no space. The rules are thus those of the llama.cpp that is installed, whatever they are.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from gguf import GGMLQuantizationType as Kind
from gguf import LlamaFileType

from toolkit.atomic_files import write_failed
from toolkit.errors import JobFailed
from toolkit.quantize.header import write_header
from toolkit.quantize.llama_quantizer import choose_kinds
from toolkit.quantize.plan import QUANT_TYPES, FilePlan, PlannedTensor, QuantType, list_tensors, padded
from toolkit.quantize.source import Source

# From here on fallbacks decide what the file is like, so another type deserves a look.
DOMINANT_SHARE = 1 / 3
# Kinds that pack 32 columns: what is left where rows are no multiple of 256.
_ALTERNATIVES = _SMALLER, _BETTER = ("IQ4_NL", "Q8_0")


def plan_files(source: Source, kinds: Sequence[QuantType], notes: Mapping[str, str]) -> list[FilePlan]:
    """Plan one file for each type. Raises JobFailed when llama.cpp cannot be asked."""
    tensors = list_tensors(source)
    try:
        with tempfile.TemporaryDirectory(prefix="toolkit-plan-") as folder:
            sparse = Path(folder) / "sparse.gguf"
            header_bytes = write_header(sparse, source, tensors, LlamaFileType.ALL_F32, notes)
            with sparse.open("r+b") as file:
                file.truncate(header_bytes + sum(padded(tensor.byte_count) for tensor in tensors))
            chosen = [choose_kinds(sparse, kind) for kind in kinds]
    except OSError as error:
        raise write_failed(error, Path(tempfile.gettempdir())) from error
    return [_plan(kind, tensors, decided, header_bytes) for kind, decided in zip(kinds, chosen, strict=True)]


def _plan(kind: QuantType, tensors: Sequence[PlannedTensor], chosen: Mapping[str, Kind], header_bytes: int) -> FilePlan:
    unknown = [tensor.name for tensor in tensors if tensor.name not in chosen]
    if unknown:
        raise JobFailed(f"llama.cpp did not say what becomes of {', '.join(unknown[:3])} in {kind.name}")
    planned = tuple(dataclasses.replace(tensor, kind=chosen[tensor.name]) for tensor in tensors)
    return FilePlan(kind, planned, header_bytes)


def recommendations(plans: Sequence[FilePlan], alternatives: Sequence[FilePlan]) -> list[str]:
    """Say, for each plan that fallbacks dominate, what else there is: one sentence each."""
    found = []
    for plan in plans:
        if plan.fallback_share < DOMINANT_SHARE or plan.kind.block <= 32:
            continue
        others = [other for other in alternatives if other.kind != plan.kind]
        offers = "; ".join(f"{other.kind.name} {_size(other)}" for other in others)
        widths = sorted({tensor.shape[-1] for tensor in plan.fallbacks})
        best = _BETTER if plan.kind.base in (Kind.Q5_K, Kind.Q6_K) else _SMALLER
        found.append(
            f"{plan.kind.name} packs rows of {plan.kind.block}, so {len(plan.fallbacks)} of {len(plan.matrices)} "
            f"matrices (rows of {', '.join(map(str, widths))}) fall back: {_size(plan)}. Instead: {offers}. "
            f"Recommended: {best}"
        )
    return found


def alternative_kinds() -> tuple[QuantType, ...]:
    """List the types that fallbacks cannot touch where rows are a multiple of 32."""
    return tuple(QUANT_TYPES[name] for name in _ALTERNATIVES)


def _size(plan: FilePlan) -> str:
    return f"{plan.bits_per_weight:.2f} bits per weight, {plan.file_bytes / 1e6:,.0f} MB"
