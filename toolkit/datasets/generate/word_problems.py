"""Stories around sums: twenty situations, each told in several ways, with names, things and places in the slots.

A story's numbers are chosen so that it makes sense (nobody gives away more than they have); its answer is the value of
its equations, the last of which is checked by evaluating the story's formula a second time, by `Fraction`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from toolkit.datasets.generate.arithmetic_frames import closing
from toolkit.datasets.generate.drawing import between, pick, pick_some
from toolkit.datasets.generate.generator import Rejected
from toolkit.datasets.generate.quantities import Made, operands_key
from toolkit.datasets.generate.story_telling import ITEMS, NAMES, PLACES, TELLINGS
from toolkit.datasets.generate.workings import Operation, paper_steps


class Sum(NamedTuple):
    """One line of a story's working: `first operation second = result`."""

    first: int
    operation: Operation
    second: int
    result: int

    def __str__(self) -> str:
        """Write the line."""
        return f"{self.first} {self.operation} {self.second} = {self.result}"


class Story(NamedTuple):
    """The numbers of a story by slot, its lines, and what its formula gives when it is evaluated a second time."""

    numbers: dict[str, int]
    lines: list[Sum]
    again: Fraction


def story_problem(rng: random.Random) -> Made:
    """Draw a situation, its numbers and its wording."""
    situation, draw = pick(rng, _STORIES)
    story = draw(rng)
    result = story.lines[-1].result
    if story.again != result:
        raise Rejected(f"{situation} {story.numbers} gives {result} and {story.again}")
    names, (item, other) = pick_some(rng, NAMES, 2), pick_some(rng, ITEMS, 2)
    words = {"n": names[0], "m": names[1], "i": item, "j": other, "p": pick(rng, PLACES), "r": result, **story.numbers}
    told, reply = pick(rng, TELLINGS[situation])
    question, style = closing(rng, told.format_map(words), "working")
    steps = sum(paper_steps(line.operation, line.first, line.second) for line in story.lines) + 2 * told.count(". ")
    sentence = reply.format_map(words)
    if style == "number":
        answer = str(result)
    elif style == "equation":
        answer = "; ".join(map(str, story.lines))
    else:
        answer = sentence if style == "sentence" else f"{'; '.join(map(str, story.lines))}. {sentence}"
    numbers = story.numbers.values()
    key = operands_key(*numbers) if len(story.numbers) == 2 else f"story:{situation}:{','.join(map(str, numbers))}"
    return Made("word problem", question, answer, key, steps + 2)


def _size(rng: random.Random) -> int:
    return pick(rng, (20, 20, 100, 100, 1_000))


def _gain(rng: random.Random) -> Story:
    a, b = between(rng, 2, _size(rng)), between(rng, 2, _size(rng))
    return Story({"a": a, "b": b}, [Sum(a, "+", b, a + b)], Fraction(b) + a)


def _loss(rng: random.Random) -> Story:
    b, rest = between(rng, 2, _size(rng)), between(rng, 2, _size(rng))
    a = b + rest
    return Story({"a": a, "b": b}, [Sum(a, "-", b, a - b)], Fraction(rest))


def _groups(rng: random.Random) -> Story:
    a, b = between(rng, 2, 30), between(rng, 2, pick(rng, (12, 12, 60)))
    return Story({"a": a, "b": b}, [Sum(a, "×", b, a * b)], Fraction(a) / Fraction(1, b))


