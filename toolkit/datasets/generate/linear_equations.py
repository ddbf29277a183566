"""Linear equations in one unknown, each with its solution, its working and its proof."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction

from toolkit.datasets.generate import algebra_proof as proof
from toolkit.datasets.generate.algebra_problems import UNKNOWNS, Solved, effort_of
from toolkit.datasets.generate.drawing import between, chance, nonzero, pick
from toolkit.datasets.generate.equations import (
    Equation,
    Part,
    Side,
    at,
    constant,
    normal_form,
    polynomial,
    rational,
    term,
    write,
)
from toolkit.datasets.generate.number_text import inside
from toolkit.datasets.generate.workings import Operation, by_columns


def linear_problem(rng: random.Random) -> Solved:
    """Draw an equation of degree one, now and then one without a solution or one that always holds."""
    name = pick(rng, UNKNOWNS)
    if chance(rng, 0.07):
        return _degenerate(rng, name)
    equation, lines, solution = linear_equation(rng, name)
    both = at(equation.left, {name: solution})
    return Solved(
        "linear equation",
        [equation],
        [name],
        lines,
        f"{name} = {solution}",
        [f"with {name} = {solution} both sides are {both}"],
        linear_key(equation, name),
        effort_of([equation], lines, 1 if solution.denominator != 1 else 0),
    )


def linear_equation(rng: random.Random, name: str) -> tuple[Equation, list[str], Fraction]:
    """Draw an equation of degree one with its working and its one solution. Raises Rejected when the proof fails."""
    value = between(rng, -12, pick(rng, (12, 12, 60)))
    equation, first_lines = pick(rng, _LINEAR_FORMS)(rng, name, value)
    if chance(rng, 0.12):
        equation = Equation(equation.right, equation.left)
    lines, solution = _collected(equation, name, first_lines)
    proof.prove_linear(equation, name, rational(solution))
    return equation, lines, solution


def linear_key(equation: Equation, name: str) -> str:
    """Return the key of an equation of degree one, the same whatever its unknown is called."""
    return (
        f"equation:{normal_form((*_slope_and_offset(equation.left, name), *_slope_and_offset(equation.right, name)))}"
    )


def _slope_and_offset(side: Side, name: str) -> tuple[Fraction, Fraction]:
    offset = at(side, {name: Fraction(0)})
    return at(side, {name: Fraction(1)}) - offset, offset


def _collected(equation: Equation, name: str, lines: list[str]) -> tuple[list[str], Fraction]:
    """Return the working after `lines`, brackets first, and the solution."""
    left, right = _slope_and_offset(equation.left, name), _slope_and_offset(equation.right, name)
    slope, value = left[0] - right[0], right[1] - left[1]
    has_brackets = any(
        not isinstance(base, str) for part in (*equation.left, *equation.right) for base, _ in part.factors
    )
    wanted = list(lines)
    if has_brackets and not lines:
        wanted.append(str(Equation(polynomial(name, *left), polynomial(name, *right))))
    if not lines:
        wanted.append(str(Equation(polynomial(name, slope, 0), constant(value))))
    final = f"{name} = {value / slope}"
    kept = [line for place, line in enumerate(wanted) if line not in (str(equation), final, *wanted[:place])]
    return kept, value / slope


def _two_steps(rng: random.Random, name: str, value: int) -> tuple[Equation, list[str]]:
    a, b = nonzero(rng, -9, 12), between(rng, -30, 40)
    result = a * value + b if chance(rng, 0.8) else between(rng, -40, 60)
    side = polynomial(name, a, b)
    if b > 0 and a < 0 and chance(rng, 0.6):
        side = side[::-1]
    return Equation(side, constant(result)), []


def _both_sides(rng: random.Random, name: str, value: int) -> tuple[Equation, list[str]]:
    a, c, b = nonzero(rng, -9, 12), nonzero(rng, -9, 12), between(rng, -30, 40)
    a += c == a
    a = a or 5
    d = (a - c) * value + b if chance(rng, 0.75) else between(rng, -40, 40)
    return Equation(polynomial(name, a, b), polynomial(name, c, d)), []


def _bracket(rng: random.Random, name: str, value: int) -> tuple[Equation, list[str]]:
    a, b = nonzero(rng, -6, 9), nonzero(rng, -12, 12)
    a = a if abs(a) > 1 else 3
    inner = polynomial(name, 1, b)
    return Equation((Part(a, ((inner, 1),)),), constant(a * (value + b))), []


def _bracket_and_unknown(rng: random.Random, name: str, value: int) -> tuple[Equation, list[str]]:
    a, b, c = between(rng, 2, 7), nonzero(rng, -9, 9), nonzero(rng, -9, 9)
    c += c == a
    inner = polynomial(name, 1, b)
    return Equation((Part(a, ((inner, 1),)),), polynomial(name, c, a * (value + b) - c * value)), []


def _two_brackets(rng: random.Random, name: str, value: int) -> tuple[Equation, list[str]]:
    a, b, c, d = between(rng, 2, 7), nonzero(rng, -9, 9), nonzero(rng, -7, 7), nonzero(rng, -9, 9)
    c -= c == -a
    c = c if abs(c) > 1 else 4
    left = (Part(a, ((polynomial(name, 1, b), 1),)), Part(c, ((polynomial(name, 1, d), 1),)))
    return Equation(left, constant(a * (value + b) + c * (value + d))), []


def _divided(rng: random.Random, name: str, value: int) -> tuple[Equation, list[str]]:
    a, b = between(rng, 2, 9), nonzero(rng, -20, 20)
    left = (term(1, name, 1, a), Part(b))
    result = Fraction(value) + b if chance(rng, 0.9) else Fraction(value, 2) + b
    shares = result - b
    return Equation(left, constant(result)), [f"{name}/{a} = {shares}", f"{name} = {inside(shares)} × {a}"]


def _quotient(rng: random.Random, name: str, value: int) -> tuple[Equation, list[str]]:
    a, b = between(rng, 2, 7), nonzero(rng, -15, 15)
    top = a * value + b
    c = next((n for n in (3, 2, 4, 5, 7, 6, 9) if top % n == 0), 0)
    if not c:
        return _two_steps(rng, name, value)
    inner = polynomial(name, a, b)
    lines = [f"{Equation(inner, constant(top))}", f"{Equation(polynomial(name, a, 0), constant(top - b))}"]
    return Equation((Part(1, ((inner, 1),), c),), constant(top // c)), lines


def _one_step(rng: random.Random, name: str, _: int) -> tuple[Equation, list[str]]:
    """One operation undoes it: on single digits, or written in columns."""
    digits = (1, 9) if chance(rng, 0.4) else (11, 99)
    first, second = between(rng, *digits), between(rng, *digits)
    place = rng.random()
    if place < 0.4:
        # A total of two digits, so that two columns are enough.
        total, second = (first + second, second) if first + second < 100 else (max(first, second), min(first, second))
        side = polynomial(name, 1, second) if chance(rng, 0.7) else polynomial(name, 1, second)[::-1]
        return Equation(side, constant(total)), [f"{name} = {_in_columns('-', total, second)}"]
    if place < 0.8:
        first, second = max(first, second), min(first, second)
        return Equation(polynomial(name, 1, -second), constant(first)), [f"{name} = {_in_columns('+', first, second)}"]
    second = between(rng, 2, 9)
    return Equation((term(1, name, 1, second),), constant(first)), [f"{name} = {_in_columns('×', second, first)}"]


def _in_columns(operation: Operation, first: int, second: int) -> str:
    whole = f"{first} {operation} {second}"
    return "; ".join(by_columns(operation, first, second)) if max(first, second) > 19 else whole


_LINEAR_FORMS: tuple[Callable[[random.Random, str, int], tuple[Equation, list[str]]], ...] = (
    *(_one_step,) * 9, _two_steps, _two_steps, _both_sides, _both_sides, _bracket, _bracket_and_unknown, _two_brackets,
    _divided, _quotient,
)  # fmt: skip


def _degenerate(rng: random.Random, name: str) -> Solved:
    a, b = nonzero(rng, -7, 9), nonzero(rng, -12, 12)
    a = a if abs(a) > 1 else 2
    always = chance(rng, 0.5)
    c = a * b if always else a * b + nonzero(rng, -9, 9)
    left: Side = (Part(a, ((polynomial(name, 1, b), 1),)),) if chance(rng, 0.6) else polynomial(name, a, a * b)
    equation = Equation(left, polynomial(name, a, c))
    proof.prove_degenerate(equation, always)
    if always:
        solution = f"every number solves it, because both sides are {write(equation.right)}"
    else:
        solution = f"there is no solution, because without {name} it would say that {a * b} is {c}"
    key = f"equation:{normal_form((a, a * b, a, c))}"
    return Solved("linear equation", [equation], [name], [], solution, [], key, effort_of([equation], [], 3))
