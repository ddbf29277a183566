"""What an algebra problem is after its proof, before it is put into words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from toolkit.datasets.generate.equations import Equation

# Three unknowns in five are called x, as in most books; the others keep the name from being taken for granted.
UNKNOWNS = "x" * 30 + "yztnmkpqrsuvwabcdfgh"


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
