from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import pytest

from toolkit.config import TrainConfig
from toolkit.errors import JobFailed, ToolkitError
from toolkit.events import (
    Best,
    CheckpointEvent,
    CheckpointRequest,
    EvaluationEvent,
    FinishedEvent,
    Position,
    StepEvent,
    StoppedEvent,
)
from toolkit.guards import GuardState
from toolkit.initial_values import derive_seed
from toolkit.protocols import Batch, StepFigures, Trainer, TrainerState
from toolkit.schedules import learning_rate
from toolkit.tensor_files import StoredTensor
from toolkit.train import train, validation_loss


def batch_of(*lengths: int, weight: float = 1.0) -> Batch:
    """Rows of ones of the given lengths; every token but a row's first is trained with `weight`."""
    shape = (len(lengths), max(lengths))
    real = np.arange(shape[1]) < np.array(lengths)[:, None]
    return Batch(
        real.astype(np.int32),
        (real * weight).astype(np.float32),
        real.astype(np.int32),
        np.tile(np.arange(shape[1], dtype=np.int32), (shape[0], 1)),
    )


@dataclass(frozen=True)
class Figures:
    figures: StepFigures
    reads: list[int]
    index: int

    def read(self) -> StepFigures:
        self.reads.append(self.index)
        return self.figures


@dataclass
class NumpyTrainer:
    """One weight; a step adds what it was called with, so that any difference in the calls shows in the weight."""

    weight: np.ndarray = field(default_factory=lambda: np.zeros(1))
    updates: int = 0
    calls: list[tuple] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)
    evaluations: list[int] = field(default_factory=list)
    losses: dict[int, float] = field(default_factory=dict)
    broken: Sequence[int] = ()

    def train_step(self, micro_batches, learning_rate, normaliser, seed):
        self.updates += 1
        self.calls.append((len(micro_batches), learning_rate, normaliser, seed))
        self.weight = self.weight + learning_rate * sum(b.tokens.sum() for b in micro_batches) / normaliser + seed % 97
        loss = math.nan if self.updates in self.broken else float(self.updates)
        weight = sum(batch.trained_weight for batch in micro_batches)
        return Figures(StepFigures(loss, weight, 0.5), self.reads, self.updates)

    def evaluate(self, batch):
        self.evaluations.append(self.updates)
        weight = batch.trained_weight
        return self.losses.get(self.updates, 10.0 - self.updates) * weight, weight

    def state(self):
        return TrainerState({"w": StoredTensor("w", "float64", self.weight.copy())}, {}, self.updates)

    def restore(self, state):
        self.weight, self.updates = state.weights["w"].array.copy(), state.updates

    def peak_memory_bytes(self):
        return 123

    def adapters(self, enabled):
        return nullcontext()


class Data:
    """Update k has k + 1 rows in its first micro-batch and a lone row in its second."""

    updates_per_epoch = 4

    def __init__(self) -> None:
        self.asked: list[int] = []

    def update(self, index: int) -> list[Batch]:
        self.asked.append(index)
        return [batch_of(*[4] * (index % 4 + 1)), batch_of(7)]


CONFIG = TrainConfig(learning_rate=0.1, warmup=2.0, eval_every=3, save_every=4, seed=11)
VALIDATION = [batch_of(5, 3), batch_of(9)]


def no_rollback(step):
    raise AssertionError("rolled back")


def run(trainer, config=CONFIG, *, total=10, validation=VALIDATION, stop_at=None, data=None, **more):
    saved: list[CheckpointRequest] = []
    events = train(
        trainer,
        data or Data(),
        validation,
        config,
        total_steps=total,
        save=more.pop("save", saved.append),
        roll_back=more.pop("roll_back", no_rollback),
        should_stop=lambda: stop_at is not None and trainer.updates >= stop_at,
        **more,
    )
    return list(events), saved


def of(events, kind) -> list:
    return [event for event in events if isinstance(event, kind)]


