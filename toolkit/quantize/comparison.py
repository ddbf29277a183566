"""How one model's predictions differ from another's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.protocols import Scorer

Logits = Sequence[NDArray[np.floating[Any]]]


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
            "max_logit_difference": short(self.max_difference),
            "mean_kl": short(self.mean_kl),
            "p99_kl": short(self.p99_kl),
            "top1_agreement": round(self.top1, 4),
            "perplexity_ratio": round(self.perplexity_ratio, 4),
        }


def compare(reference: Logits, other: Logits, rows: Sequence[Sequence[int]]) -> Comparison:
    """Compare two models' logits, (T, V) for each of `rows`; columns that only one has are padding."""
    differences, divergences, agreements, losses = [], [], [], []
    for theirs, ours, row in zip(reference, other, rows, strict=True):
        theirs, ours = _same_width(theirs, ours)
        differences.append(np.abs(theirs - ours).max())
        log_p, log_q = _log_softmax(theirs), _log_softmax(ours)
        divergences.append((np.exp(log_p) * (log_p - log_q)).sum(axis=1))
        agreements.append(theirs.argmax(axis=1) == ours.argmax(axis=1))
        followers = np.array(row[1:])
        losses.append((log_p - log_q)[np.arange(len(followers)), followers])
    divergence, loss = np.concatenate(divergences), np.concatenate(losses)
    return Comparison(
        positions=len(divergence),
        max_difference=not_nan(np.max(differences)),  # unlike `max`, it keeps NaN
        mean_kl=not_nan(divergence.mean()),
        p99_kl=not_nan(np.quantile(divergence, 0.99)),
        top1=float(np.concatenate(agreements).mean()),
        perplexity_ratio=not_nan(np.exp(loss.mean())),
    )


def row_divergences(reference: Logits, other: Logits) -> NDArray[np.float64]:
    """Sum the KL divergence of the second from the first over each row's positions, in nats: (rows,)."""
    sums = []
    for theirs, ours in zip(reference, other, strict=True):
        log_p, log_q = map(_log_softmax, _same_width(theirs, ours))
        sums.append((np.exp(log_p) * (log_p - log_q)).sum())
    return np.array(sums)


def same_choices(reference: Logits, other: Logits, answers: Sequence[NDArray[np.bool_]]) -> list[NDArray[np.bool_]]:
    """Say for each row at which of its answers' tokens both models, given all before it, would choose the same.

    answers: (T,) for each row: which tokens are asked for; never the first, which nothing precedes
    """
    found = []
    for theirs, ours, wanted in zip(reference, other, answers, strict=True):
        theirs, ours = _same_width(theirs, ours)
        places = np.flatnonzero(wanted) - 1  # logits at a position predict the token behind it
        found.append(theirs[places].argmax(axis=1) == ours[places].argmax(axis=1))
    return found


def reference_logits(scorer: Scorer, rows: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
    """Ask a model for the logits at every position of every row: (T, V) float32 each."""
    return [np.concatenate(list(scorer.logits(np.array([row], np.int32))), axis=1)[0] for row in rows]


def with_reference(open_reference: Callable[[], Scorer], rows: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
    """Open the trained model, take its logits and close it again, so that only one model is in memory at a time."""
    scorer = open_reference()
    try:
        return reference_logits(scorer, rows)
    finally:
        scorer.close()


def short(value: float) -> float:
    """Round to three digits."""
    return float(f"{value:.3g}")


def not_nan(value: float) -> float:
    """Turn NaN into infinity: it must never pass a gate."""
    return float("inf") if np.isnan(value) else float(value)


def _same_width(theirs: NDArray[Any], ours: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    width = min(theirs.shape[1], ours.shape[1])
    return theirs[:, :width], ours[:, :width]


def _log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
