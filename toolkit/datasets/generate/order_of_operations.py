"""Expressions with several operations: which comes first, what brackets change, and dividing by a bracket that is zero.

An expression is a tree, a number or (operation, left, right). It is evaluated as a whole by `Fraction`, and reduced
operation by operation for the working; the two must meet.
"""

from __future__ import annotations

import random
from fractions import Fraction

from toolkit.datasets.generate.arithmetic_frames import SHELLS, closing, lead_in
from toolkit.datasets.generate.drawing import between, chance, pick
from toolkit.datasets.generate.generator import Rejected
from toolkit.datasets.generate.number_text import capitalised, inside
from toolkit.datasets.generate.quantities import Made
from toolkit.datasets.generate.workings import Operation, paper_steps

Tree = int | tuple[Operation, "Tree", "Tree"]

_RANK = {"+": 1, "-": 1, "×": 2, "÷": 2}
_ASCII = str.maketrans("×÷", "*/")
_SYMBOLS: tuple[Operation, ...] = ("+", "-", "×", "÷")
_INPUT_ORDERS = (
    "Evaluate the expression.", "Work out the value of this expression, with the steps.", "Calculate this.",
    "What does this come to? Show the order of the steps.", "Mind the order of operations and give only the number.",
)  # fmt: skip


def value(tree: Tree) -> Fraction:
    """Evaluate exactly. Raises ZeroDivisionError."""
    if isinstance(tree, int):
        return Fraction(tree)
    operation, left, right = tree
    a, b = value(left), value(right)
    if operation == "+":
        return a + b
    if operation == "-":
        return a - b
    return a * b if operation == "×" else a / b


def text(tree: Tree, above: int = 0, is_right: bool = False, is_first: bool = True) -> str:
    """Write the expression with no more brackets than it needs."""
    if isinstance(tree, int):
        return str(tree) if is_first else inside(tree)
    operation, left, right = tree
    rank = _RANK[operation]
    bracketed = rank < above or (is_right and rank == above)
    inner_first = is_first or bracketed
    written = f"{text(left, rank, False, inner_first)} {operation} {text(right, rank, True, False)}"
    return f"({written})" if bracketed else written


def expression_problem(rng: random.Random) -> Made:
    """Draw an expression of two to four operations."""
    count = pick(rng, (2, 2, 3, 3, 4))
    tree: Tree = _of_operations(rng, count)
    zero = chance(rng, 0.08)
    if zero:
        number = between(rng, 2, 30)
        nothing: Tree = ("-", number, number)
        tree = ("÷", tree, nothing)
    written = text(tree)
    lines, steps, result = _reduce(tree)
    if (result is None) != zero or (result is not None and value(tree) != result):
        raise Rejected(f"the steps of {written} end at {result}")
    asked = written.translate(_ASCII) if chance(rng, 0.3) else written
    answer = "undefined" if result is None else str(result)
    if chance(rng, 0.2):
        order = pick(rng, _INPUT_ORDERS)
        output = answer if "only" in order else _with_steps(lines, answer)
        return Made("order of operations", order, output, f"expression:{written}", steps, asked)
    shell, style = pick(rng, SHELLS)
    question, style = closing(rng, lead_in(rng, shell.format(it=asked)), style)
    if style == "number":
        output = answer
    elif style == "equation" and result is not None:
        output = f"{asked} = {answer}"
    elif style == "sentence" and result is not None:
        output = f"{capitalised(asked)} is {answer}."
    else:
        output = _with_steps(lines, answer)
    return Made("order of operations", question, output, f"expression:{written}", steps)


def _with_steps(lines: list[str], answer: str) -> str:
    end = "Division by 0: the expression is undefined." if answer == "undefined" else f"The answer is {answer}."
    return f"{'; '.join(lines)}. {end}"


def _of_operations(rng: random.Random, count: int) -> Tree:
    """Return a tree whose every part has an integer value."""
    if not count:
        number = between(rng, 1, pick(rng, (9, 12, 30)))
        return -number if chance(rng, 0.08) else number
    operation = pick(rng, _SYMBOLS)
    left_count = between(rng, 0, count - 1)
    left, right = _of_operations(rng, left_count), _of_operations(rng, count - 1 - left_count)
    if operation == "÷":
        return _dividing(rng, left, right)
    if operation == "×" and max(abs(value(left)), abs(value(right))) > 400:
        operation = "-"
    return operation, left, right


def _dividing(rng: random.Random, left: Tree, right: Tree) -> Tree:
    """Divide evenly: by a divisor of the left side where the right one does not divide it."""
    a, b = int(value(left)), int(value(right))
    if b and a % b == 0:
        return "÷", left, right
    divisors = [n for n in range(2, 13) if a % n == 0]
    if divisors:
        return (
            ("÷", left, pick(rng, divisors))
            if isinstance(right, int)
            else ("+", ("÷", left, pick(rng, divisors)), right)
        )
    return "+", left, right


def _reduce(tree: Tree) -> tuple[list[str], float, int | None]:
    """Return the working, its steps on paper and the value, None where a division by zero ends it."""
    lines: list[str] = []
    steps = 0.0

    def walk(node: Tree) -> int | None:
        nonlocal steps
        if isinstance(node, int):
            return node
        operation, left, right = node
        a = walk(left)
        b = walk(right) if a is not None else None
        if a is None or b is None:
            return None
        steps += paper_steps(operation, a, b) + 1
        if operation == "÷" and b == 0:
            return None
        made = {"+": a + b, "-": a - b, "×": a * b}[operation] if operation != "÷" else a // b
        lines.append(f"{a} {operation} {inside(b)} = {made}")
        return made

    result = walk(tree)
    return lines, steps, result
