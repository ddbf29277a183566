"""Draws from `random.Random.random` alone: fast, and the one method whose values Python promises to keep."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def pick(rng: random.Random, options: Sequence[Item]) -> Item:
    """Return one of the options, each as likely as the others."""
    return options[int(rng.random() * len(options))]


def between(rng: random.Random, low: int, high: int) -> int:
    """Return an integer from `low` to `high`, both included (their difference must stay under 2**53)."""
    return low + int(rng.random() * (high - low + 1))


def chance(rng: random.Random, probability: float) -> bool:
    """Return True with the given probability."""
    return rng.random() < probability


def nonzero(rng: random.Random, low: int, high: int) -> int:
    """Return an integer from `low` to `high` that is not 0."""
    while True:
        number = between(rng, low, high)
        if number:
            return number


def pick_some(rng: random.Random, options: Sequence[Item], count: int) -> list[Item]:
    """Return `count` different options in a drawn order."""
    left = list(options)
    return [left.pop(int(rng.random() * len(left))) for _ in range(count)]
