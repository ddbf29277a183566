"""Weighted next-token NLL over the positions that train, without ever holding all logits.

Shapes: B rows, T positions, N trained positions, H hidden size, V vocabulary entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from toolkit.mlx_backend.model import Parameter, SplitModel
from toolkit.protocols import Batch

_CHUNK_LOGITS = 1 << 22
"""Logits per chunk: 16 MB in float32; small enough for a CPU's cache to help, large enough to keep a GPU busy."""


@dataclass(frozen=True)
class TrainedPositions:
    """Where a batch trains, flattened over (B, T).

    sources: (N,) int32, the positions whose hidden state predicts
    targets: (N,) int32, the tokens to be predicted
    weights: (N,) float32
    """

    sources: mx.array
    targets: mx.array
    weights: mx.array


def trained_positions(batch: Batch, split: SplitModel) -> TrainedPositions:
    """Find the positions t with weight ≠ 0 and segment[t] = segment[t − 1]; t − 1 predicts t."""
    same = batch.segment_ids[:, 1:] == batch.segment_ids[:, :-1]
    rows, before = np.nonzero(same & (batch.loss_weights[:, 1:] != 0))
    return _positions(batch, split, rows, before)


def _positions(batch: Batch, split: SplitModel, rows: np.ndarray, before: np.ndarray) -> TrainedPositions:
    return TrainedPositions(
        sources=split.to_device((rows * batch.tokens.shape[1] + before).astype(np.int32)),
        targets=split.to_device(batch.tokens[rows, before + 1].astype(np.int32)),
        weights=split.to_device(batch.loss_weights[rows, before + 1].astype(np.float32)),
    )