def test_the_loop_takes_a_trainer_of_any_framework_and_imports_none():
    trainer: Trainer = NumpyTrainer()  # type: ignore[assignment]
    assert run(trainer)[0]
    code = "import sys, toolkit.train; print([m for m in ('torch', 'mlx', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_every_update_gets_its_data_rate_normaliser_and_seed():
    trainer, data = NumpyTrainer(), Data()
    run(trainer, data=data)
    assert data.asked == list(range(10))
    assert trainer.calls == [
        (2, learning_rate(k, 10, CONFIG), float(3 * ((k - 1) % 4 + 1) + 6), derive_seed(11, k - 1))
        for k in range(1, 11)
    ]


def test_the_normaliser_is_the_weight_that_trains_not_the_number_of_tokens():
    class Weighted(Data):
        def update(self, index):
            return [batch_of(4, 2, weight=0.5), batch_of(3)]

    trainer = NumpyTrainer()
    run(trainer, data=Weighted(), total=1)
    assert trainer.calls[0][2] == pytest.approx((3 + 1) * 0.5 + 2)


def test_evaluates_before_the_first_update_every_eval_every_steps_and_at_the_end():
    events, _ = run(NumpyTrainer())
    assert [event.step for event in of(events, EvaluationEvent)] == [0, 3, 6, 9, 10]


def test_saves_every_save_every_steps_at_a_new_best_and_at_the_end():
    trainer = NumpyTrainer(losses={0: 0.1, 3: 5.0, 6: 7.0, 9: 4.0, 10: 4.5})
    events, saved = run(trainer)
    assert [(request.step, request.reason, request.is_best) for request in saved] == [
        (3, "best", True),
        (4, "periodic", False),
        (8, "periodic", False),
        (9, "best", True),
        (10, "final", False),
    ]
    assert [request.val_loss for request in saved] == [5.0, None, None, 4.0, 4.5]
    assert [event.request for event in of(events, CheckpointEvent)] == saved
    assert saved[-1].best == of(events, FinishedEvent)[0].best == Best(9, 4.0)


def test_the_untrained_model_is_never_the_best():
    _, saved = run(NumpyTrainer(losses={0: 0.1}))
    assert saved[-1].best == Best(10, 0.0)


def test_a_step_is_reported_before_its_evaluation_and_its_evaluation_before_its_checkpoint():
    events, _ = run(NumpyTrainer(), replace_config(save_every=3, log_every=1), total=3)
    assert [(type(event).__name__, event.step) for event in events] == [
        ("EvaluationEvent", 0),
        ("StepEvent", 1),
        ("StepEvent", 2),
        ("StepEvent", 3),
        ("EvaluationEvent", 3),
        ("CheckpointEvent", 3),
        ("FinishedEvent", 3),
    ]


def replace_config(**fields) -> TrainConfig:
    return CONFIG.model_copy(update=fields)


def test_by_default_it_evaluates_and_saves_ten_times_a_run():
    events, saved = run(NumpyTrainer(losses={3: 0.0}), replace_config(eval_every=None, save_every=None), total=25)
    assert [event.step for event in of(events, EvaluationEvent)] == [0, 3, 6, 9, 12, 15, 18, 21, 24, 25]
    assert [request.step for request in saved] == [3, 6, 9, 12, 15, 18, 21, 24, 25]


def test_a_logged_step_covers_the_steps_since_the_last_one_weighted_by_their_tokens():
    trainer = NumpyTrainer()
    events, _ = run(trainer, replace_config(log_every=4), total=6)
    first, second = of(events, StepEvent)
    assert (first.step, second.step) == (4, 6)
    weights = [9, 12, 15, 18]
    assert first.loss == pytest.approx(sum(k * w for k, w in enumerate(weights, start=1)) / sum(weights))
    assert first.trained_tokens == sum(weights)
    assert first.tokens == 4 * (1 + 2 + 3 + 4) + 4 * 7
    assert second.trained_tokens == 9 + 12
    assert first.learning_rate == learning_rate(4, 6, CONFIG)
    assert first.peak_memory_bytes == 123 and first.tokens_per_second > 0 and first.step_seconds > 0


def test_figures_are_read_only_when_they_are_logged():
    trainer = NumpyTrainer()
    seen = []
    events = train(
        trainer,
        Data(),
        [],
        replace_config(log_every=3, save_every=100),
        total_steps=6,
        save=lambda _: None,
        roll_back=no_rollback,
        should_stop=lambda: bool(seen.append((trainer.updates, list(trainer.reads)))),
    )
    assert len(of(list(events), StepEvent)) == 2
    assert dict(seen)[3] == [] and dict(seen)[4] == [1, 2, 3] and dict(seen)[6] == [1, 2, 3]


