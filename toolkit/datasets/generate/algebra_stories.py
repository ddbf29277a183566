"""Stories that ask for an equation first: each sets it up, solves it and proves the solution like any other."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from toolkit.datasets.generate import algebra_proof as proof
from toolkit.datasets.generate.algebra_frames import Style, closing
from toolkit.datasets.generate.algebra_problems import effort_of
from toolkit.datasets.generate.drawing import between, pick, pick_some
from toolkit.datasets.generate.equations import (
    Equation,
    Part,
    at,
    constant,
    linear,
    normal_form,
    polynomial,
    quadratic_roots,
    rational,
    term,
)  # fmt: skip
from toolkit.datasets.generate.quantities import Made
from toolkit.datasets.generate.story_telling import NAMES, PLACES


class Posed(NamedTuple):
    """Slots, the equations to set up, the working after them, and the key's coefficients."""

    slots: dict[str, int]
    equations: list[Equation]
    lines: list[str]
    key: str


def story_problem(rng: random.Random) -> Made:
    """Draw a story, its numbers and its wording."""
    pose, tellings = pick(rng, _STORIES)
    posed = pose(rng)
    first, second = pick_some(rng, NAMES, 2)
    slots = {"n": first, "m": second, "p": pick(rng, PLACES), **posed.slots}
    told, call, reply = pick(rng, tellings)
    question, style = closing(rng, told.format_map(slots), "working")
    sentence = reply.format_map(slots)
    answer = sentence if style == "solution" else _worked(posed, call.format_map(slots), sentence, style)
    effort = effort_of(posed.equations, posed.lines, 3)
    return Made("equation story", question, answer, posed.key, effort)


def _worked(posed: Posed, call: str, sentence: str, style: Style) -> str:
    steps = "; ".join([*map(str, posed.equations), *posed.lines])
    checked = " Put back, every equation holds." if style == "check" else ""
    return f"{call}: {steps}. {sentence}{checked}"


def _one(slots: dict[str, int], equation: Equation, lines: list[str], value: int) -> Posed:
    proof.prove_linear(equation, "x", rational(value))
    zero, one = {"x": Fraction(0)}, {"x": Fraction(1)}
    offset = at(equation.left, zero)
    numbers = (at(equation.left, one) - offset, offset, 0, at(equation.right, zero))
    return Posed(slots, [equation], lines, f"equation:{normal_form(numbers)}")


def _number_thought_of(rng: random.Random) -> Posed:
    a, b, x = between(rng, 2, 9), between(rng, 1, 40), between(rng, 2, 40)
    equation = Equation(polynomial("x", a, b), constant(a * x + b))
    return _one({"a": a, "b": b, "c": a * x + b, "r": x}, equation, [f"{a}x = {a * x}", f"x = {x}"], x)


def _taxi(rng: random.Random) -> Posed:
    a, b, x = between(rng, 2, 6), between(rng, 3, 25), between(rng, 2, 40)
    equation = Equation(polynomial("x", a, b), constant(a * x + b))
    return _one({"a": a, "b": b, "c": a * x + b, "r": x}, equation, [f"{a}x = {a * x}", f"x = {x}"], x)


def _consecutive(rng: random.Random) -> Posed:
    x = between(rng, 2, 200)
    left = (*polynomial("x", 1, 0), Part(1, ((polynomial("x", 1, 1), 1),)), Part(1, ((polynomial("x", 1, 2), 1),)))
    equation = Equation(left, constant(3 * x + 3))
    lines = [f"3x + 3 = {3 * x + 3}", f"3x = {3 * x}", f"x = {x}"]
    return _one({"s": 3 * x + 3, "r": x, "r2": x + 1, "r3": x + 2}, equation, lines, x)


def _rectangle(rng: random.Random) -> Posed:
    k, x = between(rng, 2, 6), between(rng, 2, 40)
    around = 2 * x * (k + 1)
    equation = Equation((Part(2, (((term(1, "x"), term(k, "x")), 1),)),), constant(around))
    return _one({"k": k, "s": around, "r": x, "l": k * x}, equation, [f"{2 * (k + 1)}x = {around}", f"x = {x}"], x)


def _two(slots: dict[str, int], rows: list[tuple[int, int, int]], lines: list[str], x: int, y: int) -> Posed:
    equations = [Equation(linear("xy", row[:2]), constant(row[2])) for row in rows]
    proof.prove_system(equations, {"x": rational(x), "y": rational(y)})
    return Posed(slots, equations, lines, "system:" + "|".join(sorted(normal_form(row) for row in rows)))


def _sum_and_difference(rng: random.Random) -> Posed:
    y = between(rng, 2, 60)
    d = between(rng, 1, 40)
    x, s = y + d, 2 * y + d
    lines = [f"2x = {s + d}", f"x = {x}", f"y = {y}"]
    return _two({"s": s, "d": d, "r": x, "r2": y}, [(1, 1, s), (1, -1, d)], lines, x, y)


