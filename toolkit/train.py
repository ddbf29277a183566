"""The only training loop: order of events, evaluation, checkpoints, guards, stop and resume. It knows no framework.

Steps count optimizer updates, from 1. Update k uses `data.update(data_position(k))`, the learning rate
`learning_rate(k)` and dropout drawn from (seed, k − 1), all pure functions of k and of the saved `Position`: a run that
starts at one, with a restored trainer, goes on as if it had never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from toolkit.config import TrainConfig
from toolkit.datasets.batching import TrainingData
from toolkit.errors import ToolkitError
from toolkit.events import (
    Best,
    CheckpointEvent,
    CheckpointRequest,
    EarlyStopEvent,
    EvaluationEvent,
    Event,
    FinishedEvent,
    Position,
    Reason,
    RollbackEvent,
    StepEvent,
    StoppedEvent,
)
from toolkit.guards import (
    Trouble,
    after_rollback,
    data_position,
    give_up,
    is_exhausted,
    is_finite,
    judge_evaluation,
    judge_update,
)
from toolkit.initial_values import derive_seed
from toolkit.protocols import Batch, Scorer, StepFigures, StepResult, Trainer
from toolkit.schedules import learning_rate


def train(
    trainer: Trainer,
    data: TrainingData,
    validation: Sequence[Batch],
    config: TrainConfig,
    *,
    total_steps: int,
    start: Position = Position(),  # noqa: B008  (frozen)
    save: Callable[[CheckpointRequest], None],
    roll_back: Callable[[int], tuple[Trainer, Position]],
    should_stop: Callable[[], bool],
) -> Iterator[Event]:
    """Train from `start` to `total_steps` updates and report every event as it happens.

    Evaluates before the first update, every `eval_every` steps and at the end. Saves every `save_every` steps, when an
    evaluation is the best so far, at the end, and when `should_stop` says so (asked after every update; an evaluation
    that is due comes first, so that a resumed run misses none). The untrained model is never the best. On resume hand
    in the checkpoint's position.

    Figures wait on the device until a step is logged, evaluated or saved, and are judged then (`toolkit.guards`). On
    trouble `roll_back(step)` is asked to drop what was saved after `step` and to return a trainer as it was after
    that step (0: untrained) with the position saved then; where that step is lost, an earlier one will do.

    Raises:
        ToolkitError: an update has nothing to learn.
        JobFailed: trouble after `train.max_rollbacks` rollbacks, or `save` or `roll_back` failed.
    """
    return _Loop(trainer, data, validation, config, total_steps, start, save, roll_back).run(should_stop)


@dataclass
class _Pending:
    """What happened since the last logged step; results are read only when something waits for the device anyway."""

    results: list[StepResult] = field(default_factory=list)
    figures: list[StepFigures] = field(default_factory=list)
    tokens: int = 0
    trained_tokens: int = 0
    positions: int = 0
    seconds: float = 0.0

    def add(self, result: StepResult, micro_batches: Sequence[Batch]) -> None:
        self.results.append(result)
        self.tokens += sum(batch.token_count for batch in micro_batches)
        self.positions += sum(batch.tokens.size for batch in micro_batches)
        self.trained_tokens += sum(trained_token_count(batch) for batch in micro_batches)

    def read(self) -> list[StepFigures]:
        """Wait for the device; return the figures that were not read before."""
        fresh = [result.read() for result in self.results]
        self.results.clear()
        self.figures += fresh
        return fresh


@dataclass
class _Loop:
    trainer: Trainer
    data: TrainingData
    validation: Sequence[Batch]
    config: TrainConfig
    total_steps: int
    at: Position
    save: Callable[[CheckpointRequest], None]
    roll_back: Callable[[int], tuple[Trainer, Position]]
    pending: _Pending = field(default_factory=_Pending)

    def __post_init__(self) -> None:
        self.eval_every = self.config.eval_every or max(1, math.ceil(self.total_steps / 10))
        self.save_every = self.config.save_every or self.eval_every

    def run(self, should_stop: Callable[[], bool]) -> Iterator[Event]:
        began = time.perf_counter()
        if self.at.step == 0 and self.validation:
            yield self._evaluate()
        while not self._ended():
            self._update()
            stop = should_stop()
            trouble = self._judge(stop)
            if trouble or self._is_due(self.config.log_every):
                yield self._log()
            if trouble:
                yield self._go_back(trouble)
                continue
            evaluation = None
            if self.validation and self._is_due(self.eval_every):
                yield (evaluation := self._evaluate())
            if request := self._request(evaluation, stop):
                yield self._save(request)
            if stop and not self._ended():
                yield StoppedEvent(self.at.step, self.at.best)
                return
        if self.at.step < self.total_steps:
            yield EarlyStopEvent(self.at.step, self.at.guards.evaluations_without_improvement, self.at.best)
        yield FinishedEvent(self.at.step, self.at.best, time.perf_counter() - began)

    def _ended(self) -> bool:
        return self.at.step >= self.total_steps or is_exhausted(self.at.guards, self.config)

    def _is_due(self, every: int) -> bool:
        return self.at.step == self.total_steps or self.at.step % every == 0

    def _update(self) -> None:
        began = time.perf_counter()
        step = self.at.step + 1
        micro_batches = self.data.update(data_position(step, self.at.guards.left_out))
        normaliser = sum(batch.trained_weight for batch in micro_batches)
        if normaliser <= 0:
            raise ToolkitError(
                f"nothing to learn in step {step}", hint="every example needs an answer within data.max_seq_tokens"
            )
        seed = derive_seed(self.config.seed, step - 1)
        result = self.trainer.train_step(micro_batches, self._learning_rate(step), normaliser, seed)
        self.at = replace(self.at, step=step)
        self.pending.add(result, micro_batches)
        self.pending.seconds += time.perf_counter() - began

    def _learning_rate(self, step: int) -> float:
        return self.at.guards.learning_rate_scale * learning_rate(step, self.total_steps, self.config)

    def _judge(self, stop: bool) -> Trouble | None:
        """Judge the updates since the last time, if something waits for the device now, and before anything is saved.

        Judged one by one, so that when it happens decides nothing.
        """
        if not stop and not any(map(self._is_due, (self.config.log_every, self.eval_every, self.save_every))):
            return None
        began = time.perf_counter()
        fresh = self.pending.read()
        self.pending.seconds += time.perf_counter() - began
        for step, figures in enumerate(fresh, start=self.at.step - len(fresh) + 1):
            guards, trouble = judge_update(self.at.guards, step, figures, self.config)
            self.at = replace(self.at, guards=guards)
            if trouble:
                return trouble
        return None

    def _log(self) -> StepEvent:
        pending, self.pending = self.pending, _Pending()
        applied = [one for one in pending.figures if is_finite(one)]
        weight = sum(one.weight_sum for one in applied)
        return StepEvent(
            step=self.at.step,
            total_steps=self.total_steps,
            loss=sum(one.loss * one.weight_sum for one in applied) / weight if weight else math.nan,
            learning_rate=self._learning_rate(self.at.step),
            grad_norm=pending.figures[-1].grad_norm,
            tokens=pending.tokens,
            trained_tokens=pending.trained_tokens,
            tokens_per_second=pending.tokens / pending.seconds,
            step_seconds=pending.seconds / len(pending.figures),
            peak_memory_bytes=self.trainer.peak_memory_bytes(),
            padding_share=1 - pending.tokens / pending.positions,
            skipped=len(pending.figures) - len(applied),
        )

    def _go_back(self, trouble: Trouble) -> RollbackEvent:
        before = self.at
        if before.guards.rollbacks >= self.config.max_rollbacks:
            raise give_up(trouble, before.guards, self.config)
        self.trainer, restored = self.roll_back(before.guards.good_step)
        self.at = replace(restored, guards=after_rollback(before.guards, restored.guards, trouble))
        return RollbackEvent(before.step, self.at.step, trouble, self.at.guards)

    def _evaluate(self) -> EvaluationEvent:
        began = time.perf_counter()
        loss, tokens = validation_loss(self.trainer, self.validation)
        step, best = self.at.step, self.at.best
        is_best = step > 0 and math.isfinite(loss) and (best is None or loss < best.val_loss)
        if step > 0:
            guards = judge_evaluation(self.at.guards, loss, self.config)
            self.at = Position(step, Best(step, loss) if is_best else best, guards)
        return EvaluationEvent(step, loss, tokens, time.perf_counter() - began, is_best)

    def _request(self, evaluation: EvaluationEvent | None, stop: bool) -> CheckpointRequest | None:
        is_best = evaluation is not None and evaluation.is_best
        reason: Reason
        if self._ended():
            reason = "final"
        elif stop:
            reason = "interrupted"
        elif self._is_due(self.save_every):
            reason = "periodic"
        elif is_best:
            reason = "best"
        else:
            return None
        # An interruption must not decide where a later rollback goes.
        if self.at.guards.sound and (reason == "final" or is_best or self._is_due(self.save_every)):
            self.at = replace(self.at, guards=replace(self.at.guards, good_step=self.at.step))
        val_loss = evaluation.val_loss if evaluation else None
        return CheckpointRequest(self.at.step, reason, val_loss, is_best, self.at.best, self.at.guards)

    def _save(self, request: CheckpointRequest) -> CheckpointEvent:
        began = time.perf_counter()
        self.save(request)
        return CheckpointEvent(request.step, request, time.perf_counter() - began)


def trained_token_count(batch: Batch) -> int:
    """Count the positions that train."""
    same = batch.segment_ids[:, 1:] == batch.segment_ids[:, :-1]
    return int((same & (batch.loss_weights[:, 1:] != 0)).sum())


def validation_loss(scorer: Scorer, batches: Sequence[Batch]) -> tuple[float, int]:
    """Return (nats per unit of weight over all batches, positions predicted): a ratio of sums."""
    loss_sum = weight_sum = 0.0
    for batch in batches:
        loss, weight = scorer.evaluate(batch)
        loss_sum += loss
        weight_sum += weight
    return loss_sum / weight_sum if weight_sum else math.nan, sum(trained_token_count(batch) for batch in batches)
