"""Prove that a GGUF file behaves as the trained model does. Every gate passes or fails by name, with its figures.

structure    gguf and llama.cpp load it; the tensors are those of the plan
tokenizer    every text and every vocabulary entry gives the same ids
chat         same rendered text, same ids, beginning of text once, every stop token ends generation
conversion   before quantisation: float32 logits equal the trained model's
weights      every tensor, dequantised, lies within its type's error
behaviour    llama.cpp's predictions against a reference on the file's own numbers (they must agree) and against the
             trained model (KL divergence, top-1, perplexity: what quantisation lost)
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as Kind

from toolkit.checksums import file_sha256
from toolkit.errors import ToolkitError
from toolkit.gguf_backend.build import llama_build
from toolkit.gguf_backend.session import GgufScorer
from toolkit.gguf_backend.weights import GgufTensors, open_gguf
from toolkit.quantize.comparison import Comparison, Logits, compare, reference_logits, short, with_reference
from toolkit.quantize.plan import RELATIVE_ERROR_LIMITS, FilePlan
from toolkit.quantize.probe_rows import probe_rows
from toolkit.quantize.samples import Samples
from toolkit.quantize.source import Source
from toolkit.quantize.verify_behaviour import MAX_ENGINE_KL
from toolkit.quantize.verify_chat import chat_gate
from toolkit.quantize.verify_text import tokenizer_gate

__all__ = [
    "MAX_ENGINE_KL",
    "MAX_LOGIT_DIFFERENCE",
    "Gate",
    "compare",
    "probe_rows",
    "reference_logits",
    "verify_conversion",
    "verify_structure",
    "verify_text",
    "verify_weights",
    "with_reference",
]

MAX_LOGIT_DIFFERENCE = 1e-2
_BLOCK_WEIGHTS = 2**21
# Whose figures a proof rests on.
_WITNESSES = ("llama-cpp-python", "gguf", "local-training-toolkit", "numpy", "tokenizers", "jinja2")


@dataclass(frozen=True)
class Gate:
    """The outcome of one comparison."""

    gate: str
    passed: bool
    figures: Mapping[str, Any] = field(default_factory=dict)


def verify_text(source: Source, path: Path, samples: Samples) -> list[Gate]:
    """Run the gates that need no arithmetic of the model: tokenizer and chat."""
    scorer = GgufScorer(path, exact=True)
    try:
        ours = scorer.tokenizer()
        return [
            Gate("tokenizer", *tokenizer_gate(source, path, ours, samples)),
            Gate("chat", *chat_gate(source, ours, samples)),
        ]
    finally:
        scorer.close()


def verify_structure(path: Path, plan: FilePlan) -> Gate:
    """Load the file with gguf and with llama.cpp, and compare its tensors with the plan's."""
    try:
        found = {
            tensor.name: (tuple(int(n) for n in reversed(tensor.shape)), Kind(tensor.tensor_type))
            for tensor in open_gguf(path).tensors
        }
        GgufScorer(path, exact=True).close()
    except ToolkitError as error:
        return Gate("structure", False, {"error": str(error)})
    planned = {tensor.name: (tensor.shape, tensor.kind) for tensor in plan.tensors}
    wrong = sorted(name for name in planned.keys() | found.keys() if planned.get(name) != found.get(name))
    figures = {
        "tensors": len(found),
        "wrong": wrong[:10],
        "bytes": path.stat().st_size,
        "sha256": file_sha256(path),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _WITNESSES}},
        "llama_cpp_features": list(llama_build().features),
        "matrices": len(plan.matrices),
        "fallbacks": len(plan.fallbacks),
        "types": plan.counts(),
        "bits_per_weight": round(plan.bits_per_weight, 3),
    }
    return Gate("structure", not wrong, figures)


def verify_conversion(path: Path, reference: Logits, rows: Sequence[Sequence[int]]) -> Gate:
    """Compare a float32 file's logits with the trained model's (`reference`, one (T, V) array for each of `rows`)."""
    outcome = _compare_file(path, reference, rows)
    return Gate("conversion", outcome.max_difference <= MAX_LOGIT_DIFFERENCE, outcome.figures())


def verify_weights(source: Source, path: Path) -> Gate:
    """Dequantise every tensor and compare it with the one that it was made from (relative root mean square error)."""
    stored = GgufTensors(path)
    worst: dict[str, float] = {}
    outside, compared = [], set()
    for name in stored:
        if name not in set(source.tensors):
            continue
        kind, error = stored.kind(name), _relative_error(source, stored, name)
        compared.add(name)
        worst[kind.name] = max(worst.get(kind.name, 0.0), error)
        # A type without a known limit is none that this exporter asks for.
        if not error <= RELATIVE_ERROR_LIMITS.get(kind, 0.0):
            outside.append(name)
    missing = sorted(set(source.tensors) - compared)
    figures = {
        "tensors": len(compared),
        "worst_relative_error": {kind: short(error) for kind, error in sorted(worst.items())},
        "limits": {kind: RELATIVE_ERROR_LIMITS.get(Kind[kind], 0.0) for kind in sorted(worst)},
        "outside": outside[:10],
        "missing": missing[:10],
    }
    return Gate("weights", not outside and not missing, figures)


def _compare_file(path: Path, reference: Logits, rows: Sequence[Sequence[int]]) -> Comparison:
    scorer = GgufScorer(path, exact=True)
    try:
        return compare(reference, reference_logits(scorer, rows), rows)
    finally:
        scorer.close()


def _relative_error(source: Source, stored: GgufTensors, name: str) -> float:
    """Return ‖file - source‖ / ‖source‖ of a tensor, read in blocks of rows."""
    shape = source.tensors.shape(name)
    if stored.shape(name) != shape:
        return float("inf")
    unit = source.decoder.row_unit(name)
    step = max(1, _BLOCK_WEIGHTS // max(1, int(np.prod(shape[1:])) * unit)) * unit
    difference = size = 0.0
    for start in range(0, shape[0], step):
        stop = min(start + step, shape[0])
        wanted = source.tensors.rows(name, start, stop).to_float32()
        got = stored.rows(name, start, stop).to_float32()
        difference += float(np.square(got - wanted, dtype=np.float64).sum())
        size += float(np.square(wanted, dtype=np.float64).sum())
    return (difference / (size or 1.0)) ** 0.5
