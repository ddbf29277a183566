"""What watches over a training run: updates that are not finite, loss spikes, and a validation loss that stands still.

Pure functions from what is known so far (`GuardState`) and a new figure to what is known then. The state is saved in
every checkpoint and figures are judged in the order of their updates, so that a run that was killed and resumed comes
to the same judgements, at the same updates, as one that was not.

An update is unsound when its loss or gradient is not finite (the backend has then skipped it), or when its loss stands
out from those before it. Too many unsound updates on end are trouble: the loop goes back to the last checkpoint that
was saved in a sound state, with a lower learning rate, and leaves out the data that they were trained on.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

from toolkit.config import TrainConfig
from toolkit.errors import JobFailed
from toolkit.protocols import StepFigures

ROLLBACK_FACTOR = 0.5
"""What a rollback multiplies the learning rate by."""
SPIKING_UPDATES = 5
"""So many updates on end must stand out: fewer are batches that happen to be hard."""
DEVIATION_PER_MAD = 1.4826
"""A normal distribution's standard deviation, in units of its median absolute deviation."""
DEVIATIONS_TO_TOP_TENTH = 1.2816
"""Standard deviations from a normal distribution's median to its ninth decile."""
LEAST_DEVIATION = 0.02
"""Nats. Losses that hardly vary (a set learnt by heart) would turn every ripple into a spike."""


class Diverged(JobFailed):
    """Rolling back has not helped. `learning_rate` is one to try instead, `good_step` the last sound checkpoint's."""

    def __init__(
        self, what: str, *, where: object = "", hint: str = "", learning_rate: float = 0.0, good_step: int = 0
    ) -> None:
        """Describe the trouble; the first arguments are those of `ToolkitError`."""
        super().__init__(what, where=where, hint=hint)
        self.learning_rate = learning_rate
        self.good_step = good_step


@dataclass(frozen=True)
class GuardState:
    """All that the guards remember after an update.

    learning_rate_scale: on the schedule's rate; halved by every rollback
    rollbacks:           so far
    left_out:            positions in the data that are not trained on, sorted
    good_step:           newest checkpoint saved in a sound state (0: none yet, so a rollback starts anew)
    not_finite, spiking: unsound updates since the last sound one, by kind
    losses:              of the last `train.spike_window` sound updates, nats per unit of weight
    lowest_val_loss:     what an evaluation must go below (by `train.min_improvement`) to count as better
    evaluations_without_improvement: so many on end
    """

    learning_rate_scale: float = 1.0
    rollbacks: int = 0
    left_out: tuple[int, ...] = ()
    good_step: int = 0
    not_finite: int = 0
    spiking: int = 0
    losses: tuple[float, ...] = ()
    lowest_val_loss: float | None = None
    evaluations_without_improvement: int = 0

    @property
    def sound(self) -> bool:
        """Say whether the last update was sound."""
        return self.not_finite == self.spiking == 0


@dataclass(frozen=True)
class Trouble:
    """Unsound updates, too many on end. They are the `updates` ones that end with update `step`."""

    kind: Literal["not finite", "spike"]
    step: int
    updates: int

    def __str__(self) -> str:
        """Put it in words."""
        if self.kind == "spike":
            return f"the loss stood out {SPIKING_UPDATES} times on end (step {self.step})"
        return f"loss or gradient was not finite {self.updates} times on end (step {self.step})"


def is_finite(figures: StepFigures) -> bool:
    """Say whether an update was applied: backends skip those whose loss or gradient is not finite."""
    return math.isfinite(figures.loss) and math.isfinite(figures.grad_norm)


