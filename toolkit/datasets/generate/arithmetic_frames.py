"""How questions about two numbers are worded, and which form of answer each wording asks for.

A question is a lead-in, a shell around the operation's wording, and a closing request. The form of the answer follows
from the words of the question alone, so a model can learn it, and a test that compares whole answers can mark it.
"""

from __future__ import annotations

import random
from typing import Literal

from toolkit.datasets.generate.drawing import chance, pick
from toolkit.datasets.generate.workings import Operation

Style = Literal["number", "equation", "sentence", "working", "places", "columns"]

# Wordings that name a value; the answer repeats them: "The sum of 3 and 5 is 8."
NAMED: dict[Operation, tuple[str, ...]] = {
    "+": (
        "{a} + {b}", "{a} plus {b}", "the sum of {a} and {b}", "the total of {a} and {b}", "{a} increased by {b}",
        "{b} more than {a}", "{b} added to {a}",
    ),
    "-": (
        "{a} - {b}", "{a} minus {b}", "{a} decreased by {b}", "{a} less {b}", "{b} less than {a}",
        "{b} subtracted from {a}", "the difference when {b} is taken from {a}",
    ),
    "×": (
        "{a} × {b}", "{a} * {b}", "{a} times {b}", "the product of {a} and {b}", "{a} multiplied by {b}",
    ),
    "÷": (
        "{a} ÷ {b}", "{a} / {b}", "{a} divided by {b}", "the quotient of {a} and {b}", "{a} split into {b} equal parts",
    ),
}  # fmt: skip

# Wordings that tell what to do, and how the answer repeats them.
ORDERS: dict[Operation, tuple[tuple[str, str], ...]] = {
    "+": (
        ("add {b} to {a}", "adding {b} to {a}"),
        ("add {a} and {b}", "adding {a} and {b}"),
        ("add up {a} and {b}", "adding up {a} and {b}"),
        ("increase {a} by {b}", "increasing {a} by {b}"),
    ),
    "-": (
        ("subtract {b} from {a}", "subtracting {b} from {a}"),
        ("take {b} away from {a}", "taking {b} away from {a}"),
        ("decrease {a} by {b}", "decreasing {a} by {b}"),
        ("reduce {a} by {b}", "reducing {a} by {b}"),
    ),
    "×": (
        ("multiply {a} by {b}", "multiplying {a} by {b}"),
        ("multiply {a} and {b}", "multiplying {a} and {b}"),
        ("take {a} times {b}", "taking {a} times {b}"),
    ),
    "÷": (
        ("divide {a} by {b}", "dividing {a} by {b}"),
        ("split {a} into {b} equal parts", "splitting {a} into {b} equal parts"),
        ("share {a} equally among {b}", "sharing {a} equally among {b}"),
    ),
}  # fmt: skip

SHELLS: tuple[tuple[str, Style], ...] = (
    ("What is {it}?", "sentence"),
    ("How much is {it}?", "sentence"),
    ("Can you tell me {it}?", "sentence"),
    ("I need to know {it}.", "sentence"),
    ("Please tell me {it}.", "sentence"),
    ("Calculate {it}.", "equation"),
    ("Compute {it}.", "equation"),
    ("Evaluate {it}.", "equation"),
    ("Please calculate {it}.", "equation"),
    ("Find {it}.", "equation"),
    ("Could you compute {it} for me?", "equation"),
    ("Work out {it}.", "working"),
    ("How do you work out {it}?", "working"),
    ("Help me work out {it}.", "working"),
    ("Show me how to calculate {it}.", "working"),
    ("Give {it} as a number.", "number"),
    ("The value of {it}, please.", "number"),
)

ORDER_SHELLS: tuple[tuple[str, Style], ...] = (
    ("{do}.", "equation"),
    ("Please {do}.", "equation"),
    ("Can you {do}?", "sentence"),
    ("If you {do}, what do you get?", "sentence"),
    ("What do I get when I {do}?", "sentence"),
    ("What is the result if we {do}?", "sentence"),
    ("Show me how to {do}.", "working"),
    ("How do I {do}?", "working"),
    ("I have to {do}. How does that go?", "working"),
)

CLOSINGS: tuple[tuple[str, Style], ...] = (
    ("Give only the number.", "number"),
    ("Just the number, please.", "number"),
    ("Answer with the number alone.", "number"),
    ("No working, only the result.", "number"),
    ("Show your working.", "working"),
    ("Show every step.", "working"),
    ("Step by step, please.", "working"),
    ("Explain how you get there.", "working"),
    ("Write it as an equation.", "equation"),
    ("Answer with an equation.", "equation"),
    ("Answer in a sentence.", "sentence"),
    ("Reply in one sentence.", "sentence"),
)

PLACES = ("Go place by place.", "Split the numbers by place value.", "Work by hundreds, tens and units.")

COLUMNS = (
    "Write it in columns.",
    "Use the column method.",
    "Column by column, please.",
    "Go digit by digit, from the right.",
    "Begin with the units.",
    "Do it on paper, the units first.",
    "Show each column.",
)

LEADS: tuple[str, ...] = (
    "Quick question: ", "For my homework: ", "Mental arithmetic: ", "I am checking a bill. ", "One more: ",
    "Here is a sum for you. ", "I lost my calculator. ", "A question from the quiz: ", "My daughter asks: ",
    "Let us practise. ", "Next exercise. ", "I keep getting this wrong. ", "For the stock list: ", "Exercise: ",
    "I want to double-check something. ", "On the whiteboard it says: ",
)  # fmt: skip

LEAD_SHARE = 0.3
CLOSING_SHARE = 0.35


def lead_in(rng: random.Random, question: str) -> str:
    """Put a lead-in before some of the questions."""
    return pick(rng, LEADS) + question if chance(rng, LEAD_SHARE) else question


def closing(rng: random.Random, question: str, style: Style, extra: tuple[str, ...] = ()) -> tuple[str, Style]:
    """Put a closing request after some of the questions; it then decides the style. `extra` asks for `places`."""
    if not chance(rng, CLOSING_SHARE):
        return question, style
    if extra and chance(rng, 0.2):
        return f"{question} {pick(rng, extra)}", "places"
    text, asked = pick(rng, CLOSINGS)
    if asked != "working" and ("How do" in question or "Show me" in question):
        return question, style
    return f"{question} {text}", asked
