"""Linear and quadratic equations in one unknown, each with its solution, its working and its proof."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

from toolkit.datasets.generate import algebra_proof as proof
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
    rational,
    term,
    write,
)
from toolkit.datasets.generate.number_text import inside

UNKNOWNS = "xxxxyztnmkpqrsuvwabcdfgh"


class Solved(NamedTuple):
    """A problem after its proof.

    kind:      the family, for `metadata.kind`.
    equations: what is asked.
    unknowns:  their names, in the order in which the answer gives them.
    lines:     the working, the last line excluded.
    solution:  the last line: what solves it.
    check:     equations between numbers that show it.
    key:       equal for the same equations under other names.
    effort:    how hard it is: lines of working, size of the numbers, kind of the solution.
    request:   a sentence that the question needs besides the equation.
    """

    kind: str
    equations: Sequence[Equation]
    unknowns: Sequence[str]
    lines: list[str]
    solution: str
    check: list[str]
    key: str
    effort: float
    request: str = ""


def effort_of(equations: Sequence[Equation], lines: Sequence[str], extra: float = 0) -> float:
    """Count the lines of working, a third for every digit of the equations, and `extra` for the kind of solution."""
    digits = sum(letter.isdigit() for equation in equations for letter in str(equation))
    return 1 + len(lines) + digits / 3 + extra


# --- linear ---------------------------------------------------------------------------------------------------------


def linear_problem(rng: random.Random) -> Solved:
    """Draw an equation of degree one, now and then one without a solution or one that always holds."""
    name = pick(rng, UNKNOWNS)
    if chance(rng, 0.07):
        return _degenerate(rng, name)
    value = between(rng, -12, pick(rng, (12, 12, 60)))
    equation, first_lines = pick(rng, _LINEAR_FORMS)(rng, name, value)
    if chance(rng, 0.12):
        equation = Equation(equation.right, equation.left)
    lines, solution = _collected(equation, name, first_lines)
    proof.prove_linear(equation, name, rational(solution))
    both = at(equation.left, {name: solution})
    left, right = _slope_and_offset(equation.left, name), _slope_and_offset(equation.right, name)
    return Solved(
        "linear equation",
        [equation],
        [name],
        lines,
        f"{name} = {solution}",
        [f"with {name} = {solution} both sides are {both}"],
        f"equation:{normal_form((*left, *right))}",
        effort_of([equation], lines, 1 if solution.denominator != 1 else 0),
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


_LINEAR_FORMS: tuple[Callable[[random.Random, str, int], tuple[Equation, list[str]]], ...] = (
    _two_steps, _two_steps, _both_sides, _both_sides, _bracket, _bracket_and_unknown, _two_brackets, _divided,
    _quotient,
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


# --- quadratic ------------------------------------------------------------------------------------------------------


def quadratic_problem(rng: random.Random) -> Solved:
    """Draw an equation of degree two: integer, rational, irrational, double or complex solutions."""
    name = pick(rng, UNKNOWNS)
    a, b, c = pick(rng, _COEFFICIENTS)(rng)
    roots = quadratic_roots(a, b, c)
    equation = _quadratic_form(rng, name, (a, b, c), roots)
    proof.prove_quadratic(equation, name, _leading(equation, name), roots)
    request, solution = _over(rng, name, roots)
    lines = _quadratic_lines(equation, name, (a, b, c), roots)
    first, last = _bracketed(roots[0]), _bracketed(roots[-1])
    check = [f"{first} + {last} = {Fraction(-b, a)}", f"{first} × {last} = {Fraction(c, a)}"]
    hard = 2 + (2 if roots[0].r < 0 else 1 if roots[0].q else 0) + (roots[0].s != 1)
    key = f"equation:{normal_form((a, b, c))}"
    effort = effort_of([equation], lines, hard)
    return Solved("quadratic equation", [equation], [name], lines, solution, check, key, effort, request)


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
    if place < 0.12 and not roots[0].q and roots[0].s == roots[-1].s == 1 and a == 1:
        return Equation((_factored(name, roots),), constant(0))
    if place < 0.24 and a == 1 and b % 2 == 0 and b:
        square: Side = (Part(1, ((polynomial(name, 1, b // 2), 2),)),)
        return Equation(square, constant(b * b // 4 - c))
    if place < 0.4:
        return Equation(polynomial(name, a, b, 0), constant(-c))
    if place < 0.5 and b:
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
    standard = Equation(polynomial(name, a, b, c), constant(0))
    lines = [] if str(standard) == str(equation) else [str(standard)]
    if len(equation.left[0].factors) == 2:
        return ["a product is 0 when one of its factors is 0"]
    if a == 1 and not roots[0].q:
        return [*lines, str(Equation(polynomial(name, a, b, c), (_factored(name, roots),)))]
    return [*lines, f"the discriminant is {inside(b)}² - 4 × {inside(a)} × {inside(c)} = {b * b - 4 * a * c}"]
