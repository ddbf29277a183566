"""Exact integer arithmetic for the starter set: which operands, how the questions are put, what their key is.

The semantic key of a problem is its unordered operand pair, whatever the operation: 23 + 45, 45 + 23 and 45 - 23 share
the key `operands:23,45`. The *fact family* of a problem is every pair that would give its answer away by inversion
(23 + 45 = 68 also fixes 68 - 45 and 68 - 23). No family of one starter problem touches the family of another, and the
pretraining text avoids all of them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from toolkit.datasets.generate.workings import Operation as Sign
from toolkit.datasets.generate.workings import by_columns

Operation = Literal["addition", "subtraction", "multiplication"]
Pair = tuple[int, int]

SYMBOLS: dict[Operation, Sign] = {"addition": "+", "subtraction": "-", "multiplication": "×"}

# Each phrasing is (instruction, input); `a` and `b` stand for the operands in the order in which they are computed.
PHRASINGS: dict[Operation, tuple[tuple[str, str], ...]] = {
    "addition": (
        ("What is {a} + {b}?", ""),
        ("What is {a} plus {b}?", ""),
        ("Add {a} and {b}.", ""),
        ("Work out {a} + {b}.", ""),
        ("How much is {a} plus {b}?", ""),
        ("Give the sum of {a} and {b}.", ""),
        ("{a} + {b} = ?", ""),
        ("Add the two numbers.", "{a} and {b}"),
    ),
    "subtraction": (
        ("What is {a} - {b}?", ""),
        ("What is {a} minus {b}?", ""),
        ("Subtract {b} from {a}.", ""),
        ("Work out {a} - {b}.", ""),
        ("How much is {a} minus {b}?", ""),
        ("Take {b} away from {a}.", ""),
        ("{a} - {b} = ?", ""),
        ("Subtract the second number from the first.", "{a} and {b}"),
    ),
    "multiplication": (
        ("What is {a} × {b}?", ""),
        ("What is {a} times {b}?", ""),
        ("Multiply {a} by {b}.", ""),
        ("Work out {a} × {b}.", ""),
        ("How much is {a} times {b}?", ""),
        ("Give the product of {a} and {b}.", ""),
        ("{a} × {b} = ?", ""),
        ("Multiply the two numbers.", "{a} and {b}"),
    ),
}


@dataclass(frozen=True)
class Problem:
    """`first operation second`, in exact integers."""

    operation: Operation
    first: int
    second: int

    @property
    def answer(self) -> int:
        """The result, exact."""
        if self.operation == "addition":
            return self.first + self.second
        if self.operation == "subtraction":
            return self.first - self.second
        return self.first * self.second

    @property
    def working(self) -> str:
        """The steps on paper, from the units up: `47 + 38: 7 + 8 = 15; 4 + 3 + 1 = 8`."""
        return "; ".join(by_columns(SYMBOLS[self.operation], self.first, self.second))

    @property
    def pair(self) -> Pair:
        """The unordered operand pair."""
        return ordered(self.first, self.second)

    @property
    def key(self) -> str:
        """The semantic key: the operand pair, independent of order and operation."""
        return "operands:{},{}".format(*self.pair)

    @property
    def family(self) -> frozenset[Pair]:
        """Every operand pair that fixes this fact: its own, and those of its inverse problems."""
        return frozenset({self.pair, ordered(self.first, self.answer), ordered(self.second, self.answer)})

    @property
    def difficulty(self) -> float:
        """0..1: longer operands and carries are harder."""
        digits = len(str(self.first)) + len(str(self.second))
        units = self.first % 10, self.second % 10
        carries = {
            "addition": sum(units) > 9,
            "subtraction": units[0] < units[1],
            "multiplication": units[0] * units[1] > 9,
        }[self.operation]
        base = {"addition": 0.1, "subtraction": 0.2, "multiplication": 0.4}[self.operation]
        return round(min(1.0, base + 0.05 * digits + 0.15 * carries), 2)


def ordered(first: int, second: int) -> Pair:
    """Return the pair, smaller number first."""
    return (first, second) if first <= second else (second, first)


def all_problems(operation: Operation) -> list[Problem]:
    """Return every problem of the sizes that the starter set uses, in a fixed order.

    Addition: two numbers of two digits. Subtraction: two numbers of two digits, the result above zero. Multiplication:
    one digit (2 to 9) times 20 to 99. (No step of a working has operands of these sizes, so a working never contains
    another problem of the set.)
    """
    if operation == "addition":
        return [Problem(operation, a, b) for a in range(10, 100) for b in range(10, 100)]
    if operation == "subtraction":
        return [Problem(operation, a, b) for a in range(11, 100) for b in range(10, a)]
    return [Problem(operation, a, b) for a in range(2, 10) for b in range(20, 100)]


def draw_problems(counts: dict[Operation, int], rng: random.Random) -> list[Problem]:
    """Draw `counts[operation]` problems of each operation so that no two fact families meet."""
    taken: set[Pair] = set()
    chosen: list[Problem] = []
    for operation, count in counts.items():
        candidates = all_problems(operation)
        rng.shuffle(candidates)
        accepted = 0
        for problem in candidates:
            if accepted == count:
                break
            if taken.isdisjoint(problem.family):
                taken |= problem.family
                chosen.append(problem)
                accepted += 1
        if accepted < count:
            raise ValueError(f"only {accepted} of {count} problems of {operation} keep their fact families apart")
    return chosen


def phrase(problem: Problem, index: int) -> tuple[str, str]:
    """Return (instruction, input) of the problem in its phrasing number `index`, wrapping round."""
    forms = PHRASINGS[problem.operation]
    instruction, extra = forms[index % len(forms)]
    return (
        instruction.format(a=problem.first, b=problem.second),
        extra.format(a=problem.first, b=problem.second),
    )
