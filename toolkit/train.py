"""The only training loop: order of events, evaluation, checkpoints, stop and resume. It knows no framework.

Steps count optimizer updates, from 1. Update k uses `data.update(k - 1)`, the learning rate `learning_rate(k)` and
dropout drawn from (seed, k − 1), all pure functions: a run that starts at `start_update` with a restored trainer goes
on as if it had never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from toolkit.config import TrainConfig
from toolkit.datasets.batching import TrainingData
from toolkit.errors import JobFailed, ToolkitError
from toolkit.initial_values import derive_seed
from toolkit.protocols import Batch, Scorer, StepFigures, StepResult, Trainer
from toolkit.schedules import learning_rate

MAX_SKIPPED_IN_A_ROW = 5
"""Updates whose gradient is not finite are skipped; so many on end mean that the run is lost."""


Reason = Literal["periodic", "best", "final", "interrupted"]


@dataclass(frozen=True)
class Best:
    """The lowest validation loss measured so far (nats per unit of weight) and the step it was measured at."""

    step: int
    val_loss: float


@dataclass(frozen=True)
class CheckpointRequest:
    """Asks the caller to save the trainer's state after `step` updates.

    val_loss: measured at this very step, else None
    is_best:  this step has the lowest validation loss of the run (always False without a validation set)
    best:     the best measurement so far, to be handed to `train` on resume
    """

    step: int
    reason: Reason
    val_loss: float | None
    is_best: bool
    best: Best | None


@dataclass(frozen=True)
class StepEvent:
    """One logged step. Figures cover the steps since the previous StepEvent (`train.log_every`).

    loss:      nats per unit of weight, over all those steps
    grad_norm: before clipping, of the last of them
    tokens, trained_tokens: tokens that are no padding, and those predicted, in those steps
    skipped:   updates skipped because their gradient was not finite
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
class StoppedEvent:
    """The caller asked to stop; the state after `step` updates is saved."""

    step: int
    best: Best | None


@dataclass(frozen=True)
class FinishedEvent:
    """All steps are done and saved. `seconds` is the time since `train` began."""

    step: int
    best: Best | None
    seconds: float


Event = StepEvent | EvaluationEvent | CheckpointEvent | StoppedEvent | FinishedEvent


@dataclass
class _Pending:
    """What happened since the last logged step; results are read only when it is logged."""

    results: list[StepResult] = field(default_factory=list)
    tokens: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0

    def add(self, result: StepResult, micro_batches: Sequence[Batch]) -> None:
        self.results.append(result)
        self.tokens += sum(batch.token_count for batch in micro_batches)
        self.trained_tokens += sum(trained_token_count(batch) for batch in micro_batches)


def trained_token_count(batch: Batch) -> int:
    """Count the positions that train."""
    same = batch.segment_ids[:, 1:] == batch.segment_ids[:, :-1]
    return int((same & (batch.loss_weights[:, 1:] != 0)).sum())


def train(
    trainer: Trainer,
    data: TrainingData,
    validation: Sequence[Batch],
    config: TrainConfig,
    *,
    total_steps: int,
    start_update: int = 0,
    best: Best | None = None,
    save: Callable[[CheckpointRequest], None],
    should_stop: Callable[[], bool],
) -> Iterator[Event]:
    """Train from `start_update` to `total_steps` updates and report every event as it happens.

    Evaluates before the first update, every `eval_every` steps and at the end. Saves every `save_every` steps, when an
    evaluation is the best so far, at the end, and when `should_stop` says so (asked after every update; an evaluation
    that is due comes first, so that a resumed run misses none). The untrained model is never the best. On resume hand
    in the checkpoint's `best`.

    Raises:
        ToolkitError: an update has nothing to learn.
        JobFailed: the gradient was not finite `MAX_SKIPPED_IN_A_ROW` times on end, or `save` failed.
    """
    return _Loop(trainer, data, validation, config, total_steps, best, save).run(start_update, should_stop)


