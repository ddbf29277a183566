"""Weighted next-token NLL over the positions that train, without ever holding all logits.

Shapes: B rows, T positions, N trained positions, H hidden size, V vocabulary entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.protocols import Batch
from toolkit.torch_backend.model import SplitModel

_CHUNK_LOGITS = 1 << 22
"""Logits per chunk: 16 MB in float32; small enough for a CPU's cache to help, large enough to keep a GPU busy."""


@dataclass(frozen=True)
class TrainedPositions:
    """Where a batch trains, flattened over (B, T).

    sources: (N,) int64, the positions whose hidden state predicts
    targets: (N,) int64, the tokens to be predicted
    weights: (N,) float32
    """

    sources: Tensor
    targets: Tensor
    weights: Tensor


def trained_positions(batch: Batch, split: SplitModel) -> TrainedPositions:
    """Find the positions t with weight ≠ 0 and segment[t] = segment[t − 1]; t − 1 predicts t."""
    same = batch.segment_ids[:, 1:] == batch.segment_ids[:, :-1]
    rows, before = np.nonzero(same & (batch.loss_weights[:, 1:] != 0))
    return _positions(batch, split, rows, before)


def _positions(batch: Batch, split: SplitModel, rows: np.ndarray, before: np.ndarray) -> TrainedPositions:
    return TrainedPositions(
        sources=split.to_device(rows * batch.tokens.shape[1] + before),
        targets=split.to_device(batch.tokens[rows, before + 1].astype(np.int64)),
        weights=split.to_device(batch.loss_weights[rows, before + 1].astype(np.float32)),
    )


def chunks(count: int, vocab_size: int, device: torch.device) -> Iterator[slice]:
    """Cut `count` positions so that a chunk's logits stay small."""
    scale = 8 if device.type == "cuda" else 1
    size = max(16, scale * _CHUNK_LOGITS // vocab_size)
    return (slice(start, min(count, start + size)) for start in range(0, count, size))


def backward_nll(split: SplitModel, batch: Batch, normaliser: float) -> Tensor:
    """Add the gradient of (weighted NLL / normaliser) to the parameters and return the NLL sum, a scalar on the device.

    The head's part runs chunk by chunk, forward and backward at once, on hidden states cut off from the decoder; their
    gradient then goes back through the decoder in one sweep. Only one chunk's logits exist at any time.
    """
    trained = trained_positions(batch, split)
    if trained.sources.numel() == 0:
        return torch.zeros((), device=split.device)
    with split.arithmetic():
        hidden = split.hidden(batch)
        rows = hidden.flatten(0, 1).index_select(0, trained.sources)  # (N, H)
    cut = rows.detach()
    pieces, total = [], torch.zeros((), device=split.device)
    for part in chunks(rows.shape[0], split.vocab_size, split.device):
        piece = cut[part].requires_grad_()
        with split.arithmetic():
            loss = _nll(split.head(piece), trained.targets[part], trained.weights[part])
        (loss / normaliser).backward()
        pieces.append(piece.grad)
        total += loss.detach()
    if rows.requires_grad:
        rows.backward(torch.cat(pieces))
    return total


def _nll(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    return (F.cross_entropy(logits.float(), targets, reduction="none") * weights).sum()


@torch.no_grad()
def evaluate_nll(split: SplitModel, batch: Batch) -> tuple[float, float]:
    """Return (sum of weighted NLL in nats, sum of weights) over the positions that train."""
    trained = trained_positions(batch, split)
    # On the host: Metal has no float64.
    nll = -_target_logprobs(split, batch, trained).cpu().double()
    weights = trained.weights.cpu().double()
    return float((nll * weights).sum()), float(weights.sum())


@torch.no_grad()
def token_logprobs(split: SplitModel, batch: Batch) -> np.ndarray:
    """Return (B, T) float32 log-probabilities of each token given its segment so far; 0 at starts and padding."""
    same = (batch.segment_ids[:, 1:] == batch.segment_ids[:, :-1]) & (batch.segment_ids[:, 1:] != 0)
    rows, before = np.nonzero(same)
    result = np.zeros(batch.tokens.shape, np.float32)
    result[rows, before + 1] = _target_logprobs(split, batch, _positions(batch, split, rows, before)).cpu().numpy()
    return result


def _target_logprobs(split: SplitModel, batch: Batch, where: TrainedPositions) -> Tensor:
    """Return (N,) float32 log-probabilities of the targets."""
    if where.sources.numel() == 0:
        return torch.zeros(0, device=split.device)
    with split.arithmetic():
        rows = split.hidden(batch).flatten(0, 1).index_select(0, where.sources)
        parts = [
            -F.cross_entropy(split.head(rows[part]).float(), where.targets[part], reduction="none")
            for part in chunks(rows.shape[0], split.vocab_size, split.device)
        ]
    return torch.cat(parts).float()


@torch.no_grad()
def logit_chunks(split: SplitModel, tokens: np.ndarray, positions_per_chunk: int = 256) -> Iterator[np.ndarray]:
    """Yield float32 (B, t, V) logits that concatenate along axis 1; the decoder runs once."""
    with split.arithmetic():
        hidden = split.decode(split.to_device(tokens.astype(np.int64)))  # (B, T, H)
    for start in range(0, hidden.shape[1], positions_per_chunk):
        part = hidden[:, start : start + positions_per_chunk]
        with split.arithmetic():
            logits = split.head(part.flatten(0, 1)).float()
        yield logits.view(*part.shape[:2], -1).cpu().numpy()
