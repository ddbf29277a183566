"""Written workings for the four operations on integers: lists of equations, each true, the last one giving the result.

Signs are dealt with first (`5 - (-3) = 5 + 3`), so that the steps themselves are on numbers without a sign.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

from toolkit.datasets.generate.number_text import inside

Operation = Literal["+", "-", "×", "÷"]

_LONG = 9_999


def paper_steps(operation: Operation, first: int, second: int) -> int:
    """Count the single-digit steps of an operation on paper: the unit of this category's difficulty.

    Addition and subtraction take one step a column and one a carry or borrow; multiplication one a pair of digits and
    the additions after it; division, for every digit of the quotient, one multiplication and one subtraction by the
    divisor. A negative operand adds one step. Dividing by zero is one step: seeing it.
    """
    signs = (first < 0) + (second < 0)
    a, b = abs(first), abs(second)
    digits, others = len(str(a)), len(str(b))
    if operation == "÷":
        return signs + (1 if b == 0 else max(1, digits - others + 1) * 2 * others)
    if operation == "×":
        return signs + digits * others + (others - 1) * digits
    if (operation == "+") == ((first < 0) == (second < 0)):
        return signs + max(digits, others) + _carries(a, b)
    return signs + max(digits, others) + _borrows(max(a, b), min(a, b))


def difficulty_of(steps: float) -> float:
    """Map single-digit steps to 0..1: 1 step is 0.08, 12 steps are 0.5, 48 are 0.8."""
    return steps / (steps + 12)


def _carries(a: int, b: int) -> int:
    carries = carry = 0
    while a or b or carry:
        carry = (a % 10 + b % 10 + carry) > 9
        carries += carry
        a //= 10
        b //= 10
    return carries


def _borrows(a: int, b: int) -> int:
    return _carries(a - b, b)


def working(operation: Operation, first: int, second: int) -> list[str]:
    """Return the equations that lead to `first operation second`; the divisor of a division is not 0."""
    if operation == "+":
        return _addition(first, second)
    if operation == "-":
        return _subtraction(first, second)
    if operation == "×":
        return _multiplication(first, second)
    return _division(first, second)


def by_places(operation: Operation, first: int, second: int) -> list[str]:
    """Add or subtract two numbers without a sign place by place, from the largest."""
    sign = 1 if operation == "+" else -1
    lines, results = [], []
    place = 10 ** (max(len(str(first)), len(str(second))) - 1)
    while place:
        a, b = first // place % 10 * place, second // place % 10 * place
        results.append(a + sign * b)
        lines.append(f"{a} {operation} {b} = {results[-1]}")
        place //= 10
    if len(results) > 1:
        lines.append(f"{results[0]} + {' + '.join(map(inside, results[1:]))} = {first + sign * second}")
    return lines


def by_columns(operation: Operation, first: int, second: int) -> list[str]:
    """Write `first operation second` in columns, from the units up: `47 + 38: 7 + 8 = 15`, then `4 + 3 + 1 = 8`.

    Numbers without a sign: any two for `+`, the larger first for `-`, a factor of one digit first for `×`.
    """
    width = max(len(str(first)), len(str(second)))
    upper, lower = (str(number).zfill(width)[::-1] for number in (first, second))
    lines, carried = [], 0
    for place in range(width):
        if operation == "×":
            value = first * int(lower[place]) + carried
            shown = f"{first} × {lower[place]}" + (f" + {carried}" if carried else "")
            carried = value // 10
        elif operation == "+":
            value = int(upper[place]) + int(lower[place]) + carried
            shown = f"{upper[place]} + {lower[place]}" + (" + 1" if carried else "")
            carried = value // 10
        else:
            taken = " - 1" if carried else ""
            lent = int(upper[place]) - int(lower[place]) < carried
            value = int(upper[place]) + 10 * lent - int(lower[place]) - carried
            shown = f"{int(upper[place]) + 10 * lent} - {lower[place]}{taken}"
            carried = int(lent)
        lines.append(f"{shown} = {value}")
    return [f"{first} {operation} {second}: {lines[0]}", *lines[1:]]


def parts(number: int) -> list[int]:
    """Split 4,207 into 4,000, 200 and 7; a number above 9,999 into groups of three digits."""
    base = 1_000 if number > _LONG else 10
    found, place = [], 1
    while number:
        number, digit = divmod(number, base)
        if digit:
            found.append(digit * place)
        place *= base
    return found[::-1] or [0]


def _addition(first: int, second: int) -> list[str]:
    if first < 0 and second < 0:
        whole = f"{first} + {inside(second)} = -({-first} + {-second})"
        return [whole, *_addition(-first, -second), f"{first} + {inside(second)} = {first + second}"]
    if second < 0:
        return [f"{first} + {inside(second)} = {first} - {-second}", *_subtraction(first, -second)]
    if first < 0:
        return [f"{first} + {second} = {second} - {-first}", *_subtraction(second, -first)]
    lines, total = [], first
    for part in parts(second):
        lines.append(f"{total} + {part} = {total + part}")
        total += part
    return lines


def _subtraction(first: int, second: int) -> list[str]:
    if second < 0:
        return [f"{first} - {inside(second)} = {first} + {-second}", *_addition(first, -second)]
    if first < 0:
        whole = f"{first} - {second} = -({-first} + {second})"
        return [whole, *_addition(-first, second), f"{first} - {second} = {first - second}"]
    if first < second:
        whole = f"{first} - {second} = -({second} - {first})"
        return [whole, *_subtraction(second, first), f"{first} - {second} = {first - second}"]
    lines, total = [], first
    for part in parts(second):
        lines.append(f"{total} - {part} = {total - part}")
        total -= part
    return lines


def _multiplication(first: int, second: int) -> list[str]:
    a, b = abs(first), abs(second)
    smaller, larger = (a, b) if a <= b else (b, a)
    pieces = parts(smaller)
    lines = [f"{larger} × {piece} = {larger * piece}" for piece in pieces]
    if len(pieces) > 1:
        lines.append(f"{' + '.join(str(larger * piece) for piece in pieces)} = {a * b}")
    if first < 0 or second < 0:
        lines.append(f"{first} × {inside(second)} = {first * second}")
    return lines


def _division(first: int, second: int) -> list[str]:
    a, b = abs(first), abs(second)
    whole, rest = divmod(a, b)
    if rest:
        quotient = Fraction(first, second)
        taken_out = [f"{b} × {whole} = {b * whole}", f"{a} - {b * whole} = {rest}"] if whole else []
        return [*taken_out, f"{first} ÷ {inside(second)} = {quotient}"]
    lines, left = [], a
    pieces = parts(whole)
    for piece in pieces:
        lines.append(f"{b} × {piece} = {b * piece}")
        if len(pieces) > 1:
            lines.append(f"{left} - {b * piece} = {left - b * piece}")
        left -= b * piece
    if len(pieces) > 1:
        lines.append(f"{' + '.join(map(str, pieces))} = {whole}")
    lines.append(f"{first} ÷ {inside(second)} = {first // second}")
    return lines
