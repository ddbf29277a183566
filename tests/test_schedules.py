from __future__ import annotations

import pytest

from toolkit.config import TrainConfig
from toolkit.schedules import learning_rate, warmup_steps

TOTAL = 40


def rates(**fields) -> list[float]:
    config = TrainConfig(**{"learning_rate": 2e-3, "warmup": 0.0, **fields})
    return [learning_rate(step, TOTAL, config) for step in range(1, TOTAL + 1)]


def witness(name: str, warmup: int, ratio: float) -> list[float]:
    """transformers' schedule on a real optimizer; update k is its value after k scheduler steps."""
    import torch
    import transformers

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-3)
    specific = {"cosine": {"min_lr_rate": ratio}, "linear": {"lr_end": ratio * 2e-3, "power": 1.0}, "constant": {}}[
        name
    ]
    scheduler = transformers.get_scheduler(
        {"cosine": "cosine_with_min_lr", "linear": "polynomial", "constant": "constant_with_warmup"}[name],
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=TOTAL,
        scheduler_specific_kwargs=specific,
    )
    values = []
    for _ in range(TOTAL):
        optimizer.step()
        scheduler.step()
        values.append(scheduler.get_last_lr()[0])
    return values


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 7])
@pytest.mark.parametrize("ratio", [0.0, 0.25])
def test_schedules_equal_those_of_transformers(name, warmup, ratio):
    ours = rates(schedule=name, warmup=float(warmup), min_learning_rate_ratio=ratio)
    assert ours == pytest.approx(witness(name, warmup, ratio), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_first_update_learns_and_the_last_one_reaches_the_end_value(name):
    ours = rates(schedule=name, warmup=4.0, min_learning_rate_ratio=0.1)
    assert ours[0] == pytest.approx(2e-3 / 4)
    assert max(ours) == ours[3] == 2e-3
    assert ours[-1] == pytest.approx(2e-4)
    assert all(later < earlier for earlier, later in zip(ours[3:], ours[4:], strict=False))


def test_warmup_below_one_is_a_fraction_and_else_a_number_of_steps():
    for warmup, expected in ((0.0, 0), (0.03, 3), (0.031, 4), (1.0, 1), (12.0, 12), (500.0, 100)):
        assert warmup_steps(100, TrainConfig(warmup=warmup)) == expected


def test_the_rate_stays_at_the_end_value_beyond_the_end():
    config = TrainConfig(learning_rate=1.0, warmup=0.0)
    assert learning_rate(11, 10, config) == learning_rate(10, 10, config) == pytest.approx(0.1)


def test_a_run_that_is_all_warmup_ends_at_the_peak():
    config = TrainConfig(learning_rate=1.0, warmup=10.0)
    assert learning_rate(10, 10, config) == 1.0


def test_an_unresolved_rate_and_a_step_of_zero_are_refused():
    with pytest.raises(ValueError, match="must be resolved"):
        learning_rate(1, 10, TrainConfig())
    with pytest.raises(ValueError, match="counted from 1"):
        learning_rate(0, 10, TrainConfig(learning_rate=1.0))
