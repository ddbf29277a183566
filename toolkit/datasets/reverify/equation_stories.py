"""Read the stories that lead to an equation: cues in their words give the numbers that the answer must end with."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction

_N = r"(\d+)"

Formula = Callable[..., list[Fraction]]


def _positive_root(difference: Fraction, product: Fraction) -> Fraction:
    """Return the positive x of x (x + difference) = product, exact or by no means."""
    square = difference * difference + 4 * product
    root = math.isqrt(int(square))
    return (root - difference) / Fraction(2) if root * root == square else Fraction(-1)


def _adults(t: Fraction, e: Fraction, u: Fraction, v: Fraction) -> Fraction:
    """Return how many of `t` pay `u` where all pay `e` and the others `v` each."""
    return (e - v * t) / (u - v)


_CUES: tuple[tuple[str, Formula], ...] = (
    (rf"multiply it by {_N} and add {_N}\. I get {_N}\.", lambda a, b, c: [(c - b) / a]),
    (rf"takes {_N} times a secret number, adds {_N} and arrives at {_N}\.", lambda a, b, c: [(c - b) / a]),
    (rf"{_N} times a number plus {_N} is {_N}\.", lambda a, b, c: [(c - b) / a]),
    (rf"taxi costs {_N} euros plus {_N} euros for each kilometre\. \w+ pays {_N}", lambda b, a, c: [(c - b) / a]),
    (rf"bicycles for {_N} euros and {_N} euros an hour more\. \w+ paid {_N}", lambda b, a, c: [(c - b) / a]),
    (rf"has {_N} euros and saves {_N} euros every week\. .* are there {_N}", lambda b, a, c: [(c - b) / a]),
    (rf"Three whole numbers in a row add up to {_N}\.", lambda s: [s / 3 - 1, s / 3, s / 3 + 1]),
    (rf"consecutive numbers whose sum is {_N}\. What is the lowest", lambda s: [s / 3 - 1]),
    (rf"is {_N} times as long as it is wide, .* is {_N} metres\. How wide", lambda k, s: [s / 2 / (k + 1)]),
    (rf"is {_N} times as long as wide; {_N} metres of fence .*\. How long", lambda k, s: [k * s / 2 / (k + 1)]),
    (rf"add up to {_N}, and one of them is {_N} larger", lambda s, d: [(s + d) / 2, (s - d) / 2]),
    (rf"is {_N} years older than \w+, and together they are {_N} .*\. How old is", lambda d, s: [(s + d) / 2]),
    (rf"share {_N} euros so that \w+ gets {_N} euros more\. How much does", lambda s, d: [(s - d) / 2]),
    (
        rf"sells {_N} tickets for {_N} euros .* pay {_N} euros, children {_N} euros\. How many adults",
        lambda t, e, u, v: [_adults(t, e, u, v)],
    ),
    (
        rf"buys {_N} plants for {_N} euros: roses at {_N} euros and herbs at {_N} euros\. How many herbs",
        lambda t, e, u, v: [t - _adults(t, e, u, v)],
    ),
    (rf"two consecutive positive whole numbers is {_N}\.", lambda s: [_positive_root(Fraction(1), s)]),
    (
        rf"two neighbouring pages of a book and gets {_N}\.",
        lambda s: [_positive_root(Fraction(1), s), _positive_root(Fraction(1), s) + 1],
    ),
    (rf"is {_N} metres longer than it is wide and has {_N} square .*\. How wide", lambda d, s: [_positive_root(d, s)]),
    (rf"covers {_N} square metres and is {_N} metres longer .*\. How long", lambda s, d: [_positive_root(d, s) + d]),
)
_PATTERNS = tuple((re.compile(pattern), formula) for pattern, formula in _CUES)


def equation_story_values(question: str) -> list[int] | None:
    """Return the numbers that the story's answer must end with, in its order; None where it is no known story."""
    found = [
        [int(value) if value.denominator == 1 else -1 for value in formula(*map(Fraction, match.groups()))]
        for pattern, formula in _PATTERNS
        if (match := pattern.search(question))
    ]
    return found[0] if len(found) == 1 else None
