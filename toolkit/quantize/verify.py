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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from toolkit.checksums import file_sha256
from toolkit.datasets.schema import Message
from toolkit.errors import ToolkitError
from toolkit.gguf_backend.session import GgufScorer
from toolkit.gguf_backend.weights import GgufTensors, open_gguf
from toolkit.protocols import Scorer
from toolkit.quantize.architectures.decoder import Decoder
from toolkit.quantize.plan import RELATIVE_ERROR_LIMITS, FilePlan, QuantType
from toolkit.quantize.probes import CONVERSATIONS, TEXTS
from toolkit.quantize.reference import layerwise_logits
from toolkit.quantize.source import Source
from toolkit.quantize.verify_text import chat_gate, tokenizer_gate

MAX_LOGIT_DIFFERENCE = 1e-2
# llama.cpp rounds activations to 8 bits where weights are quantised. On random weights that alone gives up to 1.3e-3
# (measured, hidden size 256), on trained ones less; each classic mistake gives more than 2.
MAX_ENGINE_KL = 5e-3
_BLOCK_WEIGHTS = 2**21
_ROWS, _SHORT_ROW, _LONG_ROW = 6, 96, 256


@dataclass(frozen=True)
class Gate:
    """The outcome of one comparison."""

    gate: str
    passed: bool
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """How one model's predictions differ from another's, over `positions` positions.

    max_difference: largest absolute difference of two logits
    mean_kl, p99_kl: divergence of the second from the first, nats per position
    top1:           share of positions where both rank the same token first
    perplexity_ratio: second over first, on the tokens that follow
    """

    positions: int
    max_difference: float
    mean_kl: float
    p99_kl: float
    top1: float
    perplexity_ratio: float

    def figures(self) -> dict[str, float | int]:
        """Round for people."""
        return {
            "positions": self.positions,
            "max_logit_difference": float(f"{self.max_difference:.3g}"),
            "mean_kl": float(f"{self.mean_kl:.3g}"),
            "p99_kl": float(f"{self.p99_kl:.3g}"),
            "top1_agreement": round(self.top1, 4),
            "perplexity_ratio": round(self.perplexity_ratio, 4),
        }


def verify_text(source: Source, path: Path, conversations: Sequence[Sequence[Message]]) -> list[Gate]:
    """Run the gates that need no arithmetic of the model: tokenizer and chat."""
    texts = [*TEXTS, *(message.content for conversation in conversations for message in conversation)]
    scorer = GgufScorer(path, exact=True)
    try:
        ours = scorer.tokenizer()
        return [
            Gate("tokenizer", *tokenizer_gate(source, path, ours, texts)),
            Gate("chat", *chat_gate(source, ours, [*CONVERSATIONS, *conversations])),
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
        "versions": {name: version(name) for name in ("llama-cpp-python", "gguf", "local-training-toolkit")},
        "matrices": len(plan.matrices),
        "fallbacks": len(plan.fallbacks),
        "types": plan.counts(),
        "bits_per_weight": round(plan.bits_per_weight, 3),
    }
    return Gate("structure", not wrong, figures)


def verify_conversion(path: Path, reference: Sequence[NDArray[np.float32]], rows: Sequence[Sequence[int]]) -> Gate:
    """Compare a float32 file's logits with the trained model's (`reference`, one (T, V) array for each of `rows`)."""
    outcome = _compare_file(path, reference, rows)
    return Gate("conversion", outcome.max_difference <= MAX_LOGIT_DIFFERENCE, outcome.figures())


