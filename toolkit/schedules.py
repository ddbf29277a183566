"""The learning rate as a pure function of the update, computed on the host so that every backend sees the same floats.

Steps count optimizer updates, from 1: the first update already learns, and the last one gets the schedule's end value.
The formulas are those of `transformers.get_*_schedule_with_warmup`, evaluated at the update's number.
"""

from __future__ import annotations

import math

from toolkit.config import TrainConfig


def warmup_steps(total_steps: int, train: TrainConfig) -> int:
    """Return the number of warmup updates: a fraction of all (rounded up) when below 1, else a count."""
    steps = math.ceil(total_steps * train.warmup) if train.warmup < 1 else int(train.warmup)
    return min(steps, total_steps)


def learning_rate(step: int, total_steps: int, train: TrainConfig) -> float:
    """Return the learning rate of update `step` (1 … total_steps); beyond the end it stays at the end value.

    Raises:
        ValueError: `train.learning_rate` is not resolved yet, or `step` is below 1.
    """
    if train.learning_rate is None:
        raise ValueError("train.learning_rate must be resolved before training")
    if step < 1:
        raise ValueError("updates are counted from 1")
    warmup = warmup_steps(total_steps, train)
    if step < warmup:
        return train.learning_rate * step / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    floor = train.min_learning_rate_ratio
    return train.learning_rate * (floor + (1.0 - floor) * _shape(train.schedule, progress))


def _shape(schedule: str, progress: float) -> float:
    """Fall from 1 to 0 while progress goes from 0 to 1."""
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    if schedule == "linear":
        return 1.0 - progress
    return 1.0