def _tickets(rng: random.Random) -> Posed:
    v = between(rng, 2, 9)
    u, x, y = v + between(rng, 1, 9), between(rng, 3, 80), between(rng, 3, 80)
    t, total = x + y, u * x + v * y
    lines = [f"{v}x + {v}y = {v * t}", f"{u - v}x = {total - v * t}", f"x = {x}", f"y = {y}"]
    lines = [line.replace("1x", "x") if line.startswith("1x ") else line for line in lines]
    return _two({"t": t, "u": u, "v": v, "e": total, "r": x, "r2": y}, [(1, 1, t), (u, v, total)], lines, x, y)


def _square(slots: dict[str, int], numbers: tuple[int, int, int], equation: Equation, positive: int) -> Posed:
    roots = quadratic_roots(*numbers)
    proof.prove_quadratic(equation, "x", numbers[0], roots)
    standard = Equation(polynomial("x", *numbers), constant(0))
    other = next(root for root in roots if root.p != positive)
    lines = [str(standard), f"x = {positive} or x = {other}", "only the positive one fits"]
    return Posed(slots, [equation], lines, f"equation:{normal_form(numbers)}")


def _product_of_neighbours(rng: random.Random) -> Posed:
    x = between(rng, 2, 60)
    equation = Equation((Part(1, (("x", 1), (polynomial("x", 1, 1), 1))),), constant(x * (x + 1)))
    return _square({"s": x * (x + 1), "r": x, "r2": x + 1}, (1, 1, -x * (x + 1)), equation, x)


def _plot(rng: random.Random) -> Posed:
    x, d = between(rng, 2, 40), between(rng, 2, 20)
    equation = Equation((Part(1, (("x", 1), (polynomial("x", 1, d), 1))),), constant(x * (x + d)))
    return _square({"d": d, "s": x * (x + d), "r": x, "l": x + d}, (1, d, -x * (x + d)), equation, x)


_Telling = tuple[str, str, str]
_STORIES: tuple[tuple[Callable[[random.Random], Posed], tuple[_Telling, ...]], ...] = (
    (_number_thought_of, (
        ("I think of a number, multiply it by {a} and add {b}. I get {c}. Which number is it?", "Call the number x", "The number is {r}."),
        ("{n} takes {a} times a secret number, adds {b} and arrives at {c}. What is the secret number?", "Let x be the number", "The secret number is {r}."),
        ("{a} times a number plus {b} is {c}. What is the number?", "With x for the number", "The number is {r}."),
    )),
    (_taxi, (
        ("A taxi costs {b} euros plus {a} euros for each kilometre. {n} pays {c} euros. How far was the ride?", "Let x be the kilometres", "The ride was {r} kilometres long."),
        ("The {p} hires out bicycles for {b} euros and {a} euros an hour more. {n} paid {c} euros. For how many hours?", "Let x be the hours", "{n} paid for {r} hours."),
        ("{n} has {b} euros and saves {a} euros every week. After how many weeks are there {c} euros?", "Let x be the weeks", "After {r} weeks."),
    )),
    (_consecutive, (
        ("Three whole numbers in a row add up to {s}. Which are they?", "Call the smallest x", "They are {r}, {r2} and {r3}."),
        ("{n}, {m} and a friend have seats with consecutive numbers whose sum is {s}. What is the lowest number?", "Call the lowest x", "The lowest number is {r}."),
    )),
    (_rectangle, (
        ("A rectangle is {k} times as long as it is wide, and its perimeter is {s} metres. How wide is it?", "Let x be the width", "It is {r} metres wide."),
        ("The yard of the {p} is {k} times as long as wide; {s} metres of fence go round it. How long is it?", "Let x be the width", "It is {l} metres long."),
    )),
    (_sum_and_difference, (
        ("Two numbers add up to {s}, and one of them is {d} larger than the other. Which numbers are they?", "Call them x and y", "They are {r} and {r2}."),
        ("{n} is {d} years older than {m}, and together they are {s} years old. How old is {n}?", "Let x be {n}'s age and y the age of {m}", "{n} is {r} years old."),
        ("{n} and {m} share {s} euros so that {n} gets {d} euros more. How much does {m} get?", "Let x and y be what {n} and {m} get", "{m} gets {r2} euros."),
    )),
    (_tickets, (
        ("The {p} sells {t} tickets for {e} euros in all. Adults pay {u} euros, children {v} euros. How many adults came?", "Let x be the adults and y the children", "{r} adults came."),
        ("{n} buys {t} plants for {e} euros: roses at {u} euros and herbs at {v} euros. How many herbs are there?", "Let x be the roses and y the herbs", "There are {r2} herbs."),
    )),
    (_product_of_neighbours, (
        ("The product of two consecutive positive whole numbers is {s}. What is the smaller one?", "Call the smaller one x", "The smaller one is {r}."),
        ("{n} multiplies the numbers of two neighbouring pages of a book and gets {s}. Which pages are they?", "Call the first page x", "They are pages {r} and {r2}."),
    )),
    (_plot, (
        ("A plot is {d} metres longer than it is wide and has {s} square metres. How wide is it?", "Let x be the width", "It is {r} metres wide."),
        ("The hall of the {p} covers {s} square metres and is {d} metres longer than wide. How long is it?", "Let x be the width", "It is {l} metres long."),
    )),
)  # fmt: skip