def verify_behaviour(
    path: Path,
    decoder: Decoder,
    kind: QuantType,
    reference: Sequence[NDArray[np.float32]],
    rows: Sequence[Sequence[int]],
) -> Gate:
    """Ask llama.cpp, and a reference that computes with the file's own numbers; then the trained model.

    The first two must agree: what the file says is then what llama.cpp does. What quantisation lost against the trained
    model is reported; ruin fails.
    """
    scorer = GgufScorer(path, exact=True)
    try:
        mine = reference_logits(scorer, rows)
    finally:
        scorer.close()
    engine = compare(layerwise_logits(decoder, GgufTensors(path), rows), mine, rows)
    loss = compare(reference, mine, rows)
    passed = engine.mean_kl <= MAX_ENGINE_KL and loss.mean_kl <= kind.kl_limit
    figures = {"kl_to_the_files_own_numbers": engine.figures()["mean_kl"], **loss.figures(), "kl_limit": kind.kl_limit}
    return Gate("behaviour", passed, figures)


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
        "worst_relative_error": {kind: float(f"{error:.3g}") for kind, error in sorted(worst.items())},
        "outside": outside[:10],
        "missing": missing[:10],
    }
    return Gate("weights", not outside and not missing, figures)


def probe_rows(source: Source, conversations: Sequence[Sequence[Message]], context: int) -> list[list[int]]:
    """Choose rows to compare logits on: conversations, and one long text (rotary faults show far out)."""
    tokenizer = source.tokenizer
    chats = [_encode_or_skip(source, conversation) for conversation in (*conversations, *CONVERSATIONS)]
    rows = [ids[: min(_SHORT_ROW, context)] for ids in chats if len(ids) > 1][: _ROWS - 1]
    long_text = "\n".join(text for text in TEXTS if text.isprintable())
    return [*rows, tokenizer.encode(long_text)[: min(_LONG_ROW, context)]]


def reference_logits(scorer: Scorer, rows: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
    """Ask a model for the logits at every position of every row: (T, V) float32 each."""
    return [np.concatenate(list(scorer.logits(np.array([row], np.int32))), axis=1)[0] for row in rows]


def compare(
    reference: Sequence[NDArray[np.float32]], other: Sequence[NDArray[np.float32]], rows: Sequence[Sequence[int]]
) -> Comparison:
    """Compare two models' logits, (T, V) for each of `rows`; columns that only one has are padding."""
    differences, divergences, agreements, losses = [], [], [], []
    for theirs, ours, row in zip(reference, other, rows, strict=True):
        width = min(theirs.shape[1], ours.shape[1])
        theirs, ours = theirs[:, :width], ours[:, :width]
        differences.append(np.abs(theirs - ours).max())
        log_p, log_q = _log_softmax(theirs), _log_softmax(ours)
        divergences.append((np.exp(log_p) * (log_p - log_q)).sum(axis=1))
        agreements.append(theirs.argmax(axis=1) == ours.argmax(axis=1))
        followers = np.array(row[1:])
        losses.append((log_p - log_q)[np.arange(len(followers)), followers])
    divergence, loss = np.concatenate(divergences), np.concatenate(losses)
    return Comparison(
        positions=len(divergence),
        max_difference=_not_nan(np.max(differences)),  # unlike `max`, it keeps NaN
        mean_kl=_not_nan(divergence.mean()),
        p99_kl=_not_nan(np.quantile(divergence, 0.99)),
        top1=float(np.concatenate(agreements).mean()),
        perplexity_ratio=_not_nan(np.exp(loss.mean())),
    )


def with_reference(open_reference: Callable[[], Scorer], rows: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
    """Open the trained model, take its logits and close it again, so that only one model is in memory at a time."""
    scorer = open_reference()
    try:
        return reference_logits(scorer, rows)
    finally:
        scorer.close()


def _compare_file(path: Path, reference: Sequence[NDArray[np.float32]], rows: Sequence[Sequence[int]]) -> Comparison:
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


def _encode_or_skip(source: Source, conversation: Sequence[Message]) -> list[int]:
    try:
        return source.tokenizer.encode_chat(conversation, False)
    except ToolkitError:
        return []  # Some templates refuse a system message.


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))


def _not_nan(value: float) -> float:
    """Turn NaN into infinity: it must never pass a gate."""
    return float("inf") if np.isnan(value) else float(value)
