"""Arithmetic: integers of any size and sign, fractions, remainders, division by zero, expressions, stories.

Answers are Python integers and `Fraction`. `metadata.verified` is set by a check of another kind than the one that
made the answer: the inverse operation gives the operand back, or the written steps end where the whole was evaluated
to. What fails it is rejected.

Difficulty: the single-digit steps that the problem takes on paper, n, mapped to n / (n + 12) (`workings.paper_steps`).
Fractions count the steps of their integer operations, and a story two more for each sentence that is read.

The key is the operand pair (`operands:23,45`), the same for every operation and order, as in the starter set.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import accumulate

from toolkit.datasets.generate.arithmetic_frames import (
    COLUMNS,
    NAMED,
    ORDER_SHELLS,
    ORDERS,
    PLACES,
    SHELLS,
    Style,
    closing,
    lead_in,
)
from toolkit.datasets.generate.drawing import between, chance, nonzero, pick
from toolkit.datasets.generate.fraction_sums import fraction_problem
from toolkit.datasets.generate.generator import Generator, OnRejected, Record, Rejected, draw, ignore_rejected
from toolkit.datasets.generate.number_text import capitalised, grouped, inside, mixed, plain
from toolkit.datasets.generate.order_of_operations import expression_problem
from toolkit.datasets.generate.quantities import Made, operands_key, verified_record
from toolkit.datasets.generate.word_problems import story_problem
from toolkit.datasets.generate.workings import Operation, by_columns, by_places, paper_steps, working

CATEGORY = "arithmetic"
SOURCE = "toolkit.datasets.generate.exact_arithmetic"

_KINDS: dict[Operation, str] = {"+": "addition", "-": "subtraction", "×": "multiplication", "÷": "division"}
# The largest number of digits of the two operands, by size: tiny, small, medium, large.
_DIGITS: dict[Operation, tuple[tuple[int, int], ...]] = {
    "+": ((1, 1), (2, 2), (4, 4), (15, 15)),
    "-": ((1, 1), (2, 2), (4, 4), (15, 15)),
    "×": ((1, 1), (2, 1), (3, 2), (6, 4)),
    "÷": ((1, 1), (2, 1), (3, 2), (7, 3)),
}
_SIZES = (0, 0, 0, 1, 1, 1, 2, 2, 3)
_NEGATIVE_SHARE = 0.22


_WORKINGS: dict[Style, Callable[[Operation, int, int], list[str]]] = {
    "working": working,
    "places": by_places,
    "columns": by_columns,
}


def binary_problem(rng: random.Random, operation: Operation) -> Made:
    """Draw two integers and a wording, and answer in the form that the wording asks for."""
    first, second, result = _operands(rng, operation)
    plain_numbers = first >= 0 and second >= 0
    big = plain_numbers and min(first, second) > 9_999 and chance(rng, 0.4)
    question, style, named = _worded(rng, operation, first, second, grouped if big else plain)
    steps = paper_steps(operation, first, second)
    places = operation in "+-" and plain_numbers and first >= second and not big and len(str(first)) in (2, 3)
    question, style = closing(rng, lead_in(rng, question), style, PLACES if places else ())
    return _answered(operation, (first, second, result), question, style, named, steps, grouped if big else plain)


def column_problem(rng: random.Random) -> Made:
    """Draw a sum for paper: two numbers of two digits, or one digit times two, to be written in columns."""
    operation: Operation = pick(rng, ("+", "+", "-", "-", "×"))
    first, second = between(rng, 11, 99), between(rng, 11, 99)
    if operation == "×":
        first = between(rng, 2, 9)
    elif operation == "-" and first < second:
        first, second = second, first
    result, undone = _integer_result(operation, first, second)
    if not undone:
        raise Rejected(f"{first} {operation} {second} = {result} does not undo")
    question, _, named = _worded(rng, operation, first, second, plain)
    question = f"{lead_in(rng, question)} {pick(rng, COLUMNS)}"
    steps = paper_steps(operation, first, second)
    return _answered(operation, (first, second, result), question, "columns", named, steps, plain)


def _answered(
    operation: Operation,
    numbers: tuple[int, int, int | Fraction],
    question: str,
    style: Style,
    named: str,
    steps: int,
    show: Callable[[int], str],
) -> Made:
    first, second, result = numbers
    if style == "working" and operation != "÷" and _suits_columns(operation, first, second):
        style = "columns"
    if style in _WORKINGS:
        output = f"{'; '.join(_WORKINGS[style](operation, first, second))}. The answer is {plain(result)}."
    elif style == "equation":
        symbol = next((mark for mark in "*/" if f" {mark} " in question), operation)
        output = f"{show(first)} {symbol} {inside(second) if second < 0 else show(second)} = {_shown(result, show)}"
    elif style == "number":
        output = _shown(result, show)
    else:
        output = f"{named} {_shown(result, show)}{_as_mixed(result)}."
    return Made(_KINDS[operation], question, output, operands_key(first, second), steps)


def _suits_columns(operation: Operation, first: int, second: int) -> bool:
    """Say whether a sum has two columns: how sums of that size are written on paper."""
    if operation == "×":
        return 1 < first < 10 and 10 <= second < 100
    return 10 <= min(first, second) and max(first, second) < 100 and (operation == "+" or first >= second)


def _shown(result: int | Fraction, show: Callable[[int], str]) -> str:
    return show(result.numerator) if result.denominator == 1 else plain(result)


def _as_mixed(result: int | Fraction) -> str:
    return f", which is {mixed(Fraction(result))}" if result.denominator != 1 and abs(result) > 1 else ""


def _operands(rng: random.Random, operation: Operation) -> tuple[int, int, int | Fraction]:
    """Return (first, second, result), checked by the inverse operation."""
    size = pick(rng, _SIZES)
    digits = _DIGITS[operation][size]
    first, second = (between(rng, 10 ** (n - 1) if n > 1 else 2, 10**n - 1) for n in digits)
    if chance(rng, 0.4):  # operands of different lengths, so that place values are not always aligned
        second = between(rng, 2, 10 ** max(1, digits[1] - between(rng, 1, digits[1])) * 9)
    if operation != "÷" and chance(rng, 0.5):
        first, second = second, first
    if chance(rng, _NEGATIVE_SHARE):
        first, second = pick(rng, ((-first, second), (first, -second), (-first, -second)))
    elif operation == "-" and first < second and chance(rng, 0.7):
        first, second = second, first
    if operation == "÷":
        return _dividend(rng, first, second)
    result, undone = _integer_result(operation, first, second)
    if not undone:
        raise Rejected(f"{first} {operation} {second} = {result} does not undo")
    return first, second, result


def _integer_result(operation: Operation, first: int, second: int) -> tuple[int, bool]:
    """Return the result and whether the inverse operation leads back."""
    if operation == "+":
        return first + second, (first + second) - second == first
    if operation == "-":
        return first - second, (first - second) + second == first
    return first * second, divmod(first * second, second) == (first, 0)


def _dividend(rng: random.Random, first: int, second: int) -> tuple[int, int, int | Fraction]:
    """Return (dividend, divisor, quotient): most come out even, the others are small and give a fraction."""
    if chance(rng, 0.8):
        first *= second
    else:
        first, second = abs(first) % 500 + 1, abs(second) % 60 + 2
    quotient = Fraction(first, second)
    if quotient * second != first:
        raise Rejected(f"{first} ÷ {second} = {quotient} does not undo")
    return first, second, quotient.numerator if quotient.denominator == 1 else quotient


def _worded(
    rng: random.Random, operation: Operation, first: int, second: int, show: Callable[[int], str]
) -> tuple[str, Style, str]:
    """Return the question, the form of its answer, and how a sentence that answers it begins."""
    words = {"a": show(first), "b": show(second)}
    signed = first < 0 or second < 0
    if chance(rng, 0.3):
        order, doing = _fit(rng, ORDERS[operation], signed)
        shell, style = pick(rng, ORDER_SHELLS)
        return (
            capitalised(shell.format(do=order.format_map(words))),
            style,
            f"{capitalised(doing.format_map(words))} gives",
        )
    (name,) = _fit(rng, tuple((one,) for one in NAMED[operation]), signed)
    if not name[4].isalpha():  # `{a} + {b}`: an expression, not words
        words["b"] = words["b"] if second >= 0 else f"({words['b']})"
    it = name.format_map(words)
    if name[4] in "+-×÷" and chance(rng, 0.12):
        return f"{it} = ?", "equation", f"{it} is"
    shell, style = pick(rng, SHELLS)
    return shell.format(it=it), style, f"{capitalised(it)} is"


def _fit(rng: random.Random, forms: tuple[tuple[str, ...], ...], signed: bool) -> tuple[str, ...]:
    while True:
        form = pick(rng, forms)
        if not (signed and "equal" in form[0]):
            return form


_REMAINDER_FORMS: tuple[tuple[str, str], ...] = (
    ("What is the remainder when {a} is divided by {b}?", "The remainder is {r}."),
    ("What remains if you divide {a} by {b}?", "{r} remains, because {a} = {b} × {q} + {r}."),
    ("Divide {a} by {b} with remainder.", "{a} = {b} × {q} + {r}, so the quotient is {q} and the remainder is {r}."),
    ("Give the quotient and the remainder of {a} ÷ {b}.", "The quotient is {q} and the remainder is {r}."),
    ("How often does {b} go into {a}, and what is left over?", "{b} goes into {a} {q} times; {r} is left over."),
    ("What is {a} modulo {b}?", "{a} modulo {b} is {r}."),
    ("What is {a} mod {b}? Answer with the number alone.", "{r}"),
    (
        "Find the remainder of {a} divided by {b} and show how.",
        "{b} × {q} = {p}; {a} - {p} = {r}. The remainder is {r}.",
    ),
    (
        "{a} things are packed in boxes of {b}. How many are left over?",
        "{b} × {q} = {p}; {a} - {p} = {r}. Left over: {r}.",
    ),
    ("Is {a} divisible by {b}? If not, what is the remainder?", ""),
)  # fmt: skip


def remainder_problem(rng: random.Random) -> Made:
    """Draw a division with remainder, checked by quotient × divisor + remainder."""
    second = between(rng, 2, pick(rng, (12, 12, 99, 999)))
    first = between(rng, second, second * pick(rng, (12, 40, 300)))
    quotient, rest = divmod(first, second)
    if quotient * second + rest != first or not 0 <= rest < second:
        raise Rejected(f"{first} = {second} × {quotient} + {rest} does not hold")
    question, answer = pick(rng, _REMAINDER_FORMS)
    if not answer:
        answer = "No. {a} = {b} × {q} + {r}, so the remainder is {r}." if rest else "Yes: {b} × {q} = {a}."
    words = {"a": first, "b": second, "q": quotient, "r": rest, "p": second * quotient}
    steps = paper_steps("÷", first, second)
    asked = lead_in(rng, question.format_map(words))
    return Made("remainder", asked, answer.format_map(words), operands_key(first, second), steps)


_UNDEFINED: dict[Style, str] = {
    "number": "undefined",
    "equation": "{a} ÷ 0 is undefined: no number times 0 gives {a}.",
    "sentence": "{named} undefined: division by zero has no answer.",
    "working": "Division by 0 would need a number that times 0 gives {a}. Every number times 0 is 0, so there is none: "
    "{a} ÷ 0 is undefined.",
}
_ZERO_BY_ZERO: dict[Style, str] = {
    **_UNDEFINED,
    "equation": "0 ÷ 0 is undefined: every number times 0 gives 0, so no single answer fits.",
    "working": "0 ÷ 0 would be a number that times 0 gives 0. Every number does, so none is the answer: "
    "0 ÷ 0 is undefined.",
}


def zero_division_problem(rng: random.Random) -> Made:
    """Draw a division by zero: the right answer says that there is none."""
    first = 0 if chance(rng, 0.08) else nonzero(rng, -999, 9_999) if chance(rng, 0.7) else between(rng, 10**4, 10**9)
    question, style, named = _worded(rng, "÷", first, 0, plain)
    question, style = closing(rng, lead_in(rng, question), style)
    if named.endswith(" gives"):
        named = f"{named.removesuffix(' gives')} is"
    said = (_UNDEFINED if first else _ZERO_BY_ZERO)[style]
    return Made("division by zero", question, said.format(a=first, named=named), operands_key(first, 0), 1)


_FAMILIES: tuple[tuple[int, Callable[[random.Random], Made]], ...] = (
    (17, lambda rng: binary_problem(rng, "+")),
    (16, lambda rng: binary_problem(rng, "-")),
    (14, lambda rng: binary_problem(rng, "×")),
    (30, column_problem),
    (11, lambda rng: binary_problem(rng, "÷")),
    (6, remainder_problem),
    (4, zero_division_problem),
    (10, fraction_problem),
    (10, expression_problem),
    (12, story_problem),
)
_BOUNDS = tuple(accumulate(weight for weight, _ in _FAMILIES))


def one(rng: random.Random) -> Record:
    """Make one arithmetic example."""
    made = _FAMILIES[bisect(_BOUNDS, rng.random() * _BOUNDS[-1])][1](rng)
    return verified_record(made, CATEGORY, SOURCE)


def make(seed: int, count: int, on_rejected: OnRejected = ignore_rejected) -> Iterator[Record]:
    """Yield `count` arithmetic examples."""
    return draw(CATEGORY, seed, count, one, on_rejected)


ARITHMETIC = Generator(
    CATEGORY, 600, (100, 100_000), "Exact sums, fractions, remainders, expressions and stories, with working", make
)
