"""Systems of two and three linear equations: elimination written out, the solution put back into every equation."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction

from toolkit.datasets.generate import algebra_proof as proof
from toolkit.datasets.generate.algebra_problems import Solved, effort_of
from toolkit.datasets.generate.drawing import between, chance, nonzero, pick
from toolkit.datasets.generate.equations import Equation, constant, linear, normal_form, rational
from toolkit.datasets.generate.generator import Rejected
from toolkit.datasets.generate.number_text import inside

_NAMES_OF_TWO = ("xy", "xy", "ab", "pq", "mn", "uv", "st", "cd")
_NAMES_OF_THREE = ("xyz", "xyz", "abc", "pqr", "uvw", "rst")

Row = tuple[int, ...]
"""Coefficients, then the right side."""


def system_problem(rng: random.Random, size: int) -> Solved:
    """Draw a system of `size` equations in as many unknowns."""
    names = pick(rng, _NAMES_OF_TWO if size == 2 else _NAMES_OF_THREE)
    if size == 2 and chance(rng, 0.1):
        return _parallel(rng, names)
    top = 9 if size == 2 else 5
    values = [between(rng, -9, 12) for _ in names]
    rows: list[Row] = []
    while len(rows) < size:
        factors = [0 if size == 3 and chance(rng, 0.15) else nonzero(rng, -top + 2, top) for _ in names]
        if sum(map(bool, factors)) > 1:
            rows.append((*factors, sum(factor * value for factor, value in zip(factors, values, strict=True))))
    if size == 2 and chance(rng, 0.2):  # solutions that are fractions
        rows = [(*row[:-1], between(rng, -20, 30)) for row in rows]
    equations = [_equation(names, row) for row in rows]
    lines, solution = _eliminate(names, rows)
    proof.prove_system(equations, {name: rational(value) for name, value in zip(names, solution, strict=True)})
    check = [_put_back(row, solution) for row in rows]
    said = [f"{name} = {value}" for name, value in zip(names, solution, strict=True)]
    text = f"{', '.join(said[:-1])} and {said[-1]}"
    extra = 3 * (size - 1) + any(value.denominator != 1 for value in solution)
    return Solved(
        f"system of {size}", equations, names, lines, text, check, _key(rows), effort_of(equations, lines, extra)
    )


def _key(rows: Sequence[Row]) -> str:
    return "system:" + "|".join(sorted(normal_form(row) for row in rows))


def _equation(names: str, row: Row) -> Equation:
    return Equation(linear(names, row[:-1]), constant(row[-1]))


def _eliminate(names: str, rows: Sequence[Row]) -> tuple[list[str], list[Fraction]]:
    """Return the lines that eliminate one unknown after the other, and the solution."""
    lines: list[str] = []
    stages: list[Row] = []
    left = list(rows)
    for column in range(len(names) - 1):
        pivot = next((row for row in left if row[column]), None)
        if pivot is None:
            raise Rejected(f"no {names[column]} in {', '.join(str(_equation(names, row)) for row in left)}")
        stages.append(pivot)
        left.remove(pivot)
        for place, row in enumerate(left):
            if row[column]:
                left[place] = tuple(pivot[column] * n - row[column] * m for n, m in zip(row, pivot, strict=True))
                lines.append(str(_equation(names, left[place])))
    stages.append(left[0])
    values = [Fraction(0)] * len(names)
    for column in reversed(range(len(names))):
        row = stages[column]
        if not row[column]:
            raise Rejected(f"{names} are not fixed by the equations")
        known = sum((row[later] * values[later] for later in range(column + 1, len(names))), Fraction(0))
        values[column] = (row[-1] - known) / row[column]
        if column and len(names) > 1:
            lines.append(f"{names[column]} = {values[column]}")
    lines.append(f"{names[0]} = {values[0]}")
    return lines[:-1], values


def _put_back(row: Row, values: Sequence[Fraction]) -> str:
    terms = [f"{inside(n)} × {inside(v)}" for n, v in zip(row[:-1], values, strict=True) if n]
    return f"{' + '.join(terms)} = {row[-1]}"


def _parallel(rng: random.Random, names: str) -> Solved:
    """Draw two equations whose left sides are multiples: no solution, or infinitely many."""
    a, b, c = nonzero(rng, -7, 9), nonzero(rng, -7, 9), between(rng, -20, 20)
    factor = pick(rng, (2, 3, -1, -2, 4, 5))
    is_same = chance(rng, 0.5)
    right = factor * c + (0 if is_same else nonzero(rng, -9, 9))
    rows: list[Row] = [(a, b, c), (factor * a, factor * b, right)]
    equations = [_equation(names, row) for row in rows]
    proof.prove_parallel(equations[0], equations[1], factor, is_same)
    times = f"the second left side is {factor} times the first"
    if is_same:
        solution = f"there are infinitely many solutions, because the second equation is {factor} times the first"
    else:
        solution = f"there is no solution, because {times}, but {right} is not {factor} times {c}"
    return Solved("system of 2", equations, names, [], solution, [], _key(rows), effort_of(equations, [], 4))
