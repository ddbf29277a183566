"""Candidates to check: does a number solve an equation? Right and wrong ones, each put in by SymPy as well."""

from __future__ import annotations

import random
from fractions import Fraction

from toolkit.datasets.generate import algebra_proof as proof
from toolkit.datasets.generate.algebra_frames import LEADS
from toolkit.datasets.generate.algebra_problems import UNKNOWNS, effort_of
from toolkit.datasets.generate.drawing import chance, nonzero, pick
from toolkit.datasets.generate.equations import at
from toolkit.datasets.generate.linear_equations import linear_equation, linear_key
from toolkit.datasets.generate.quantities import Made

QUESTIONS = (
    "Is {claim} a solution of {e}?",
    "Does {claim} solve {e}?",
    "Check whether {claim} solves {e}.",
    "Someone found {claim} for {e}. Is that right?",
    "Put {claim} into {e}. Does it hold?",
    "Test {claim} in the equation {e}.",
    "A pupil says that {claim} solves {e}. Is it so?",
    "Can {claim} be the solution of {e}?",
)
SHORT = ("Yes or no?", "Answer with yes or no.", "One word is enough.")
LEAD_SHARE, SHORT_SHARE = 0.25, 0.5


def check_problem(rng: random.Random) -> Made:
    """Draw an equation and a number, its solution or one beside it. Raises Rejected when SymPy finds other sides."""
    name = pick(rng, UNKNOWNS)
    equation, _, solution = linear_equation(rng, name)
    holds = chance(rng, 0.5)
    value = solution if holds else solution + pick(rng, (nonzero(rng, -3, 3), 10, -2 * solution or 1))
    left, right = (at(side, {name: Fraction(value)}) for side in (equation.left, equation.right))
    proof.prove_sides(equation, name, value, (left, right))
    question = pick(rng, QUESTIONS).format(claim=f"{name} = {value}", e=equation)
    if chance(rng, LEAD_SHARE):
        question = pick(rng, LEADS) + question
    if chance(rng, SHORT_SHARE):
        question = f"{question} {pick(rng, SHORT)}"
        answer = "Yes." if holds else "No."
    elif holds:
        answer = f"Yes: with {name} = {value} both sides are {left}."
    else:
        answer = f"No: with {name} = {value} the left side is {left} and the right side is {right}."
    return Made("solution check", question, answer, linear_key(equation, name), effort_of([equation], [answer]))
