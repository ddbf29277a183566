"""How questions about equations are worded. As in arithmetic, the words decide the form of the answer."""

from __future__ import annotations

import random
from typing import Literal

from toolkit.datasets.generate.drawing import chance, pick

Style = Literal["solution", "working", "check"]

ONE_UNKNOWN: tuple[tuple[str, Style], ...] = (
    ("Solve {e} for {x}.", "working"),
    ("Solve the equation {e}.", "working"),
    ("Solve for {x}: {e}", "working"),
    ("How do I solve {e}?", "working"),
    ("Show how to find {x} from {e}.", "working"),
    ("Work out {x} if {e}.", "working"),
    ("Find {x}, given that {e}.", "working"),
    ("Given {e}, determine {x} and check the result.", "check"),
    ("Solve {e} and put the result back to check it.", "check"),
    ("What is {x} when {e}?", "solution"),
    ("For which {x} does {e} hold?", "solution"),
    ("Which values of {x} satisfy {e}?", "solution"),
    ("{e}. What is {x}?", "solution"),
    ("Find {x} so that {e}.", "solution"),
    ("I know that {e}. Tell me {x}.", "solution"),
)

SYSTEM: tuple[tuple[str, Style], ...] = (
    ("Solve the system: {e}.", "working"),
    ("Solve {e} for {x}.", "working"),
    ("Find {x} from these equations: {e}.", "working"),
    ("Work out {x} if {e}.", "working"),
    ("How do I find {x} when {e}?", "working"),
    ("Given {e}, determine {x} and check the result.", "check"),
    ("What are {x} when {e}?", "solution"),
    ("Which {x} satisfy {e}?", "solution"),
    ("These hold together: {e}. What are {x}?", "solution"),
    ("I know that {e}. Tell me {x}.", "solution"),
)

ORDERS: tuple[tuple[str, Style], ...] = (
    ("Solve the equation.", "working"),
    ("Find the unknown.", "working"),
    ("Solve this, step by step.", "working"),
    ("What is the unknown? Give only the solution.", "solution"),
    ("State the solution without the steps.", "solution"),
    ("Solve it and check the result.", "check"),
)

SYSTEM_ORDERS: tuple[tuple[str, Style], ...] = (
    ("Solve this system of equations.", "working"),
    ("Find the unknowns, step by step.", "working"),
    ("Which numbers solve all of these equations? Give only the solution.", "solution"),
    ("Solve the system and check the result.", "check"),
)

CLOSINGS: tuple[tuple[str, Style], ...] = (
    ("Give only the solution.", "solution"),
    ("No steps, please.", "solution"),
    ("I need just the result.", "solution"),
    ("Show the steps.", "working"),
    ("Step by step, please.", "working"),
    ("Explain each line.", "working"),
    ("Check your result.", "check"),
    ("Then prove that it fits.", "check"),
)

LEADS = (
    "Algebra exercise: ", "For my homework: ", "A colleague asks: ", "Quick question: ", "From the test: ",
    "I am stuck on this. ", "Next one. ", "Let us practise equations. ", "On the blackboard it says: ", "Exercise: ",
)  # fmt: skip


def worded(rng: random.Random, equations: str, unknowns: str, is_system: bool) -> tuple[str, str, Style]:
    """Return (instruction, input, style) for equations already joined in words."""
    if chance(rng, 0.15):
        order, style = pick(rng, SYSTEM_ORDERS if is_system else ORDERS)
        return order, equations.replace(" and ", "\n").replace(", ", "\n"), style
    shell, style = pick(rng, SYSTEM if is_system else ONE_UNKNOWN)
    question = shell.format(e=equations, x=unknowns)
    if chance(rng, 0.3):
        question = pick(rng, LEADS) + question
    question, style = closing(rng, question, style)
    return question, "", style


def closing(rng: random.Random, question: str, style: Style) -> tuple[str, Style]:
    """Put a closing request after some of the questions that ask for no check; it then decides the style."""
    if style == "check" or not chance(rng, 0.3):
        return question, style
    text, asked = pick(rng, CLOSINGS)
    if asked == "solution" and ("How do" in question or "Show how" in question):
        return question, style
    style = asked
    return f"{question} {text}" if question[-1] in ".?!" else f"{question}. {text}", style
