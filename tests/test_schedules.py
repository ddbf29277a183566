from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from toolkit.config import TrainConfig
from toolkit.schedules import decay_steps, learning_rate, warmup_steps

TOTAL = 40
PEAK = 2e-3


def rates(total: int = TOTAL, **fields) -> list[float]:
    config = TrainConfig(**{"learning_rate": PEAK, "warmup": 0.0, "min_learning_rate_ratio": 0.0, **fields})
    return [learning_rate(step, total, config) for step in range(1, total + 1)]


def stepped(make_scheduler, count: int) -> list[float]:
    """The rates that a real optimizer gets, before its first scheduler step and after each of `count`."""
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = make_scheduler(optimizer)
    values = [optimizer.param_groups[0]["lr"]]
    for _ in range(count):
        optimizer.step()
        scheduler.step()
        values.append(optimizer.param_groups[0]["lr"])
    return values


def transformers_rates(name: str, warmup: int, total: int = TOTAL, **specific) -> list[float]:
    """transformers' schedule on a real optimizer; update k is its value after k scheduler steps."""
    import transformers

    return stepped(
        lambda optimizer: transformers.get_scheduler(
            name, optimizer, num_warmup_steps=warmup, num_training_steps=total, scheduler_specific_kwargs=specific
        ),
        total,
    )[1:]


shapes = st.integers(1, 50).flatmap(lambda total: st.tuples(st.just(total), st.integers(0, total)))
ratios = st.sampled_from([0.0, 0.1, 0.25, 1.0])


@given(shapes, ratios)
@examples(max_examples=30, deadline=None)
@example((1, 0), 0.0)
@example((1, 1), 0.1)
@example((9, 9), 0.1)
def test_constant_linear_and_cosine_equal_those_of_transformers(shape, ratio):
    total, warmup = shape
    for ours, theirs, specific in (
        ("constant", "constant_with_warmup", {}),
        ("linear", "polynomial", {"lr_end": ratio * PEAK, "power": 1.0}),
        ("cosine", "cosine_with_min_lr", {"min_lr_rate": ratio}),
    ):
        if ours == "linear" and (ratio == 1.0 or warmup == total):
            continue  # polynomial refuses an end as high as its start, and divides by zero where all is warmup
        found = rates(total, schedule=ours, warmup=float(warmup), min_learning_rate_ratio=ratio)
        expected = transformers_rates(theirs, warmup, total, **specific)
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12), ours


@given(shapes, st.integers(1, 7))
@examples(max_examples=30, deadline=None)
@example((50, 1), 49)  # 49 · (1 / 49) is not 1 in floating point: transformers misses that restart
@example((1, 0), 3)
def test_cosine_restarts_equal_those_of_transformers_and_never_miss_a_restart(shape, cycles):
    total, warmup = shape
    found = rates(total, schedule="cosine_restarts", schedule_cycles=cycles, warmup=float(warmup))
    expected = transformers_rates("cosine_with_restarts", warmup, total, num_cycles=cycles)
    for step in range(max(1, warmup), total):
        if cycles * (step - warmup) % (total - warmup) == 0:
            expected[step - 1] = PEAK
    if warmup == total:
        expected[-1] = PEAK
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(shapes, st.integers(0, 50), st.sampled_from(["linear", "cosine", "1-sqrt"]), ratios)
@examples(max_examples=40, deadline=None)
@example((1, 0), 1, "1-sqrt", 0.0)
@example((10, 10), 5, "linear", 0.1)
def test_warmup_stable_decay_equals_that_of_transformers(shape, decay, decay_shape, ratio):
    total, warmup = shape
    fields = {"decay": float(decay), "decay_shape": decay_shape, "min_learning_rate_ratio": ratio}
    config = TrainConfig(warmup=float(warmup), **fields)
    found = rates(total, schedule="wsd", warmup=float(warmup), **fields)
    falling = decay_steps(total, config)
    assert falling == min(decay, total - warmup)
    expected = transformers_rates(
        "warmup_stable_decay", warmup, total, num_decay_steps=falling, decay_type=decay_shape, min_lr_ratio=ratio
    )
    # Theirs warms up from the floor instead of from zero, and falls to the floor even where nothing is to fall.
    expected[: max(0, warmup - 1)] = [PEAK * step / warmup for step in range(1, warmup)]
    if falling == 0:
        expected[-1] = PEAK
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(shapes, ratios)
@examples(max_examples=20, deadline=None)
def test_every_schedule_is_made_of_the_pieces_that_torch_has(shape, ratio):
    from torch.optim import lr_scheduler

    total, warmup = shape
    length = total - warmup
    fields = {"warmup": float(warmup), "min_learning_rate_ratio": ratio}
    pieces = {
        "linear": lambda o: lr_scheduler.LinearLR(o, 1.0, ratio, max(1, length)) if length else None,
        "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, max(1, length), ratio * PEAK),
    }
    for name, piece in pieces.items():
        if length == 0:
            continue
        found = rates(total, schedule=name, **fields)[max(0, warmup - 1) :]
        expected = stepped(piece, length)
        assert found == pytest.approx(expected if warmup else expected[1:], rel=1e-6, abs=1e-12), name
    if warmup > 1:
        rising = stepped(lambda o: lr_scheduler.LinearLR(o, 1.0 / warmup, 1.0, warmup - 1), warmup - 1)
        assert rates(total, schedule="wsd", **fields)[:warmup] == pytest.approx(rising)


