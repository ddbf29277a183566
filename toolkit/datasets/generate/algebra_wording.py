"""Put a solved problem into words: the question, and the answer in the form that it asks for."""

from __future__ import annotations

import random

from toolkit.datasets.generate.algebra_frames import worded
from toolkit.datasets.generate.algebra_problems import Solved
from toolkit.datasets.generate.number_text import capitalised
from toolkit.datasets.generate.quantities import Made


def answered(rng: random.Random, solved: Solved) -> Made:
    """Return the question and its answer."""
    names = solved.unknowns
    equations = [str(equation) for equation in solved.equations]
    question, extra, style = worded(rng, _listed(equations), _listed(list(names)), len(names) > 1)
    if solved.request:
        question = f"{question} {solved.request}" if question[-1] in ".?!" else f"{question}. {solved.request}"
    is_equation = solved.solution.startswith(names[0] + " = ")
    result = solved.solution if is_equation else capitalised(solved.solution)
    answer = result if is_equation else f"{result}."
    if style != "solution" and solved.lines:
        answer = f"{'; '.join([*solved.lines, solved.solution])}."
        answer = capitalised(answer) if answer.startswith(("the ", "a product ")) else answer
    elif style != "solution" and is_equation:
        answer = f"{result}."
    if style == "check" and solved.check:
        answer = f"{answer.rstrip('.')}. Check: {'; '.join(solved.check)}."
    return Made(solved.kind, question, answer, solved.key, solved.effort, extra)


def _listed(texts: list[str]) -> str:
    return f"{', '.join(texts[:-1])} and {texts[-1]}" if len(texts) > 1 else texts[0]