def judge_update(
    state: GuardState, step: int, figures: StepFigures, config: TrainConfig
) -> tuple[GuardState, Trouble | None]:
    """Take update `step` into account; return what is known then, and whether it is too much."""
    if not is_finite(figures):
        state = replace(state, not_finite=state.not_finite + 1)
    elif _stands_out(figures.loss, state.losses, config):
        state = replace(state, spiking=state.spiking + 1)
    else:
        losses = (*state.losses, figures.loss)[-config.spike_window :]
        return replace(state, not_finite=0, spiking=0, losses=losses), None
    updates = state.not_finite + state.spiking
    if state.not_finite >= config.max_skipped:
        return state, Trouble("not finite", step, updates)
    if state.spiking >= SPIKING_UPDATES:
        return state, Trouble("spike", step, updates)
    return state, None


def spike_score(loss: float, losses: Sequence[float]) -> float:
    """Return a loss's robust z-score: its distance from the median of `losses`, in their deviations.

    The deviation is the median absolute one (Iglewicz & Hoaglin 1993, "How to detect and handle outliers"), which
    outliers in the window do not move, or that of the window's upper side, if it is larger: where a tenth of the
    batches are hard ones, a hard batch is no outlier. Both are scaled to a normal distribution's, and are at least
    `LEAST_DEVIATION`.
    """
    ordered = sorted(losses)
    middle = median(ordered)
    deviation = DEVIATION_PER_MAD * median(abs(one - middle) for one in ordered)
    ninth_decile = ordered[math.ceil(0.9 * len(ordered)) - 1]
    upper = (ninth_decile - middle) / DEVIATIONS_TO_TOP_TENTH
    return (loss - middle) / max(deviation, upper, LEAST_DEVIATION)


def _stands_out(loss: float, losses: Sequence[float], config: TrainConfig) -> bool:
    full = len(losses) >= config.spike_window
    return config.spike_zscore > 0 and full and spike_score(loss, losses) > config.spike_zscore


def after_rollback(before: GuardState, restored: GuardState, trouble: Trouble) -> GuardState:
    """Return what is known after going back: `restored` from the checkpoint, and what `before` has cost.

    Positions in the data are found as they were found when they were trained on, by `before.left_out`.
    """
    first = trouble.step - trouble.updates + 1
    left_out = list(before.left_out)
    for position in [data_position(step, before.left_out) for step in range(first, trouble.step + 1)]:
        insort(left_out, position)
    return replace(
        restored,
        learning_rate_scale=before.learning_rate_scale * ROLLBACK_FACTOR,
        rollbacks=before.rollbacks + 1,
        left_out=tuple(left_out),
        not_finite=0,
        spiking=0,
    )


def data_position(step: int, left_out: Sequence[int]) -> int:
    """Return which update of the data (from 0) is trained in update `step` (from 1): the step-th one not left out."""
    position = step - 1
    for one in left_out:  # sorted
        position += one <= position
    return position


def give_up(trouble: Trouble, state: GuardState, config: TrainConfig) -> Diverged:
    """Return the error for trouble that `train.max_rollbacks` rollbacks have not ended."""
    rate = (config.learning_rate or 0.0) * state.learning_rate_scale * ROLLBACK_FACTOR
    tried = f"; {state.rollbacks} rollbacks, each with half the learning rate, did not help" if state.rollbacks else ""
    return Diverged(
        f"{trouble}{tried}",
        hint="lower train.learning_rate or train.max_grad_norm, lengthen train.warmup, or look at the data",
        learning_rate=rate,
        good_step=state.good_step,
    )


def judge_evaluation(state: GuardState, val_loss: float, config: TrainConfig) -> GuardState:
    """Take a validation loss into account."""
    lowest = state.lowest_val_loss
    if math.isfinite(val_loss) and (lowest is None or lowest - val_loss > config.min_improvement):
        return replace(state, lowest_val_loss=val_loss, evaluations_without_improvement=0)
    return replace(state, evaluations_without_improvement=state.evaluations_without_improvement + 1)


def is_exhausted(state: GuardState, config: TrainConfig) -> bool:
    """Say whether the validation loss has stood still for `train.patience` evaluations."""
    return 0 < config.patience <= state.evaluations_without_improvement
