"""Batches by hand, and the loss of a model computed another way: transformers' own forward and NumPy in float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toolkit.protocols import Batch


def batch_of(rows: Sequence[Sequence[tuple[Sequence[int], Sequence[float]]]]) -> Batch:
    """Pack rows of (tokens, weights) sequences, pad them on the right with token 0 in segment 0."""
    length = max(sum(len(tokens) for tokens, _ in row) for row in rows)
    shape = (len(rows), length)
    tokens, segments, positions = (np.zeros(shape, np.int32) for _ in range(3))
    weights = np.zeros(shape, np.float32)
    for i, row in enumerate(rows):
        start = 0
        for number, (sequence, sequence_weights) in enumerate(row, start=1):
            part = slice(start, start + len(sequence))
            tokens[i, part], weights[i, part], segments[i, part] = sequence, sequence_weights, number
            positions[i, part] = np.arange(len(sequence))
            start += len(sequence)
        positions[i, start:] = np.arange(length - start)
    return Batch(tokens, weights, segments, positions)


def random_sequence(seed: int, length: int, trained: int | None = None) -> tuple[list[int], list[float]]:
    """Draw tokens below 380; the last `trained` (default: all) have weights other than 0 and 1."""
    rng = np.random.default_rng(seed)
    weights = np.zeros(length)
    trained = length if trained is None else trained
    weights[length - trained :] = rng.uniform(0.5, 1.5, trained)
    return rng.integers(3, 380, length).tolist(), weights.astype(np.float32).tolist()


def ragged(seed: int, lengths: Sequence[int], trained: int | None = None) -> Batch:
    """One sequence a row, of the given lengths."""
    return batch_of([[random_sequence(seed * 100 + i, length, trained)] for i, length in enumerate(lengths)])


def reference_nll(logits: np.ndarray, batch: Batch) -> tuple[float, float]:
    """Weighted NLL and weight over the trained positions, by loops, in float64. logits: (B, T, V)."""
    loss = weight = 0.0
    for row in range(batch.tokens.shape[0]):
        for t in range(1, batch.tokens.shape[1]):
            w = float(batch.loss_weights[row, t])
            if w == 0 or batch.segment_ids[row, t] != batch.segment_ids[row, t - 1]:
                continue
            before = logits[row, t - 1].astype(np.float64)
            top = before.max()
            loss += w * (top + np.log(np.exp(before - top).sum()) - before[batch.tokens[row, t]])
            weight += w
    return loss, weight
