"""The learning rate as a pure function of the update, computed on the host so that every backend sees the same floats.

Steps count optimizer updates, from 1: the first update already learns, and the last one gets the schedule's end value.
The formulas are those of `transformers.get_*_schedule_with_warmup` and `get_wsd_schedule`, evaluated at the update's
number; where those divide before they compare, whole numbers are compared here, so that a restart falls on its step.

    constant         peak
    linear, cosine   from the peak to the floor (`min_learning_rate_ratio` of it)
    cosine_restarts  `schedule_cycles` cosines of the same length, each from the peak
    wsd              peak, then over the last `decay` steps down to the floor (Hu et al. 2024, arXiv:2404.06395; Hägele
                     et al. 2024, arXiv:2405.18392, for the shape 1-sqrt)

Linear warmup comes before each. An option of another schedule than the chosen one has no effect.
"""

from __future__ import annotations

import math

from toolkit.config import TrainConfig


def warmup_steps(total_steps: int, train: TrainConfig) -> int:
    """Return the number of warmup updates: a fraction of all (rounded up) when below 1, else a count."""
    return min(_steps(train.warmup, total_steps), total_steps)


def decay_steps(total_steps: int, train: TrainConfig) -> int:
    """Return the number of updates over which wsd falls: a fraction or a count, at most what warmup leaves."""
    return min(_steps(train.decay, total_steps), total_steps - warmup_steps(total_steps, train))


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
    done, length = min(step, total_steps) - warmup, total_steps - warmup
    height = _height(done, length, decay_steps(total_steps, train), train) if length else 1.0
    floor = train.min_learning_rate_ratio
    return train.learning_rate * (floor + (1.0 - floor) * height)


def _steps(amount: float, total_steps: int) -> int:
    return math.ceil(total_steps * amount) if amount < 1 else int(amount)


def _height(done: int, length: int, decay: int, train: TrainConfig) -> float:
    """Return where the rate stands between floor (0) and peak (1) when `done` of `length` updates have passed."""
    if train.schedule == "constant":
        return 1.0
    if train.schedule == "wsd":
        falling = done - (length - decay)
        return _fall(train.decay_shape, falling / decay) if falling > 0 else 1.0
    if train.schedule == "cosine_restarts":
        return _fall("cosine", train.schedule_cycles * done % length / length) if done < length else 0.0
    return _fall(train.schedule, done / length)


def _fall(shape: str, progress: float) -> float:
    """Fall from 1 to 0 while progress goes from 0 to 1."""
    if shape == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    if shape == "1-sqrt":
        return 1.0 - math.sqrt(progress)
    return 1.0 - progress
