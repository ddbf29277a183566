from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from toolkit.config import TrainConfig
from toolkit.guards import (
    GuardState,
    Trouble,
    after_rollback,
    data_position,
    give_up,
    is_exhausted,
    judge_evaluation,
    judge_update,
    spike_score,
)
from toolkit.protocols import StepFigures

CONFIG = TrainConfig(learning_rate=0.1, max_skipped=3, spike_window=10, spike_zscore=8.0)


def judge(losses, config=CONFIG):
    """Judge losses in turn; return the last state, and every trouble."""
    state, troubles = GuardState(), []
    for step, loss in enumerate(losses, start=1):
        figures = loss if isinstance(loss, StepFigures) else StepFigures(loss, 8.0, 1.0)
        state, trouble = judge_update(state, step, figures, config)
        troubles += [trouble] if trouble else []
    return state, troubles


def steady(count: int, seed: int = 0) -> list[float]:
    draw = random.Random(seed)
    return [2.0 + draw.gauss(0.0, 0.1) for _ in range(count)]


@pytest.mark.parametrize("fault", [math.nan, math.inf, -math.inf])
def test_a_loss_or_a_gradient_that_is_not_finite_is_unsound(fault):
    for figures in (StepFigures(fault, 8.0, 1.0), StepFigures(1.0, 8.0, fault)):
        state, trouble = judge_update(GuardState(), 1, figures, CONFIG)
        assert (state.not_finite, state.sound, state.losses, trouble) == (1, False, (), None)


def test_so_many_on_end_are_trouble_and_a_sound_one_between_begins_anew():
    bad = math.nan
    assert judge([bad, bad, 1.0, bad, bad])[1] == []
    assert judge([1.0, bad, bad, bad])[1] == [Trouble("not finite", 4, 3)]


def test_a_spike_is_trouble_only_when_it_lasts():
    calm = steady(10)
    assert judge([*calm, *[9.0] * 4, *steady(5, 1), *[9.0] * 4, *steady(3, 2)])[1] == []
    assert judge([*calm, *[9.0] * 5])[1] == [Trouble("spike", 15, 5)]


def test_before_the_window_is_full_nothing_is_a_spike():
    assert judge([*steady(9), 99.0])[0].spiking == 0
    assert judge([*steady(10), 99.0])[0].spiking == 1


def test_a_fall_is_no_spike():
    assert judge([*steady(10), *[0.01] * 30])[1] == []


def test_a_score_of_zero_switches_spikes_off():
    assert judge([*steady(10), *[99.0] * 9], CONFIG.model_copy(update={"spike_zscore": 0.0}))[1] == []


def test_spiking_losses_do_not_move_the_window_that_they_are_compared_with():
    state, _ = judge([*steady(10), 9.0, 9.0])
    assert max(state.losses) < 3.0 and state.spiking == 2


def test_the_window_forgets_what_is_older():
    state, _ = judge(steady(25))
    assert state.losses == tuple(steady(25)[-10:])


def test_updates_that_are_not_finite_do_not_end_a_spike():
    losses = [9.0, math.nan, 9.0, 9.0, math.nan, 9.0, 9.0]
    assert judge([*steady(10), *losses])[1] == [Trouble("spike", 17, 7)]


@given(st.lists(st.floats(0, 20), min_size=3, max_size=40), st.floats(0, 20))
@examples(max_examples=100, deadline=None)
def test_the_score_is_that_of_scipys_median_absolute_deviation(losses, loss):
    from scipy.stats import median_abs_deviation, norm

    upper = float(np.quantile(losses, 0.9, method="inverted_cdf") - np.median(losses)) / norm.ppf(0.9)
    deviation = max(float(median_abs_deviation(losses, scale="normal")), upper, 0.02)
    expected = (loss - float(np.median(losses))) / deviation
    assert spike_score(loss, losses) == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_losses_that_hardly_vary_do_not_make_a_ripple_a_spike():
    assert judge([*[0.001] * 10, *[0.1] * 5])[1] == []


def test_where_some_batches_are_hard_a_row_of_hard_ones_is_no_spike():
    easy_and_hard = [*[0.05] * 8, 0.6, 0.6]
    assert judge([*easy_and_hard, *[0.9] * 6])[1] == []
    assert judge([*easy_and_hard, *[9.0] * 5])[1] == [Trouble("spike", 15, 5)]


@given(st.sets(st.integers(0, 30)), st.integers(1, 30))
@examples(max_examples=200, deadline=None)
def test_updates_train_on_the_data_in_order_but_for_what_is_left_out(left_out, count):
    order = [position for position in range(100) if position not in left_out]
    assert [data_position(step, sorted(left_out)) for step in range(1, count + 1)] == order[:count]


def test_a_rollback_halves_the_rate_and_leaves_out_the_data_of_the_unsound_updates():
    before = GuardState(rollbacks=1, learning_rate_scale=0.5, left_out=(2, 6), not_finite=3, losses=(1.0,))
    restored = GuardState(good_step=4, losses=(2.0, 3.0), lowest_val_loss=1.5, not_finite=0)
    after = after_rollback(before, restored, Trouble("not finite", 8, 3))
    # Steps 6, 7 and 8 were trained on positions 7, 8 and 9.
    assert after == GuardState(0.25, 2, (2, 6, 7, 8, 9), 4, 0, 0, (2.0, 3.0), 1.5, 0)


def test_giving_up_names_what_to_change_and_a_rate_to_try():
    state = GuardState(rollbacks=2, learning_rate_scale=0.25)
    error = give_up(Trouble("spike", 9, 3), state, CONFIG)
    assert error.learning_rate == pytest.approx(0.1 * 0.125)
    assert str(error) == (
        "the loss stood out 5 times on end (step 9); 2 rollbacks, each with half the learning rate, did not help. "
        "lower train.learning_rate or train.max_grad_norm, lengthen train.warmup, or look at the data"
    )


def evaluate(losses, **fields):
    config = TrainConfig(**fields)
    state, ends = GuardState(), []
    for loss in losses:
        state = judge_evaluation(state, loss, config)
        ends.append(is_exhausted(state, config))
    return state, ends


def test_patience_counts_evaluations_without_a_better_loss_on_end():
    state, ends = evaluate([3.0, 2.0, 2.1, 2.2, 1.9, 1.9, 2.5, math.nan], patience=3)
    assert ends == [False] * 7 + [True]
    assert (state.lowest_val_loss, state.evaluations_without_improvement) == (1.9, 3)


def test_a_loss_is_better_only_when_it_is_lower_by_more_than_asked():
    _, ends = evaluate([3.0, 2.75, 2.5, 2.25], patience=2, min_improvement=0.5)
    assert ends == [False, False, True, False]
    assert evaluate([3.0, 2.5, 2.0], patience=1, min_improvement=0.5)[1] == [False, True, False]


def test_without_patience_a_run_goes_on():
    assert not any(evaluate([1.0] * 50)[1])


def test_the_first_loss_may_be_no_number():
    state, _ = evaluate([math.nan, 2.0], patience=3)
    assert (state.lowest_val_loss, state.evaluations_without_improvement) == (2.0, 0)