def chunks(count: int, vocab_size: int, device: mx.Device) -> Iterator[slice]:
    """Cut `count` positions so that a chunk's logits stay small."""
    scale = 8 if device.type == mx.DeviceType.gpu else 1
    size = max(16, scale * _CHUNK_LOGITS // vocab_size)
    return (slice(start, min(count, start + size)) for start in range(0, count, size))


def backward_nll(split: SplitModel, batch: Batch, normaliser: float) -> mx.array:
    """Add the gradient of (weighted NLL / normaliser) to the parameters and return the NLL sum, a scalar on the device.

    The head's part runs chunk by chunk, forward and gradient at once, on hidden states cut off from the decoder; their
    gradient then goes back through the decoder in one sweep. Only one chunk's logits exist at any time.
    """
    trained = trained_positions(batch, split)
    if trained.sources.size == 0:
        return mx.zeros(())
    parameters = list(split.trainable.values())
    values = [parameter.value for parameter in parameters]

    def surrogate(values: list[mx.array]) -> tuple[mx.array, mx.array, dict[str, mx.array]]:
        """Return a scalar whose gradient is the decoder's share, the NLL sum, and the head's gradients."""
        _put(parameters, values)
        with split.arithmetic():
            hidden = split.hidden(batch)
        rows = hidden.reshape(-1, hidden.shape[-1])[trained.sources]  # (N, H)
        total, towards_rows, towards_head = _head_gradients(split, mx.stop_gradient(rows), trained, normaliser)
        return (rows.astype(mx.float32) * mx.stop_gradient(towards_rows)).sum(), total, towards_head

    try:
        (_, total, towards_head), gradients = mx.value_and_grad(surrogate)(values)
    finally:
        _put(parameters, values)
    for (name, parameter), gradient in zip(split.trainable.items(), gradients, strict=True):
        gradient = gradient + towards_head[name] if name in towards_head else gradient
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
    return total


def _put(parameters: list[Parameter], values: list[mx.array]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.value = value


def _head_gradients(
    split: SplitModel, rows: mx.array, trained: TrainedPositions, normaliser: float
) -> tuple[mx.array, mx.array, dict[str, mx.array]]:
    """Return the NLL sum and the gradients of NLL / normaliser by the rows (N, H) and by the head's parameters."""
    names = split.head_names
    parameters = [split.trainable[name] for name in names]
    exact = [mx.stop_gradient(parameter.value) for parameter in parameters]

    def chunk_loss(piece: mx.array, values: list[mx.array], part: slice) -> mx.array:
        _put(parameters, values)
        with split.arithmetic():
            loss = _nll(split.head(piece), trained.targets[part], trained.weights[part])
        return loss / normaliser

    before = [parameter.value for parameter in parameters]
    total, pieces, towards_head = mx.zeros(()), [], [mx.zeros_like(value) for value in exact]
    try:
        for part in chunks(rows.shape[0], split.vocab_size, split.device):
            piece = rows[part]
            if pieces:  # one chunk after the other, or all their logits could be alive at once
                piece = mx.depends([piece], [pieces[-1], *towards_head])[0]
            loss, (piece_gradient, gradients) = mx.value_and_grad(chunk_loss, argnums=(0, 1))(piece, exact, part)
            pieces.append(piece_gradient)
            towards_head = [sum_so_far + new for sum_so_far, new in zip(towards_head, gradients, strict=True)]
            total = total + loss * normaliser
    finally:
        _put(parameters, before)
    return total, mx.concatenate(pieces).astype(mx.float32), dict(zip(names, towards_head, strict=True))


def _nll(logits: mx.array, targets: mx.array, weights: mx.array) -> mx.array:
    return (nn.losses.cross_entropy(logits.astype(mx.float32), targets, reduction="none") * weights).sum()


def evaluate_nll(split: SplitModel, batch: Batch) -> tuple[float, float]:
    """Return (sum of weighted NLL in nats, sum of weights) over the positions that train."""
    trained = trained_positions(batch, split)
    nll = -np.array(_target_logprobs(split, batch, trained), np.float64)
    weights = np.array(trained.weights, np.float64)
    return float((nll * weights).sum()), float(weights.sum())


def token_logprobs(split: SplitModel, batch: Batch) -> np.ndarray:
    """Return (B, T) float32 log-probabilities of each token given its segment so far; 0 at starts and padding."""
    same = (batch.segment_ids[:, 1:] == batch.segment_ids[:, :-1]) & (batch.segment_ids[:, 1:] != 0)
    rows, before = np.nonzero(same)
    result = np.zeros(batch.tokens.shape, np.float32)
    result[rows, before + 1] = np.array(_target_logprobs(split, batch, _positions(batch, split, rows, before)))
    return result


def _target_logprobs(split: SplitModel, batch: Batch, where: TrainedPositions) -> mx.array:
    """Return (N,) float32 log-probabilities of the targets."""
    if where.sources.size == 0:
        return mx.zeros((0,))
    parts = []
    with split.arithmetic():
        hidden = split.hidden(batch)
        rows = hidden.reshape(-1, hidden.shape[-1])[where.sources]
        for part in chunks(rows.shape[0], split.vocab_size, split.device):
            logits = split.head(rows[part]).astype(mx.float32)
            parts.append(-nn.losses.cross_entropy(logits, where.targets[part], reduction="none"))
            mx.eval(parts[-1])
    return mx.concatenate(parts)


def logit_chunks(split: SplitModel, tokens: np.ndarray, positions_per_chunk: int = 256) -> Iterator[np.ndarray]:
    """Yield float32 (B, t, V) logits that concatenate along axis 1; the decoder runs once."""
    with split.arithmetic():
        hidden = split.decode(split.to_device(tokens))  # (B, T, H)
        mx.eval(hidden)
    for start in range(0, hidden.shape[1], positions_per_chunk):
        part = hidden[:, start : start + positions_per_chunk]
        with split.arithmetic():
            logits = split.head(part.reshape(-1, part.shape[-1])).astype(mx.float32)
        yield np.array(logits.reshape(*part.shape[:2], -1))