@dataclass
class _Loop:
    trainer: Trainer
    data: TrainingData
    validation: Sequence[Batch]
    config: TrainConfig
    total_steps: int
    best: Best | None
    save: Callable[[CheckpointRequest], None]
    pending: _Pending = field(default_factory=_Pending)
    skipped_in_a_row: int = 0

    def __post_init__(self) -> None:
        self.eval_every = self.config.eval_every or max(1, math.ceil(self.total_steps / 10))
        self.save_every = self.config.save_every or self.eval_every

    def run(self, start_update: int, should_stop: Callable[[], bool]) -> Iterator[Event]:
        began = time.perf_counter()
        if start_update == 0 and self.validation:
            yield self._evaluate(0)
        for step in range(start_update + 1, self.total_steps + 1):
            self._update(step)
            last = step == self.total_steps
            if last or step % self.config.log_every == 0:
                yield self._log(step)
            stop = should_stop() and not last
            evaluation = None
            if self.validation and (last or step % self.eval_every == 0):
                yield (evaluation := self._evaluate(step))
            if request := self._request(step, evaluation, last, stop):
                yield self._save(request)
            if stop:
                yield StoppedEvent(step, self.best)
                return
        yield FinishedEvent(self.total_steps, self.best, time.perf_counter() - began)

    def _update(self, step: int) -> None:
        began = time.perf_counter()
        micro_batches = self.data.update(step - 1)
        normaliser = sum(batch.trained_weight for batch in micro_batches)
        if normaliser <= 0:
            raise ToolkitError(
                f"nothing to learn in step {step}", hint="every example needs an answer within data.max_seq_tokens"
            )
        rate = learning_rate(step, self.total_steps, self.config)
        result = self.trainer.train_step(micro_batches, rate, normaliser, derive_seed(self.config.seed, step - 1))
        self.pending.add(result, micro_batches)
        self.pending.seconds += time.perf_counter() - began

    def _log(self, step: int) -> StepEvent:
        began = time.perf_counter()
        pending, self.pending = self.pending, _Pending()
        figures = [result.read() for result in pending.results]
        skipped = sum(self._note_skip(step, one) for one in figures)
        weight = sum(one.weight_sum for one in figures)
        seconds = pending.seconds + time.perf_counter() - began
        return StepEvent(
            step=step,
            total_steps=self.total_steps,
            loss=sum(one.loss * one.weight_sum for one in figures) / weight,
            learning_rate=learning_rate(step, self.total_steps, self.config),
            grad_norm=figures[-1].grad_norm,
            tokens=pending.tokens,
            trained_tokens=pending.trained_tokens,
            tokens_per_second=pending.tokens / seconds,
            step_seconds=seconds / len(figures),
            peak_memory_bytes=self.trainer.peak_memory_bytes(),
            skipped=skipped,
        )

    def _note_skip(self, step: int, figures: StepFigures) -> bool:
        skipped = not (math.isfinite(figures.loss) and math.isfinite(figures.grad_norm))
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0
        if self.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise JobFailed(
                f"loss or gradient was not finite {MAX_SKIPPED_IN_A_ROW} times on end (step {step})",
                hint="lower train.learning_rate, then --resume from the last checkpoint",
            )
        return skipped

    def _evaluate(self, step: int) -> EvaluationEvent:
        began = time.perf_counter()
        loss, tokens = validation_loss(self.trainer, self.validation)
        is_best = step > 0 and (self.best is None or loss < self.best.val_loss)
        if is_best:
            self.best = Best(step, loss)
        return EvaluationEvent(step, loss, tokens, time.perf_counter() - began, is_best)

    def _request(
        self, step: int, evaluation: EvaluationEvent | None, last: bool, stop: bool
    ) -> CheckpointRequest | None:
        is_best = evaluation is not None and evaluation.is_best
        reason: Reason
        if last:
            reason = "final"
        elif stop:
            reason = "interrupted"
        elif step % self.save_every == 0:
            reason = "periodic"
        elif is_best:
            reason = "best"
        else:
            return None
        return CheckpointRequest(step, reason, evaluation.val_loss if evaluation else None, is_best, self.best)

    def _save(self, request: CheckpointRequest) -> CheckpointEvent:
        began = time.perf_counter()
        self.save(request)
        return CheckpointEvent(request.step, request, time.perf_counter() - began)


def validation_loss(scorer: Scorer, batches: Sequence[Batch]) -> tuple[float, int]:
    """Return (nats per unit of weight over all batches, positions predicted): a ratio of sums."""
    loss_sum = weight_sum = 0.0
    for batch in batches:
        loss, weight = scorer.evaluate(batch)
        loss_sum += loss
        weight_sum += weight
    return loss_sum / weight_sum if weight_sum else math.nan, sum(trained_token_count(batch) for batch in batches)
