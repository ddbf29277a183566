"""Fractions: the four operations, lowest terms, mixed numbers, comparing two. Exact, by `Fraction`.

Each answer is checked by the inverse operation, or by multiplying across, before it is kept.
"""

from __future__ import annotations

import random
from fractions import Fraction
from math import gcd, lcm

from toolkit.datasets.generate.arithmetic_frames import SHELLS, Style, closing, lead_in
from toolkit.datasets.generate.drawing import between, chance, pick
from toolkit.datasets.generate.generator import Rejected
from toolkit.datasets.generate.number_text import capitalised, inside, mixed
from toolkit.datasets.generate.quantities import Made, operands_key

_NAMES = {
    "+": ("{a} + {b}", "{a} plus {b}", "the sum of {a} and {b}"),
    "-": ("{a} - {b}", "{a} minus {b}", "{b} subtracted from {a}"),
    "×": ("{a} × {b}", "{a} times {b}", "the product of {a} and {b}", "{a} of {b}"),
    "÷": ("{a} ÷ {b}", "{a} divided by {b}", "the quotient of {a} and {b}"),
}
_REDUCE = (
    ("Simplify {f}.", "{f} = {s}"),
    ("Write {f} in lowest terms.", "{f} = {s}, because both parts divide by {g}."),
    ("Reduce the fraction {f}.", "Divide both parts by {g}: {f} = {s}"),
    ("What is {f} in its simplest form?", "In its simplest form {f} is {s}."),
    ("Cancel {f} as far as possible.", "{f} = {s}"),
)
_MIX = (
    ("Write {f} as a mixed number.", "{f} = {m}"),
    ("Turn {f} into a mixed number.", "{n} = {d} × {w} + {r}, so {f} = {m}"),
    ("What is {f} as a whole number and a fraction?", "{f} is {m}."),
)
_UNMIX = (
    ("Write {m} as an improper fraction.", "{m} = {f}"),
    ("Turn {m} into a single fraction.", "{w} × {d} + {r} = {n}, so {m} = {f}"),
)
_COMPARE = (
    ("Which is larger, {a} or {b}?", "{l} is larger."),
    ("Which of {a} and {b} is the smaller number?", "{s} is smaller."),
    ("Compare {a} and {b}.", "{c} and {d}, so {l} > {s}"),
    ("Put {a} and {b} in order, the smaller one first.", "{s} < {l}"),
)


def fraction_problem(rng: random.Random) -> Made:
    """Draw one problem about fractions."""
    place = rng.random()
    if place < 0.66:
        return _operation(rng)
    return pick(rng, (_reduction, _mixed_number, _comparison))(rng)


def _draw_fraction(rng: random.Random) -> Fraction:
    top = pick(rng, (9, 12, 30))
    bottom = between(rng, 2, top)
    number = Fraction(between(rng, 1, 2 * top), bottom)
    if number.denominator == 1:
        number = Fraction(number.numerator * bottom + 1, bottom)
    return -number if chance(rng, 0.1) else number


def _operation(rng: random.Random) -> Made:
    operation = pick(rng, "+-×÷")
    a, b = _draw_fraction(rng), _draw_fraction(rng)
    if chance(rng, 0.15):
        b = Fraction(between(rng, 2, 12))
    c, undone = _result(operation, a, b)
    if not undone:
        raise Rejected(f"{a} {operation} {b} = {c} does not undo")
    name = pick(rng, _NAMES[operation])
    expression = name[3:6] == f" {operation} "
    it = name.format(a=a, b=inside(b) if expression else b)
    shell, style = pick(rng, SHELLS)
    question, style = closing(rng, lead_in(rng, shell.format(it=it)), style)
    answer = _answer(style, operation, a, b, c, capitalised(it))
    steps = 4 + sum(len(str(n)) for n in (a.numerator, a.denominator, b.numerator, b.denominator))
    return Made("fractions", question, answer, operands_key(a, b), steps)


def _result(operation: str, a: Fraction, b: Fraction) -> tuple[Fraction, bool]:
    if operation == "+":
        return a + b, a + b - b == a
    if operation == "-":
        return a - b, a - b + b == a
    if operation == "×":
        return a * b, a * b / b == a
    return a / b, a / b * b == a


