"""Read written mathematics: numbers, mixed numbers, `+ - × ÷`, brackets, unknowns, powers, roots.

One parser serves two kinds of values: `Fraction` for arithmetic, SymPy's expressions for algebra (`Values` says how a
number, a name or a root becomes a value). `3/4` written without spaces is one number; `12 / 4` is a division.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any


class Unread(Exception):
    """The text is not mathematics that this module knows."""


@dataclass(frozen=True)
class Values:
    """How a fraction, a name and the argument of a root become values."""

    number: Callable[[Fraction], Any]
    name: Callable[[str], Any]
    root: Callable[[Any], Any]


def _no_name(name: str) -> Any:
    raise Unread(f"the name {name} in arithmetic")


FRACTIONS = Values(lambda number: number, _no_name, _no_name)

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_TOKEN = re.compile(
    rf"\s*(?:(?P<root>√\d+)|(?P<mixed>\d+ \d+/\d+)|(?P<fraction>\d+/\d+)|(?P<whole>{_DIGITS})"
    r"|(?P<name>[a-z])|(?P<power>[²³])|(?P<mark>[-+×*÷/()√−]))"
)
_POWERS = {"²": 2, "³": 3}


def evaluate(text: str, values: Values = FRACTIONS) -> Any:
    """Return the value of an expression. Raises Unread, and ZeroDivisionError where a divisor is 0."""
    reader = _Reader(_tokens(text), values)
    value = reader.sum()
    if reader.place < len(reader.tokens):
        raise Unread(f"{text!r} goes on after its end")
    return value


def number(text: str) -> Fraction:
    """Return the value of one written number: `-1,200`, `(-3)`, `7/3`, `2 1/3`."""
    return evaluate(text)


def _tokens(text: str) -> list[tuple[str, str]]:
    found, place, text = [], 0, text.strip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise Unread(f"{text[place:]!r} is no expression")
        found.append((match.lastgroup or "", match.group().strip()))
        place = match.end()
    return found


@dataclass
class _Reader:
    tokens: list[tuple[str, str]]
    values: Values
    place: int = 0

    def _next(self) -> tuple[str, str]:
        return self.tokens[self.place] if self.place < len(self.tokens) else ("", "")

    def _take(self, marks: str) -> str:
        _, text = self._next()
        if text and text in marks:
            self.place += 1
            return text
        return ""

    def sum(self) -> Any:
        total = self.product()
        while mark := self._take("+-−"):
            term = self.product()
            total = total + term if mark == "+" else total - term
        return total

    def product(self) -> Any:
        total = self.signed()
        while True:
            if mark := self._take("×*÷/"):
                factor = self.signed()
                if mark in "×*":
                    total = total * factor
                elif factor == 0:
                    raise ZeroDivisionError
                else:
                    total = total / factor
            elif self._next()[0] in ("name", "root") or self._next()[1] in ("(", "√"):
                total = total * self.power()  # 3x, 2(x + 1), 5√2
            else:
                return total

    def signed(self) -> Any:
        return -self.signed() if self._take("-−") else self.power()

    def power(self) -> Any:
        value = self.atom()
        kind, text = self._next()
        if kind == "power":
            self.place += 1
            value = value ** _POWERS[text]
        return value

    def atom(self) -> Any:
        kind, text = self._next()
        self.place += 1
        if kind == "whole":
            return self.values.number(Fraction(int(text.replace(",", ""))))
        if kind == "fraction":
            return self._ratio(text)
        if kind == "mixed":
            whole, part = text.split()
            return self.values.number(Fraction(int(whole))) + self._ratio(part)
        if kind == "name":
            return self.values.name(text)
        if kind == "root":  # √57/3 is a third of √57
            return self.values.root(self.values.number(Fraction(int(text[1:]))))
        if text == "√":
            return self.values.root(self.atom())
        if text == "(":
            value = self.sum()
            if self._take(")"):
                return value
        raise Unread(f"{text!r} where a number was expected")

    def _ratio(self, text: str) -> Any:
        top, bottom = text.split("/")
        return self.values.number(Fraction(int(top), int(bottom)))
