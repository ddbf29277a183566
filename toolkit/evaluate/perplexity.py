"""Perplexity over the trained tokens of held-out examples: sums of NLL, divided once, exponentiated at the very end.

Never a mean of means: a batch of long answers and a batch of short ones do not weigh the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.datasets.batching import collate
from toolkit.datasets.chat import TokenizedExample
from toolkit.evaluate.intervals import Estimate, perplexity_interval
from toolkit.protocols import Batch, Scorer


@dataclass(frozen=True)
class ExampleLoss:
    """loss_sum: weighted NLL in nats over an example's trained tokens; weight_sum: their weights."""

    loss_sum: float
    weight_sum: float


def example_losses(
    scorer: Scorer,
    examples: Sequence[TokenizedExample],
    *,
    pad_id: int,
    batch_size: int = 16,
    advance: Callable[[int], None] | None = None,
) -> list[ExampleLoss]:
    """Measure every example, in the order given.

    Examples are batched by length, so that little is spent on padding. `advance` gets the number of examples done.
    """
    losses: list[ExampleLoss | None] = [None] * len(examples)
    by_length = sorted(range(len(examples)), key=lambda index: (len(examples[index].tokens), index))
    for start in range(0, len(by_length), batch_size):
        chosen = by_length[start : start + batch_size]
        batch = collate([examples[index] for index in chosen], pad_id)
        for index, loss in zip(chosen, _row_losses(scorer, batch), strict=True):
            losses[index] = loss
        if advance is not None:
            advance(len(chosen))
    return [loss for loss in losses if loss is not None]


def _row_losses(scorer: Scorer, batch: Batch) -> list[ExampleLoss]:
    """Sum NLL and weights within each row, over the positions that train (see `toolkit.protocols`)."""
    logprobs = np.asarray(scorer.token_logprobs(batch), dtype=np.float64)  # (B, T)
    weights = batch.loss_weights.astype(np.float64)  # (B, T)
    weights[:, 0] = 0.0
    weights[:, 1:] *= batch.segment_ids[:, 1:] == batch.segment_ids[:, :-1]
    # Where the weight is 0 the log-probability may be -inf or NaN (padding): 0 * inf would poison the sum.
    losses = np.where(weights != 0, -logprobs * weights, 0.0).sum(axis=1)
    return [ExampleLoss(float(loss), float(weight)) for loss, weight in zip(losses, weights.sum(axis=1), strict=True)]


def perplexity(losses: Sequence[ExampleLoss]) -> Estimate:
    """Combine examples into one perplexity with its 95 % interval; `n` counts examples.

    Raises ValueError when no token is trained.
    """
    return perplexity_interval([loss.loss_sum for loss in losses], [loss.weight_sum for loss in losses])
