"""What the loop reports as it happens, and what it asks its caller to save and to restore."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolkit.guards import GuardState, Trouble

Reason = Literal["periodic", "best", "final", "interrupted"]


@dataclass(frozen=True)
class Best:
    """The lowest validation loss measured so far (nats per unit of weight) and the step it was measured at."""

    step: int
    val_loss: float


@dataclass(frozen=True)
class Position:
    """Where a run stands after `step` updates: with the trainer's state, all that is needed to go on exactly."""

    step: int = 0
    best: Best | None = None
    guards: GuardState = GuardState()


@dataclass(frozen=True)
class CheckpointRequest:
    """Asks the caller to save the trainer's state after `step` updates.

    val_loss: measured at this very step, else None
    is_best:  this step has the lowest validation loss of the run (always False without a validation set)
    best:     the best measurement so far; with `guards` to be handed to `train` on resume
    """

    step: int
    reason: Reason
    val_loss: float | None
    is_best: bool
    best: Best | None
    guards: GuardState = GuardState()


@dataclass(frozen=True)
class StepEvent:
    """One logged step. Figures cover the steps since the previous StepEvent (`train.log_every`).

    loss:      nats per unit of weight, over those of the steps that were not skipped (NaN when all were)
    grad_norm: before clipping, of the last of them
    tokens, trained_tokens: tokens that are no padding, and those predicted, in those steps
    padding_share: the part of their positions that was padding
    skipped:   updates skipped because their loss or gradient was not finite
    """

    step: int
    total_steps: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    trained_tokens: int
    tokens_per_second: float
    step_seconds: float
    peak_memory_bytes: int
    padding_share: float = 0.0
    skipped: int = 0


@dataclass(frozen=True)
class EvaluationEvent:
    """The validation loss after `step` updates, in nats per unit of weight; `val_tokens` were predicted."""

    step: int
    val_loss: float
    val_tokens: int
    seconds: float
    is_best: bool


@dataclass(frozen=True)
class CheckpointEvent:
    """A checkpoint has been saved."""

    step: int
    request: CheckpointRequest
    seconds: float


@dataclass(frozen=True)
class RollbackEvent:
    """The run has gone back from `step` to `to_step` because of `trouble`; `guards` say how it goes on from there."""

    step: int
    to_step: int
    trouble: Trouble
    guards: GuardState


@dataclass(frozen=True)
class EarlyStopEvent:
    """The validation loss has stood still for `evaluations` evaluations (`train.patience`), so the run ends here."""

    step: int
    evaluations: int
    best: Best | None


@dataclass(frozen=True)
class StoppedEvent:
    """The caller asked to stop; the state after `step` updates is saved."""

    step: int
    best: Best | None


@dataclass(frozen=True)
class FinishedEvent:
    """All steps are done (or no more of them would help) and saved. `seconds` is the time since `train` began."""

    step: int
    best: Best | None
    seconds: float


Event = StepEvent | EvaluationEvent | CheckpointEvent | RollbackEvent | EarlyStopEvent | StoppedEvent | FinishedEvent