def _sharing(rng: random.Random) -> Story:
    b, each = between(rng, 2, 15), between(rng, 2, pick(rng, (12, 40)))
    return Story({"a": b * each, "b": b}, [Sum(b * each, "÷", b, (b * each) // b)], Fraction(b * each, b))


def _containers(rng: random.Random) -> Story:
    b, whole, rest = between(rng, 4, 60), between(rng, 2, 20), 0
    rest = between(rng, 1, b - 1)
    a = b * whole + rest
    lines = [Sum(b, "×", whole, b * whole), Sum(a, "-", b * whole, rest), Sum(whole, "+", 1, whole + 1)]
    return Story({"a": a, "b": b}, lines, Fraction(-(-a // b)))


def _change(rng: random.Random) -> Story:
    a, b = between(rng, 2, 12), between(rng, 2, 15)
    note = next(note for note in (10, 20, 50, 100, 200) if note > a * b)
    lines = [Sum(a, "×", b, a * b), Sum(note, "-", a * b, note - a * b)]
    return Story({"a": a, "b": b, "t": note}, lines, note - Fraction(a) * b)


def _basket(rng: random.Random) -> Story:
    a, b, c, d = (between(rng, 2, top) for top in (9, 25, 9, 25))
    lines = [Sum(a, "×", b, a * b), Sum(c, "×", d, c * d), Sum(a * b, "+", c * d, a * b + c * d)]
    return Story({"a": a, "b": b, "c": c, "d": d}, lines, Fraction(a) * b + Fraction(c) * d)


def _distance(rng: random.Random) -> Story:
    a, b = between(rng, 4, 140), between(rng, 2, 9)
    return Story({"a": a, "b": b}, [Sum(a, "×", b, a * b)], Fraction(a) / Fraction(1, b))


def _speed(rng: random.Random) -> Story:
    pace, b = between(rng, 4, 120), between(rng, 2, 9)
    return Story({"a": pace * b, "b": b}, [Sum(pace * b, "÷", b, (pace * b) // b)], Fraction(pace))


def _area(rng: random.Random) -> Story:
    b = between(rng, 2, 40)
    a = b + between(rng, 1, 40)
    return Story({"a": a, "b": b}, [Sum(a, "×", b, a * b)], Fraction(a) / Fraction(1, b))


def _fence(rng: random.Random) -> Story:
    b = between(rng, 2, 80)
    a = b + between(rng, 1, 80)
    lines = [Sum(a, "+", b, a + b), Sum(2, "×", a + b, 2 * (a + b))]
    return Story({"a": a, "b": b}, lines, Fraction(a) * 2 + Fraction(b) * 2)


def _average(rng: random.Random) -> Story:
    a, b, c = (between(rng, 1, 60) for _ in range(3))
    c += -(a + b + c) % 3
    lines = [Sum(a, "+", b, a + b), Sum(a + b, "+", c, a + b + c), Sum(a + b + c, "÷", 3, (a + b + c) // 3)]
    return Story({"a": a, "b": b, "c": c}, lines, (Fraction(a) + b + c) / 3)


def _discount(rng: random.Random) -> Story:
    b = pick(rng, (5, 10, 15, 20, 25, 30, 40, 50, 75))
    a = between(rng, 1, 30) * 20
    cut = a * b // 100
    lines = [Sum(a, "×", b, a * b), Sum(a * b, "÷", 100, cut), Sum(a, "-", cut, a - cut)]
    return Story({"a": a, "b": b}, lines, Fraction(a) * (1 - Fraction(b, 100)))


def _warmer(rng: random.Random) -> Story:
    a, b = between(rng, -20, 20), between(rng, 2, 25)
    return Story({"a": a, "b": b}, [Sum(a, "+", b, a + b)], Fraction(b) + a)


def _colder(rng: random.Random) -> Story:
    a, b = between(rng, -9, 25), between(rng, 2, 30)
    return Story({"a": a, "b": b}, [Sum(a, "-", b, a - b)], Fraction(-b) + a)


def _fraction_of(rng: random.Random) -> Story:
    d = pick(rng, (2, 3, 4, 5, 6, 8, 10))
    c = next(n for n in range(between(rng, 1, d - 1), 0, -1) if Fraction(n, d).denominator == d)
    a = d * between(rng, 2, 40)
    lines = [Sum(a, "÷", d, a // d), Sum(a // d, "×", c, a // d * c)]
    return Story({"a": a, "c": c, "d": d}, lines, Fraction(c, d) * a)


def _packs(rng: random.Random) -> Story:
    a, b, c = between(rng, 2, 40), between(rng, 2, 9), between(rng, 2, 12)
    d = between(rng, 1, a + b * c - 1)
    lines = [Sum(b, "×", c, b * c), Sum(a, "+", b * c, a + b * c), Sum(a + b * c, "-", d, a + b * c - d)]
    return Story({"a": a, "b": b, "c": c, "d": d}, lines, Fraction(b) * c - d + a)


def _machines(rng: random.Random) -> Story:
    a, b, c = between(rng, 2, 12), between(rng, 2, 30), between(rng, 2, 60)
    lines = [Sum(a, "×", b, a * b), Sum(a * b, "×", c, a * b * c)]
    return Story({"a": a, "b": b, "c": c}, lines, Fraction(c) * b * a)


def _ages(rng: random.Random) -> Story:
    a, c = between(rng, 20, 70), between(rng, 2, 25)
    b = between(rng, 2, 18)
    lines = [Sum(a, "-", b, a - b), Sum(a - b, "+", c, a - b + c)]
    return Story({"a": a, "b": b, "c": c}, lines, Fraction(a + c) - b)


def _recipe(rng: random.Random) -> Story:
    a, each, c = between(rng, 2, 8), between(rng, 2, 30) * 5, between(rng, 2, 20)
    c += c == a
    lines = [Sum(a * each, "÷", a, (a * each) // a), Sum(each, "×", c, each * c)]
    return Story({"a": a, "b": a * each, "c": c}, lines, Fraction(a * each, a) * c)


_STORIES: tuple[tuple[str, Callable[[random.Random], Story]], ...] = (
    ("gain", _gain), ("loss", _loss), ("more than", _loss), ("groups", _groups), ("sharing", _sharing),
    ("containers", _containers), ("change", _change), ("basket", _basket), ("distance", _distance), ("speed", _speed),
    ("area", _area), ("fence", _fence), ("average", _average), ("discount", _discount), ("warmer", _warmer),
    ("colder", _colder), ("fraction of", _fraction_of), ("packs", _packs), ("machines", _machines), ("ages", _ages),
    ("recipe", _recipe),
)  # fmt: skip
