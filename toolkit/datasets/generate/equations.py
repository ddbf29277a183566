"""Equations as they are written: sums of products of numbers, unknowns and brackets, and roots like (3 + 2√5)/4."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple, TypeAlias

Number: TypeAlias = int | Fraction


class Part(NamedTuple):
    """One summand: `coefficient × factors / divisor`; a factor is a name or a bracket, with its power."""

    coefficient: Number
    factors: tuple[Factor, ...] = ()
    divisor: int = 1


Side: TypeAlias = tuple[Part, ...]
Factor: TypeAlias = tuple["str | Side", int]


class Equation(NamedTuple):
    """Two sides."""

    left: Side
    right: Side

    def __str__(self) -> str:
        """Write it: `3x + 5 = 20`."""
        return f"{write(self.left)} = {write(self.right)}"


class Root(NamedTuple):
    """The number (p + q√r)/s in lowest terms: r is 0 or free of squares, negative for a complex number; s > 0."""

    p: int
    q: int = 0
    r: int = 0
    s: int = 1

    def __str__(self) -> str:
        """Write it: `3`, `-7/2`, `1 + √5`, `(3 - 2√5)/4`, `-1 + 2i`."""
        if not self.q:
            return str(Fraction(self.p, self.s))
        surd = "i" if self.r == -1 else f"i√{-self.r}" if self.r < 0 else f"√{self.r}"
        size = "" if abs(self.q) == 1 else str(abs(self.q))
        if self.p:
            top = f"{self.p} {'-' if self.q < 0 else '+'} {size}{surd}"
            return top if self.s == 1 else f"({top})/{self.s}"
        return f"{'-' if self.q < 0 else ''}{size}{surd}{'' if self.s == 1 else f'/{self.s}'}"


def rational(number: Number) -> Root:
    """Return a rational number as a root."""
    return Root(Fraction(number).numerator, s=Fraction(number).denominator)


def quadratic_roots(a: int, b: int, c: int) -> tuple[Root, ...]:
    """Return the solutions of ax² + bx + c = 0, the one with the larger root sign first; one if they are the same."""
    discriminant = b * b - 4 * a * c
    size, left = _square_part(discriminant)
    if left in (0, 1):
        roots = [Fraction(-b + sign * size, 2 * a) for sign in (1, -1)]
        return tuple(rational(root) for root in (roots if roots[0] != roots[1] else roots[:1]))
    divisor = math.gcd(b, size, 2 * a) * (1 if a > 0 else -1)
    p, q, s = -b // divisor, size // divisor, 2 * a // divisor
    return Root(p, abs(q), left, s), Root(p, -abs(q), left, s)


def _square_part(number: int) -> tuple[int, int]:
    """Return (m, n) with number = m² n, n free of squares and of the number's sign."""
    outside, inside, factor = (1 if number else 0), abs(number), 2
    while factor * factor <= inside:
        if inside % (factor * factor):
            factor += 1
        else:
            inside //= factor * factor
            outside *= factor
    return outside, inside if number >= 0 else -inside


def constant(number: Number) -> Side:
    """Return a side that is a number."""
    return (Part(number),)


def term(coefficient: Number, name: str, power: int = 1, divisor: int = 1) -> Part:
    """Return `coefficient name^power / divisor`."""
    return Part(coefficient, ((name, power),), divisor)


def polynomial(name: str, *coefficients: Number) -> Side:
    """Return a polynomial, highest power first; vanishing terms are left out."""
    degree = len(coefficients) - 1
    parts = [
        term(number, name, degree - place) if place < degree else Part(number)
        for place, number in enumerate(coefficients)
        if number
    ]
    return tuple(parts) or constant(0)


def linear(names: Sequence[str], coefficients: Sequence[Number]) -> Side:
    """Return a sum of unknowns with their coefficients."""
    return tuple(term(number, name) for number, name in zip(coefficients, names, strict=True) if number) or constant(0)


def write(side: Side) -> str:
    """Write a side: `2(x + 1) - x/4 + 3`."""
    pieces = []
    for place, part in enumerate(side):
        text = _product(part)
        negative = part.coefficient < 0
        if place == 0:
            pieces.append(f"-{text}" if negative else text)
        else:
            pieces.append(f" {'-' if negative else '+'} {text}")
    return "".join(pieces)


def _product(part: Part) -> str:
    size = abs(part.coefficient)
    factors = "".join(_factor(base, power) for base, power in part.factors)
    number = "" if size == 1 and factors else str(size)
    if isinstance(size, Fraction) and size.denominator != 1 and factors:
        number = f"({size})"
    return f"{number}{factors}{'' if part.divisor == 1 else f'/{part.divisor}'}"


def _factor(base: str | Side, power: int) -> str:
    text = base if isinstance(base, str) else f"({write(base)})"
    return text if power == 1 else f"{text}²"


def at(side: Side, values: dict[str, Fraction]) -> Fraction:
    """Evaluate a side with numbers for its unknowns."""
    total = Fraction(0)
    for part in side:
        value = Fraction(part.coefficient) / part.divisor
        for base, power in part.factors:
            value *= (values[base] if isinstance(base, str) else at(base, values)) ** power
        total += value
    return total


def normal_form(coefficients: Sequence[Number]) -> str:
    """Return coefficients divided by their common factor, the first one positive: equal for the same equation."""
    scale = math.lcm(*(Fraction(number).denominator for number in coefficients))
    numbers = [int(number * scale) for number in coefficients]
    divisor = math.gcd(*numbers) or 1
    first = next((number for number in numbers if number), 1)
    divisor = divisor if first > 0 else -divisor
    return ",".join(str(number // divisor) for number in numbers)
