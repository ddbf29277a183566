"""Quadratic equations in one unknown, each with its solutions, its working and its proof."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from fractions import Fraction

from toolkit.datasets.generate import algebra_proof as proof
from toolkit.datasets.generate.algebra_problems import UNKNOWNS, Solved, effort_of
from toolkit.datasets.generate.drawing import between, chance, nonzero, pick
from toolkit.datasets.generate.equations import (
    Equation,
    Part,
    Root,
    Side,
    at,
    constant,
    normal_form,
    polynomial,
    quadratic_roots,
)
from toolkit.datasets.generate.number_text import inside


def quadratic_problem(rng: random.Random) -> Solved:
    """Draw an equation of degree two: integer, rational, irrational, double or complex solutions."""
    name = pick(rng, UNKNOWNS)
    a, b, c = pick(rng, _COEFFICIENTS)(rng)
    roots = quadratic_roots(a, b, c)
    equation = _quadratic_form(rng, name, (a, b, c), roots)
    proof.prove_quadratic(equation, name, _leading(equation, name), roots)
    if len(equation.left[0].factors) == 2:  # written from its roots, so it would prove wrong ones too
        proof.prove_quadratic(_standard(name, (a, b, c)), name, a, roots)
    request, solution = _over(rng, name, roots)
    lines = _quadratic_lines(equation, name, (a, b, c), roots)
    first, last = _bracketed(roots[0]), _bracketed(roots[-1])
    check = [f"{first} + {last} = {Fraction(-b, a)}", f"{first} × {last} = {Fraction(c, a)}"]
    hard = 2 + (2 if roots[0].r < 0 else 1 if roots[0].q else 0) + (roots[0].s != 1)
    key = f"equation:{normal_form((a, b, c))}"
    effort = effort_of([equation], lines, hard)
    return Solved("quadratic equation", [equation], [name], lines, solution, check, key, effort, request)


def _standard(name: str, numbers: tuple[int, int, int]) -> Equation:
    return Equation(polynomial(name, *numbers), constant(0))


def _bracketed(root: Root) -> str:
    return f"({root})" if root.q or root.p < 0 else str(root)


def _leading(equation: Equation, name: str) -> int:
    """Return the coefficient of the square, from three values: f(1) + f(-1) - 2 f(0) is twice of it."""
    values = [at(equation.left, {name: Fraction(n)}) - at(equation.right, {name: Fraction(n)}) for n in (1, -1, 0)]
    return int((values[0] + values[1] - 2 * values[2]) / 2)


def _integer_roots(rng: random.Random) -> tuple[int, int, int]:
    r, t = between(rng, -12, 12), between(rng, -12, 12)
    a = pick(rng, (1, 1, 1, -1, 2, 3))
    return a, -a * (r + t), a * r * t


def _rational_roots(rng: random.Random) -> tuple[int, int, int]:
    a, c = between(rng, 1, 5), between(rng, 2, 6)
    b, d = nonzero(rng, -9, 9), nonzero(rng, -9, 9)
    return a * c, a * d + b * c, b * d


def _any(rng: random.Random) -> tuple[int, int, int]:
    return pick(rng, (1, 1, 1, 2, 3)), between(rng, -12, 12), nonzero(rng, -20, 20)


def _complex_roots(rng: random.Random) -> tuple[int, int, int]:
    p, q, a = between(rng, -6, 6), between(rng, 1, 7), pick(rng, (1, 1, 2))
    return a, -2 * a * p, a * (p * p + q * q)


def _pure(rng: random.Random) -> tuple[int, int, int]:
    a = pick(rng, (1, 1, 2, 3))
    return a, 0, -a * (between(rng, 1, 12) ** 2 if chance(rng, 0.5) else between(rng, 2, 80))


_COEFFICIENTS: tuple[Callable[[random.Random], tuple[int, int, int]], ...] = (
    _integer_roots, _integer_roots, _rational_roots, _any, _any, _complex_roots, _pure,
)  # fmt: skip


def _quadratic_form(rng: random.Random, name: str, numbers: tuple[int, int, int], roots: Sequence[Root]) -> Equation:
    a, b, c = numbers
    place = rng.random()
    if place < 0.2 and not roots[0].q and roots[0].s == roots[-1].s == 1 and a == 1:
        return Equation((_factored(name, roots),), constant(0))
    if place < 0.3 and a == 1 and b % 2 == 0 and b:
        square: Side = (Part(1, ((polynomial(name, 1, b // 2), 2),)),)
        return Equation(square, constant(b * b // 4 - c))
    if place < 0.44:
        return Equation(polynomial(name, a, b, 0), constant(-c))
    if place < 0.54 and b:
        return Equation(polynomial(name, a, 0, 0), polynomial(name, -b, -c))
    return Equation(polynomial(name, a, b, c), constant(0))


def _factored(name: str, roots: Sequence[Root]) -> Part:
    """Return the product of the factors that vanish at integer roots, a bare unknown first."""
    in_order = sorted(roots, key=lambda root: root.p != 0)
    factors = [(polynomial(name, 1, -root.p), 1) if root.p else (name, 1) for root in in_order]
    return Part(1, tuple(factors) if len(factors) == 2 else ((factors[0][0], 2),))


def _over(rng: random.Random, name: str, roots: Sequence[Root]) -> tuple[str, str]:
    """Return which numbers the question allows, and the solution among them."""
    said = " or ".join(f"{name} = {root}" for root in roots)
    if len(roots) == 1:
        said += ", a double solution"
    place = rng.random()
    if place < 0.2:
        return pick(rng, ("Only real solutions count.", "Work over the real numbers.")), (
            "there is no real solution" if roots[0].r < 0 else said
        )
    if place < (0.55 if roots[0].r < 0 else 0.28):
        return pick(rng, ("Complex solutions count too.", "Work over the complex numbers.")), said
    return "", f"there is no real solution; over the complex numbers {said}" if roots[0].r < 0 else said


def _quadratic_lines(equation: Equation, name: str, numbers: tuple[int, int, int], roots: Sequence[Root]) -> list[str]:
    a, b, c = numbers
    standard = _standard(name, numbers)
    lines = [] if str(standard) == str(equation) else [str(standard)]
    if len(equation.left[0].factors) == 2:
        return ["a product is 0 when one of its factors is 0"]
    if a == 1 and not roots[0].q:
        return [*lines, str(Equation(polynomial(name, a, b, c), (_factored(name, roots),)))]
    return [*lines, f"the discriminant is {inside(b)}² - 4 × {inside(a)} × {inside(c)} = {b * b - 4 * a * c}"]