@pytest.mark.parametrize("ratio", [0.0, 0.1])
def test_restarts_are_those_of_torch(ratio):
    from torch.optim import lr_scheduler

    fields = {"schedule": "cosine_restarts", "schedule_cycles": 4, "min_learning_rate_ratio": ratio}
    expected = stepped(lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 10, eta_min=ratio * PEAK), TOTAL)
    expected[-1] = ratio * PEAK  # there the run ends; torch would begin anew
    assert rates(**fields) == pytest.approx(expected[1:], abs=1e-12)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_first_update_learns_and_the_last_one_reaches_the_end_value(name):
    ours = rates(schedule=name, warmup=4.0, min_learning_rate_ratio=0.1)
    assert ours[0] == pytest.approx(2e-3 / 4)
    assert max(ours) == ours[3] == 2e-3
    assert ours[-1] == pytest.approx(2e-4)
    assert all(later < earlier for earlier, later in zip(ours[3:], ours[4:], strict=False))


def test_wsd_stays_at_the_peak_until_its_last_part():
    ours = rates(schedule="wsd", warmup=0.1, decay=0.25, min_learning_rate_ratio=0.1)
    assert ours[2] < PEAK and set(ours[3:30]) == {PEAK}
    assert all(later < earlier for earlier, later in zip(ours[29:], ours[30:], strict=False))
    assert ours[-1] == pytest.approx(0.1 * PEAK)
    assert ours[30] == pytest.approx(PEAK * (0.1 + 0.9 * (1 - math.sqrt(0.1))))


def test_warmup_and_decay_below_one_are_fractions_and_else_numbers_of_steps():
    for amount, expected in ((0.0, 0), (0.03, 3), (0.031, 4), (1.0, 1), (12.0, 12), (500.0, 100)):
        assert warmup_steps(100, TrainConfig(warmup=amount)) == expected
        assert decay_steps(100, TrainConfig(warmup=0.0, decay=amount)) == expected
    assert decay_steps(100, TrainConfig(warmup=0.7, decay=0.5)) == 30


@given(shapes, st.sampled_from(["constant", "linear", "cosine", "cosine_restarts", "wsd"]), st.floats(0, 60))
@examples(max_examples=200, deadline=None)
def test_every_rate_is_positive_and_none_is_above_the_peak(shape, name, decay):
    total, warmup = shape
    ours = rates(total, schedule=name, warmup=float(warmup), decay=decay, min_learning_rate_ratio=0.1)
    assert all(0.0 < rate <= PEAK for rate in ours)


def test_options_of_another_schedule_have_no_effect():
    plain = rates(schedule="cosine")
    assert plain == rates(schedule="cosine", schedule_cycles=5, decay=0.5, decay_shape="linear")


def test_the_rate_stays_at_the_end_value_beyond_the_end():
    for name, end in (("cosine", 0.1), ("wsd", 0.1), ("cosine_restarts", 0.1), ("constant", 1.0)):
        config = TrainConfig(learning_rate=1.0, warmup=0.0, schedule=name)
        assert learning_rate(11, 10, config) == learning_rate(10, 10, config) == pytest.approx(end)


def test_a_run_that_is_all_warmup_ends_at_the_peak():
    for warmup in (10.0, 11.0, 500.0):
        config = TrainConfig(learning_rate=1.0, warmup=warmup)
        assert learning_rate(10, 10, config) == 1.0
        assert learning_rate(5, 10, config) == 0.5


def test_an_unresolved_rate_and_a_step_of_zero_are_refused():
    with pytest.raises(ValueError, match="must be resolved"):
        learning_rate(1, 10, TrainConfig())
    with pytest.raises(ValueError, match="counted from 1"):
        learning_rate(0, 10, TrainConfig(learning_rate=1.0))