def test_the_validation_loss_is_a_ratio_of_sums():
    class Uneven(NumpyTrainer):
        def evaluate(self, batch):
            return (30.0, 6.0) if batch.tokens.shape[0] == 2 else (2.0, 8.0)

    assert validation_loss(Uneven(), VALIDATION) == (pytest.approx(32 / 14), 6 + 8)


def test_without_a_validation_set_nothing_is_evaluated_and_nothing_is_the_best():
    trainer = NumpyTrainer()
    events, saved = run(trainer, validation=[])
    assert of(events, EvaluationEvent) == [] and trainer.evaluations == []
    assert [(request.step, request.is_best, request.best) for request in saved] == [
        (4, False, None),
        (8, False, None),
        (10, False, None),
    ]


def test_a_request_to_stop_saves_where_it_is_and_ends():
    events, saved = run(NumpyTrainer(), stop_at=5)
    guards = GuardState(good_step=4, losses=(1.0, 2.0, 3.0, 4.0, 5.0), lowest_val_loss=7.0)
    assert saved[-1] == CheckpointRequest(5, "interrupted", None, False, Best(3, 7.0), guards)
    assert [type(event) for event in events[-2:]] == [CheckpointEvent, StoppedEvent]
    assert events[-1] == StoppedEvent(5, Best(3, 7.0))
    assert not of(events, FinishedEvent)


def test_a_request_to_stop_after_the_last_step_finds_the_run_finished():
    events, saved = run(NumpyTrainer(), stop_at=10)
    assert isinstance(events[-1], FinishedEvent) and saved[-1].reason == "final"


@pytest.mark.parametrize("stop_at", range(1, 10))
def test_a_run_resumed_after_any_step_ends_where_an_uninterrupted_one_does(stop_at):
    early_best = {3: -5.0}
    whole, broken_off, later = (NumpyTrainer(losses=early_best) for _ in range(3))
    whole_events, whole_saved = run(whole)
    first_events, first_saved = run(broken_off, stop_at=stop_at)
    later.restore(broken_off.state())
    events, saved = run(later, start=Position(stop_at, first_saved[-1].best, first_saved[-1].guards))
    assert later.weight == whole.weight
    assert broken_off.calls + later.calls == whole.calls
    both = of(first_events, EvaluationEvent) + of(events, EvaluationEvent)
    assert [event.step for event in both] == [event.step for event in of(whole_events, EvaluationEvent)]
    assert saved[-1].best == whole_saved[-1].best


def test_resuming_a_finished_run_does_nothing():
    trainer = NumpyTrainer(updates=10)
    events, saved = run(trainer, start=Position(10, Best(9, 1.0)))
    assert [type(event) for event in events] == [FinishedEvent] and not saved and not trainer.calls


def test_a_step_without_anything_to_learn_is_refused_by_number():
    class Empty(Data):
        def update(self, index):
            return [batch_of(1, 1)] if index == 2 else super().update(index)

    with pytest.raises(ToolkitError, match="nothing to learn in step 3"):
        run(NumpyTrainer(), data=Empty())


def test_skipped_steps_are_counted_and_too_many_on_end_fail_the_job():
    events, _ = run(NumpyTrainer(broken=(2, 3, 5)))
    assert [event.skipped for event in of(events, StepEvent)] == [0, 1, 1, 0, 1, 0, 0, 0, 0, 0]
    assert [event.loss for event in of(events, StepEvent)][:4] == pytest.approx([1, math.nan, math.nan, 4], nan_ok=True)
    with pytest.raises(JobFailed, match=r"not finite 5 times on end \(step 6\)\. lower train.learning_rate"):
        run(NumpyTrainer(broken=(2, 3, 4, 5, 6)), replace_config(max_rollbacks=0))


def test_a_save_that_fails_ends_the_run():
    def full_disk(_):
        raise JobFailed("no space left on the disk")

    with pytest.raises(JobFailed, match="no space left"):
        run(NumpyTrainer(), save=full_disk)
