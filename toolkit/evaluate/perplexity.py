"""Perplexity over the trained tokens of held-out examples: sums of NLL, divided once, exponentiated at the very end.

Never a mean of means: a batch of long answers and a batch of short ones do not weigh the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from toolkit.datasets.batching import collate
from toolkit.datasets.chat import TokenizedExample
from toolkit.evaluate.intervals import Estimate, perplexity_interval
from toolkit.protocols import Scorer


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
    advance: Callable[[int], None] | None = None,
) -> list[ExampleLoss]:
    """Measure every example, in the order given; `advance` is called with the number of examples done.

    One example at a time: a backend sums over a whole batch, and an interval needs the sums of each example.
    """
    losses: list[ExampleLoss | None] = [None] * len(examples)
    # The longest first, so that caches are laid out once.
    for index in sorted(range(len(examples)), key=lambda index: (-len(examples[index].tokens), index)):
        losses[index] = ExampleLoss(*scorer.evaluate(collate([examples[index]], pad_id)))
        if advance is not None:
            advance(1)
    return [loss for loss in losses if loss is not None]


def perplexity(losses: Sequence[ExampleLoss]) -> Estimate:
    """Combine examples into one perplexity with its 95 % interval; `n` counts examples.

    Raises ValueError when no token is trained.
    """
    return perplexity_interval([loss.loss_sum for loss in losses], [loss.weight_sum for loss in losses])
