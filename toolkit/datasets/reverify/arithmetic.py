"""Check an arithmetic example: read the question, work it out by `Fraction`, and compare what the answer claims.

Every equation in the answer must hold too, so a wrong step is found even where the result is right.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction

from toolkit.datasets.reverify.columns import column_fault
from toolkit.datasets.reverify.expressions import Unread, evaluate, number
from toolkit.datasets.reverify.stories import story_values

Value = Fraction | None
"""What a question comes to; None where it is undefined."""

_ONE = r"\(?-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:/\d+)?\)?"
_A, _B = rf"(?P<a>{_ONE})(?![\d/])", rf"(?P<b>{_ONE})(?![\d/])"
_OPERATIONS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
}
_WORDS = {
    "add": (
        f"sum of {_A} and {_B}", f"total of {_A} and {_B}", f"{_A} plus {_B}", f"{_A} increased by {_B}",
        f"{_B} more than {_A}", f"{_B} added to {_A}", f"add (?:up )?{_A} (?:to|and) {_B}", f"increase {_A} by {_B}",
    ),
    "subtract": (
        f"{_A} minus {_B}", f"{_A} decreased by {_B}", f"{_A} less {_B}", f"{_B} less than {_A}",
        f"{_B} subtracted from {_A}", f"when {_B} is taken from {_A}", f"subtract {_B} from {_A}",
        f"take {_B} away from {_A}", f"(?:decrease|reduce) {_A} by {_B}",
    ),
    "multiply": (
        f"{_A} times {_B}", f"product of {_A} and {_B}", f"{_A} multiplied by {_B}", f"multiply {_A} (?:by|and) {_B}",
        f"{_A} of {_B}",
    ),
    "divide": (
        f"(?<!when ){_A} divided by {_B}", f"quotient of {_A} and {_B}", f"{_A} split into {_B} equal",
        f"divide {_A} by {_B}", f"split {_A} into {_B} equal", f"share {_A} equally among {_B}",
    ),
}  # fmt: skip
_WORDED = [(re.compile(pattern, re.IGNORECASE), operation) for operation, forms in _WORDS.items() for pattern in forms]
_TERM = r"[-(]*(?:\d{1,3}(?:,\d{3})+|\d+)(?:/\d+)?\)*"
_EXPRESSION = re.compile(rf"{_TERM}(?:\s*[-+×*÷/]\s*{_TERM})+")
_NUMBER = re.compile(r"(?<![\w/])-?(?:\d+ \d+/\d+|(?:\d{1,3}(?:,\d{3})+|\d+)(?:/\d+)?)(?![\d/])")
_EQUATION = re.compile(r"[-(\d][-+×*÷/()\d,\s]*(?:=\s*[-(\d][-+×*÷/()\d,\s]*)+")
_RELATION = re.compile(rf"({_ONE}) ([<>]) ({_ONE})")
_ALSO = re.compile(r",? (?:or|which is) (-?\d+ \d+/\d+)\.$")
_REMAINDER = (
    re.compile(r"when (\d+) is divided by (\d+)"), re.compile(r"remains if you divide (\d+) by (\d+)"),
    re.compile(r"Divide (\d+) by (\d+) with remainder"), re.compile(r"and the remainder of (\d+) ÷ (\d+)"),
    re.compile(r"(?P<b>\d+) go into (?P<a>\d+), and what is left"), re.compile(r"(\d+) mod(?:ulo)? (\d+)\?"),
    re.compile(r"remainder of (\d+) divided by (\d+)"), re.compile(r"(\d+) things are packed in boxes of (\d+)"),
    re.compile(r"Is (\d+) divisible by (\d+)"),
)  # fmt: skip
_REST_CLAIMS = (
    r"remainder is (\d+)", r"^(\d+)$", r"^(\d+) remains", r"(\d+) is left over", r"Left over: (\d+)",
    r"modulo \d+ is (\d+)\.",
)  # fmt: skip
_QUOTIENT_CLAIMS = (r"quotient is (\d+)", r"goes into \d+ (\d+) times")


def fault_in_arithmetic(question: str, answer: str) -> str:
    """Return what is wrong with the answer, or an empty text.

    Raises:
        Unread: the question has no reading, or two that differ, or the answer claims nothing.
    """
    wrong = _false_statement(answer) or column_fault(answer)
    if wrong:
        return wrong
    for pattern in _REMAINDER:
        match = pattern.search(question)
        if match:
            named = match.groupdict() or {"a": match[1], "b": match[2]}
            return _remainder_fault(question, answer, int(named["a"]), int(named["b"]))
    special = _fraction_form_fault(question, answer)
    if special is not None:
        return special
    expected, claimed = value_asked_for(question), _claim(answer)
    if expected != claimed:
        return f"the question comes to {_shown(expected)}, the answer says {_shown(claimed)}"
    return ""


def value_asked_for(question: str) -> Value:
    """Return the value of what a question asks for, None where it is undefined. Raises Unread."""
    found: list[Value] = list(story_values(question)) or _worded(question) or _written(question)
    if len(set(found)) != 1:
        raise Unread(f"{len(set(found))} readings of {question!r}")
    return found[0]


def _worded(question: str) -> list[Value]:
    found: list[Value] = []
    for pattern, operation in _WORDED:
        match = pattern.search(question)
        if match:
            a, b = number(match["a"].strip("()")), number(match["b"].strip("()"))
            # "12 divided by 0": undefined, whatever is divided.
            found.append(None if operation == "divide" and b == 0 else _OPERATIONS[operation](a, b))
    return found


def _written(question: str) -> list[Value]:
    found: list[Value] = []
    for match in _EXPRESSION.finditer(question):
        try:
            found.append(evaluate(match.group()))
        except ZeroDivisionError:
            found.append(None)
    return found


def _claim(answer: str) -> Value:
    if "undefined" in answer:
        return None
    also = _ALSO.search(answer)
    numbers = _NUMBER.findall(answer[: also.start()] if also else answer)
    claimed = _signed(_last(numbers, answer))
    if also and _signed(also[1]) != claimed:
        raise Unread(f"{answer!r} names two values")
    return claimed


def _signed(text: str) -> Fraction:
    """Read a number whose sign belongs to all of it: `-2 1/3` is minus seven thirds."""
    return -number(text[1:]) if text.startswith("-") else number(text)


def _false_statement(answer: str) -> str:
    for match in _EQUATION.finditer(answer):
        written = match.group().strip(" ,")
        sides = [side.strip() for side in written.split("=")]
        try:
            values = {_signed(side) if _NUMBER.fullmatch(side) else evaluate(side) for side in sides}
        except ZeroDivisionError:
            return f"{written!r} divides by zero"
        if len(values) != 1:
            return f"{written!r} does not hold"
    for left, sign, right in _RELATION.findall(answer):
        if (number(left) < number(right)) != (sign == "<") or number(left) == number(right):
            return f"{left} {sign} {right} does not hold"
    return ""


def _remainder_fault(question: str, answer: str, a: int, b: int) -> str:
    quotient, rest = divmod(a, b)
    rests = [int(found) for pattern in _REST_CLAIMS for found in re.findall(pattern, answer)]
    if answer.startswith("Yes"):
        rests.append(0)
    quotients = [int(found) for pattern in _QUOTIENT_CLAIMS for found in re.findall(pattern, answer)]
    if not rests or ("quotient" in question and not quotients):
        raise Unread(f"no remainder or no quotient in {answer!r}")
    if set(rests) != {rest} or set(quotients) - {quotient} or (answer.startswith("No") and rest == 0):
        return f"{a} is {b} × {quotient} and {rest} left over, the answer says {answer!r}"
    return ""


def _fraction_form_fault(question: str, answer: str) -> str | None:
    """Check answers whose form matters as well as their value; None where the question asks for no such form."""
    if re.search(r"Simplify|lowest terms|Reduce the fraction|simplest form|Cancel", question):
        asked = _NUMBER.findall(question)[-1]
        given = _last(re.findall(rf"(?:=|is) ({_ONE})", answer), answer)
        top, bottom = (int(part) for part in f"{given}/1".split("/")[:2])
        by = re.search(r"(?:by|divide by) (\d+)", answer)
        factor = Fraction(int(asked.split("/")[0]), top)
        if number(given) != number(asked) or math.gcd(top, bottom) != 1 or (by and int(by[1]) != factor):
            return f"{asked} is not {given} in lowest terms"
        return ""
    if re.search(r"mixed number|whole number and a fraction|improper fraction|single fraction", question):
        asked, given = _NUMBER.findall(question)[-1], _last(_NUMBER.findall(answer), answer)
        wants_mixed = "improper" not in question and "single" not in question
        if _signed(asked) != _signed(given) or wants_mixed != (" " in given):
            return f"{asked} is not {given} in the form asked for"
        return ""
    return _comparison_fault(question, answer)


def _last(found: list[str], answer: str) -> str:
    if not found:
        raise Unread(f"no number in {answer!r}")
    return found[-1]


def _comparison_fault(question: str, answer: str) -> str | None:
    if not re.search(r"Which is larger|is the smaller|Compare|in order, the smaller", question):
        return None
    first, second = (number(text) for text in _NUMBER.findall(question)[-2:])
    found = re.search(rf"({_ONE}) is (larger|smaller)|({_ONE}) ([<>]) ({_ONE})", answer)
    if found is None:
        raise Unread(f"no comparison in {answer!r}")
    if found[2]:
        right = max(first, second) if found[2] == "larger" else min(first, second)
        return "" if number(found[1]) == right else f"{found[1]} is not {found[2]}"
    return "" if {number(found[3]), number(found[5])} == {first, second} else f"{answer!r} compares other numbers"


def _shown(value: Value) -> str:
    return "undefined" if value is None else str(value)
