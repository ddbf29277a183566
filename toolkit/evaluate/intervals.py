"""95 % intervals for the figures that the toolkit reports, each from a named formula.

An example is the unit of sampling everywhere: tokens of one answer are not independent of each other, so an interval
over tokens would be far too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

Z_95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval (NaN where n is too small) and the number of examples behind it."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class PairedDifference:
    """Second minus first, over the same examples.

    difference: share of examples right in the second minus the share right in the first, -1..1
    low, high:  its 95 % interval
    p_value:    McNemar's exact test, two-sided
    n:          examples
    """

    difference: float
    low: float
    high: float
    p_value: float
    n: int


def wilson_interval(successes: int, n: int) -> Estimate:
    """Estimate a proportion with Wilson's score interval (Wilson 1927, JASA 22:209-212), without continuity correction.

    It stays within 0..1 and keeps its coverage at 0 and n successes, where the textbook interval collapses to a point.
    Raises ValueError when the counts make no sense.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n}")
    share = successes / n
    squared = Z_95 * Z_95
    centre = (share + squared / (2 * n)) / (1 + squared / n)
    spread = Z_95 / (1 + squared / n) * math.sqrt(share * (1 - share) / n + squared / (4 * n * n))
    low = 0.0 if successes == 0 else centre - spread
    high = 1.0 if successes == n else centre + spread
    return Estimate(share, low, high, n)


def perplexity_interval(loss_sums: Sequence[float], weight_sums: Sequence[float]) -> Estimate:
    """Estimate a perplexity from per-example sums: exp(sum of losses / sum of weights).

    loss_sums:   NLL in nats, summed over the trained tokens of each example
    weight_sums: their weights, summed likewise

    The interval is that of a ratio of sums by the delta method (Cochran 1977, Sampling Techniques, chapter 6), taken
    in nats per token and exponentiated at the very end. Raises ValueError when there is nothing to divide by.
    """
    losses = np.asarray(loss_sums, dtype=np.float64)
    weights = np.asarray(weight_sums, dtype=np.float64)
    total = float(weights.sum())
    n = len(losses)
    if total <= 0:
        raise ValueError("no trained token")
    mean = float(losses.sum()) / total
    if n < 2:
        return Estimate(_exp(mean), math.nan, math.nan, n)
    residuals = losses - mean * weights
    standard_error = math.sqrt(n / (n - 1) * float((residuals**2).sum())) / total
    spread = Z_95 * standard_error
    return Estimate(_exp(mean), _exp(mean - spread), _exp(mean + spread), n)


def _exp(nats: float) -> float:
    """Exponentiate; a loss beyond float64's range is an infinite perplexity, not an OverflowError."""
    return math.exp(nats) if nats < 709.0 else math.inf


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> PairedDifference:
    """Compare two models that answered the same examples, example by example.

    The interval is the adjusted Wald interval for matched pairs (Agresti & Min 2005, Statistics in Medicine 24:729-740:
    half an example added to each cell); the p-value is McNemar's exact one. Raises ValueError when the lengths differ
    or are 0.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"cannot pair {len(first)} examples with {len(second)}")
    n = len(first)
    gained = sum(1 for before, after in zip(first, second, strict=True) if after and not before)
    lost = sum(1 for before, after in zip(first, second, strict=True) if before and not after)
    padded_n, padded_gained, padded_lost = n + 2, gained + 0.5, lost + 0.5
    centre = (padded_gained - padded_lost) / padded_n
    variance = (padded_gained + padded_lost) / padded_n - centre * centre
    spread = Z_95 * math.sqrt(variance / padded_n)
    low, high = max(-1.0, centre - spread), min(1.0, centre + spread)
    return PairedDifference((gained - lost) / n, low, high, mcnemar_p_value(gained, lost), n)


def mcnemar_p_value(gained: int, lost: int) -> float:
    """Return the exact two-sided p-value of `gained` against `lost` changes (McNemar 1947, a binomial test at 1/2)."""
    changes = gained + lost
    if changes == 0:
        return 1.0
    tail = sum(math.comb(changes, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**changes)