def _answer(style: Style, operation: str, a: Fraction, b: Fraction, c: Fraction, it: str) -> str:
    other = f" = {mixed(c)}" if mixed(c) != str(c) else ""
    whole = f"{a} {operation} {inside(b)}"
    if style == "number":
        return str(c)
    if style == "equation":
        return f"{whole} = {c}"
    if style == "sentence":
        return f"{it} is {c}{f', or {mixed(c)}' if other else ''}."
    return f"{'; '.join(_steps(operation, a, b, c))}. The answer is {c}."


def _steps(operation: str, a: Fraction, b: Fraction, c: Fraction) -> list[str]:
    whole = f"{a} {operation} {inside(b)}"
    if operation in "+-":
        base = lcm(a.denominator, b.denominator)
        x, y = a.numerator * (base // a.denominator), b.numerator * (base // b.denominator)
        top = x + y if operation == "+" else x - y
        lines = [f"{n} = {m}/{base}" for n, m in ((a, x), (b, y)) if n.denominator != base]
        sum_line = f"{x} {operation} {inside(y)} = {top}"
        return [*lines, sum_line, *_reduced(f"{whole} = {top}/{base}", top, base, c)]
    other = b if operation == "×" else 1 / b
    turned = [] if operation == "×" else [f"{whole} = {a} × {inside(other)}"]
    top, bottom = a.numerator * other.numerator, a.denominator * other.denominator
    return [
        *turned,
        f"{a.numerator} × {inside(other.numerator)} = {top}",
        f"{a.denominator} × {other.denominator} = {bottom}",
        *_reduced(f"{whole} = {top}/{bottom}", top, bottom, c),
    ]


def _reduced(line: str, top: int, bottom: int, c: Fraction) -> list[str]:
    return [line] if (top, bottom) == (c.numerator, c.denominator) else [f"{line} = {c}"]


def _reduction(rng: random.Random) -> Made:
    simple = abs(_draw_fraction(rng))
    factor = between(rng, 2, pick(rng, (9, 12, 40)))
    top, bottom = simple.numerator * factor, simple.denominator * factor
    if top * simple.denominator != bottom * simple.numerator or gcd(simple.numerator, simple.denominator) != 1:
        raise Rejected(f"{top}/{bottom} = {simple} is not reduced")
    question, answer = pick(rng, _REDUCE)
    words = {"f": f"{top}/{bottom}", "s": simple, "g": factor}
    asked = lead_in(rng, question.format_map(words))
    steps = 2 * len(str(factor)) + len(str(top)) + len(str(bottom))
    return Made("fractions", asked, answer.format_map(words), f"fraction:{top}/{bottom}", steps)


def _mixed_number(rng: random.Random) -> Made:
    part = abs(_draw_fraction(rng))
    number = part - int(part) + between(rng, 1, pick(rng, (5, 12, 40)))
    whole, rest = divmod(number.numerator, number.denominator)
    if (whole * number.denominator + rest, number.denominator) != (number.numerator, number.denominator):
        raise Rejected(f"{number} is not {whole} and {rest}/{number.denominator}")
    question, answer = pick(rng, _MIX if chance(rng, 0.5) else _UNMIX)
    words = {"f": number, "m": mixed(number), "n": number.numerator, "d": number.denominator, "w": whole, "r": rest}
    steps = 2 + len(str(number.numerator)) + len(str(number.denominator))
    return Made(
        "fractions", lead_in(rng, question.format_map(words)), answer.format_map(words), f"fraction:{number}", steps
    )


def _comparison(rng: random.Random) -> Made:
    a, b = abs(_draw_fraction(rng)), abs(_draw_fraction(rng))
    while a == b:
        b = abs(_draw_fraction(rng))
    small, large = (a, b) if a < b else (b, a)
    if not small.numerator * large.denominator < large.numerator * small.denominator:
        raise Rejected(f"{small} < {large} does not hold")
    base = lcm(a.denominator, b.denominator)
    c, d = (f"{n} = {n.numerator * (base // n.denominator)}/{base}" for n in (a, b))
    question, answer = pick(rng, _COMPARE)
    words = {"a": a, "b": b, "s": small, "l": large, "c": c, "d": d}
    steps = 3 + len(str(a.denominator)) + len(str(b.denominator))
    return Made(
        "fractions", lead_in(rng, question.format_map(words)), answer.format_map(words), operands_key(a, b), steps
    )
