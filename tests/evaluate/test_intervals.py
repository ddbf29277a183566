"""Intervals against SciPy and against published formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from toolkit.evaluate.intervals import mcnemar_p_value, paired_difference, perplexity_interval, wilson_interval


@pytest.mark.parametrize(("successes", "n"), [(0, 5), (1, 10), (7, 20), (20, 20), (118, 120), (1, 1)])
def test_wilson_interval_is_that_of_scipy(successes: int, n: int) -> None:
    expected = binomtest(successes, n).proportion_ci(method="wilson")
    estimate = wilson_interval(successes, n)
    assert estimate.value == successes / n
    assert estimate.low == pytest.approx(expected.low, abs=1e-9)
    assert estimate.high == pytest.approx(expected.high, abs=1e-9)
    assert estimate.n == n


@pytest.mark.parametrize(("successes", "n"), [(3, 2), (-1, 4), (0, 0)])
def test_wilson_interval_refuses_counts_that_make_no_sense(successes: int, n: int) -> None:
    with pytest.raises(ValueError):
        wilson_interval(successes, n)


def test_perplexity_is_one_division_of_sums_and_not_a_mean_of_means() -> None:
    # One long easy answer and one short hard one: means of means would say exp((1 + 5) / 2).
    estimate = perplexity_interval([9.0, 5.0], [9.0, 1.0])
    assert estimate.value == pytest.approx(math.exp(14 / 10))


def test_perplexity_interval_covers_the_truth_about_95_times_in_100() -> None:
    generator = np.random.default_rng(0)
    true_mean, covered, trials = 2.0, 0, 400
    for _ in range(trials):
        weights = generator.integers(5, 30, size=120).astype(float)
        losses = weights * generator.gamma(4.0, true_mean / 4.0, size=120)
        estimate = perplexity_interval(losses.tolist(), weights.tolist())
        covered += estimate.low <= math.exp(true_mean) <= estimate.high
    assert 0.92 <= covered / trials <= 0.98


def test_perplexity_interval_agrees_with_a_bootstrap_over_examples() -> None:
    generator = np.random.default_rng(1)
    weights = generator.integers(3, 40, size=200).astype(float)
    losses = weights * generator.gamma(3.0, 0.4, size=200)
    estimate = perplexity_interval(losses.tolist(), weights.tolist())
    draws = generator.integers(0, 200, size=(4000, 200))
    low, high = np.exp(np.percentile(losses[draws].sum(1) / weights[draws].sum(1), [2.5, 97.5]))
    assert estimate.low == pytest.approx(low, rel=0.02)
    assert estimate.high == pytest.approx(high, rel=0.02)


def test_perplexity_of_a_single_example_has_no_interval() -> None:
    estimate = perplexity_interval([2.0], [1.0])
    assert estimate.value == pytest.approx(math.exp(2))
    assert math.isnan(estimate.low) and math.isnan(estimate.high)


def test_a_hopeless_model_has_an_infinite_perplexity_and_no_traceback() -> None:
    assert perplexity_interval([1e6, 2e6], [1.0, 1.0]).value == math.inf


def test_perplexity_without_a_trained_token_is_refused() -> None:
    with pytest.raises(ValueError):
        perplexity_interval([0.0], [0.0])


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (5, 0), (9, 2), (3, 3), (40, 11)])
def test_mcnemar_p_value_is_scipys_exact_binomial_test(gained: int, lost: int) -> None:
    expected = 1.0 if gained + lost == 0 else binomtest(gained, gained + lost, 0.5).pvalue
    assert mcnemar_p_value(gained, lost) == pytest.approx(expected)


def test_a_paired_difference_counts_gains_and_losses_and_follows_agresti_and_min() -> None:
    # 100 pairs: 20 gained, 5 lost, 75 unchanged. Agresti & Min (2005): b, c + 0.5 and n + 2, then Wald.
    first = [False] * 20 + [True] * 5 + [True] * 75
    second = [True] * 20 + [False] * 5 + [True] * 75
    paired = paired_difference(first, second)
    centre = (20.5 - 5.5) / 102
    spread = 1.959964 * math.sqrt(20.5 + 5.5 - (20.5 - 5.5) ** 2 / 102) / 102
    assert paired.difference == pytest.approx(0.15)
    assert paired.low == pytest.approx(centre - spread, abs=1e-6)
    assert paired.high == pytest.approx(centre + spread, abs=1e-6)
    assert paired.p_value == pytest.approx(binomtest(20, 25, 0.5).pvalue)


def test_models_that_agree_everywhere_differ_by_nothing_but_still_have_an_interval() -> None:
    paired = paired_difference([True, False, True], [True, False, True])
    assert paired.difference == 0 and paired.p_value == 1
    assert paired.low < 0 < paired.high


def test_answers_to_different_numbers_of_questions_are_not_paired() -> None:
    with pytest.raises(ValueError):
        paired_difference([True], [True, False])
