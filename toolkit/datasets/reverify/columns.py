"""Check a sum that is written in columns: `47 + 38: 7 + 8 = 15; 4 + 3 + 1 = 8`, from the units up."""

from __future__ import annotations

import re

_COLUMNS = re.compile(r"(\d+) ([-+×]) (\d+): ((?:\d+(?: [-+×] \d+)+ = \d+(?:; |(?=\.)))+)")
_STEP = re.compile(r"(\d+) [-+×] (\d+)(?: [-+] (\d+))? = \d+")


def column_fault(answer: str) -> str:
    """Return the first column that does not take its digits and its carry from the two numbers, or an empty text.

    Whether the column's own equation holds is not asked here.
    """
    for found in _COLUMNS.finditer(answer):
        first, sign, second = int(found[1]), found[2], int(found[3])
        steps = found[4].removesuffix("; ").split("; ")
        if len(steps) != max(len(found[1]), len(found[3])):
            return f"{found[1]} {sign} {found[3]} is written in {len(steps)} columns"
        carried = 0
        for place, step in enumerate(steps):
            wanted, carried = _column(first, sign, second, place, carried)
            read = _STEP.fullmatch(step)
            if read is None or (int(read[1]), int(read[2]), int(read[3] or 0)) != wanted:
                return f"{step!r} is not column {place + 1} of {found[1]} {sign} {found[3]}"
    return ""


def _column(first: int, sign: str, second: int, place: int, carried: int) -> tuple[tuple[int, int, int], int]:
    """Return the numbers that a column works with (upper, lower, carried into it), and what it carries on."""
    upper, lower = first // 10**place % 10, second // 10**place % 10
    if sign == "×":
        return (first, lower, carried), (first * lower + carried) // 10
    if sign == "+":
        return (upper, lower, carried), (upper + lower + carried) // 10
    borrowed = upper < lower + carried
    return (upper + 10 * borrowed, lower, carried), int(borrowed)
