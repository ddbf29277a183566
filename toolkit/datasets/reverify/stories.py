"""Read the arithmetic stories: cues in their words say what is done with their numbers.

Each reading is a pattern over the whole question and the formula of what it asks for. A question that no pattern fits
is not guessed at.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction

_N = r"(-?\d+(?:/\d+)?)"

Formula = Callable[..., Fraction]

_CUES: tuple[tuple[str, Formula], ...] = (
    # two amounts put together
    (rf"has {_N} \w+\. \w+ brings {_N} more\. How many \w+ does", lambda a, b: a + b),
    (rf"There are {_N} .* puts in {_N} more\. How many", lambda a, b: a + b),
    (rf"counts {_N} .* and {_N} in the afternoon\. How many \w+ is that altogether", lambda a, b: a + b),
    (rf"shelf .* holds {_N} \w+, the next one {_N}\. How many \w+ are on the two", lambda a, b: a + b),
    (rf"On Monday .* sold {_N} \w+, on Tuesday {_N}\. How many .* both days", lambda a, b: a + b),
    # one amount taken from another
    (rf"has {_N} \w+ and gives {_N} of them to \w+\. How many \w+ are left", lambda a, b: a - b),
    (rf"starts the day with {_N} \w+ and sells {_N}\. How many \w+ remain", lambda a, b: a - b),
    (rf"Of the {_N} .*, {_N} are broken\. How many \w+ are whole", lambda a, b: a - b),
    (rf"wants to collect {_N} \w+ and already has {_N}\. How many \w+ are missing", lambda a, b: a - b),
    (rf"has {_N} \w+, \w+ has {_N}\. How many more", lambda a, b: a - b),
    (rf"collected {_N} \w+, which is {_N} more than \w+ did\. How many", lambda a, b: a - b),
    (rf"There were {_N} .* last year and {_N} fewer this year\. How many", lambda a, b: a - b),
    # so many times the same
    (rf"orders {_N} boxes with {_N} \w+ each\. How many \w+ is that", lambda a, b: a * b),
    (rf"fills {_N} bags and puts {_N} \w+ into every bag\. How many", lambda a, b: a * b),
    (rf"Each of {_N} children .* gets {_N} \w+\. How many", lambda a, b: a * b),
    (rf"stand {_N} rows of {_N} \w+\. How many", lambda a, b: a * b),
    # equal shares
    (rf"shares {_N} \w+ equally among {_N} friends\. How many", lambda a, b: a / b),
    (rf"{_N} \w+ are spread evenly over {_N} shelves\. How many", lambda a, b: a / b),
    (rf"packs {_N} \w+ into {_N} boxes, the same number in each\. How many", lambda a, b: a / b),
    # how many containers: the last one may not be full
    (rf"bus has {_N} seats\. How many buses .* for {_N} people", lambda b, a: Fraction(math.ceil(a / b))),
    (rf"carry {_N} \w+ in crates that hold {_N} each\. How many crates", lambda a, b: Fraction(math.ceil(a / b))),
    (rf"takes {_N} photos\. How many pages are needed for {_N} photos", lambda b, a: Fraction(math.ceil(a / b))),
    # money
    (rf"buys {_N} \w+ at {_N} euros each and pays with {_N} euros\. How much change", lambda a, b, t: t - a * b),
    (rf"cost {_N} euros each\. \w+ takes {_N} and hands over {_N} euros\. How many", lambda b, a, t: t - a * b),
    (rf"buys {_N} \w+ for {_N} euros each and {_N} \w+ for {_N} euros each\.", lambda a, b, c, d: a * b + c * d),
    (rf"sold {_N} \w+ at {_N} euros and {_N} \w+ at {_N} euros\. How many", lambda a, b, c, d: a * b + c * d),
    (rf"costs {_N} euros and is reduced by {_N} percent\.", lambda a, b: a * (100 - b) / 100),
    (rf"takes {_N} percent off a bill of {_N} euros\.", lambda b, a: a * (100 - b) / 100),
    (rf"stands at {_N} euros when a bill of {_N} euros is paid", lambda a, b: a - b),
    # ways and speeds
    (rf"for {_N} hours at {_N} kilometres an hour\. How far", lambda b, a: a * b),
    (rf"in {_N} hours and covers {_N} kilometres every hour\. How long", lambda b, a: a * b),
    (rf"covers {_N} kilometres in {_N} hours at a steady pace\.", lambda a, b: a / b),
    (rf"needs {_N} hours for {_N} kilometres\. How fast", lambda b, a: a / b),
    # rectangles
    (rf"is {_N} metres long and {_N} metres wide\. What is its area", lambda a, b: a * b),
    (rf"a field of {_N} by {_N} metres\. How many square metres", lambda a, b: a * b),
    (rf"is {_N} metres long and {_N} metres wide\. How long is the fence", lambda a, b: 2 * (a + b)),
    (rf"sides of {_N} and {_N} centimetres\. What is its perimeter", lambda a, b: 2 * (a + b)),
    # averages, parts of a whole, temperatures
    (rf"{_N}, {_N} and {_N} (?:points|visitors) .* average", lambda a, b, c: (a + b + c) / 3),
    (rf"{_N} of the {_N} \w+ .* are red\. How many \w+ are red", lambda part, a: part * a),
    (rf"has {_N} \w+ and sells {_N} of them\. How many \w+ are sold", lambda a, part: part * a),
    (rf"it is {_N} degrees\. By noon it gets {_N} degrees warmer", lambda a, b: a + b),
    (rf"is at {_N} degrees and warms up by {_N} degrees", lambda a, b: a + b),
    (rf"is {_N} degrees when .* gets {_N} degrees colder", lambda a, b: a - b),
    # several steps
    (rf"has {_N} \w+, buys {_N} packs of {_N} and gives away {_N}\.", lambda a, b, c, d: a + b * c - d),
    (rf"keeps {_N} \w+\. {_N} boxes with {_N} each arrive, and {_N} are used", lambda a, b, c, d: a + b * c - d),
    (rf"{_N} machines .* fill {_N} bottles a minute each\. .* in {_N} minutes", lambda a, b, c: a * b * c),
    (rf"{_N} people fold {_N} letters an hour each\. .* in {_N} hours", lambda a, b, c: a * b * c),
    (rf"is {_N} years old, \w+ is {_N} years younger\. .* in {_N} years", lambda a, b, c: a - b + c),
    (rf"is {_N}\. \w+ was born {_N} years later\. .* {_N} years from now", lambda a, b, c: a - b + c),
    (rf"for {_N} people needs {_N} grams of flour\. .* for {_N} people", lambda a, b, c: b / a * c),
    (rf"{_N} \w+ weigh {_N} grams, all alike\. How many grams do {_N}", lambda a, b, c: b / a * c),
)
_PATTERNS = tuple((re.compile(pattern), formula) for pattern, formula in _CUES)


def story_values(question: str) -> list[Fraction]:
    """Return what the story asks for, once for each reading that fits; more than one value means that it is unclear."""
    found = []
    for pattern, formula in _PATTERNS:
        match = pattern.search(question)
        if match:
            found.append(formula(*(Fraction(group) for group in match.groups())))
    return found
