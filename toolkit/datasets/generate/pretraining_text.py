"""The text that `nano` is trained on from scratch: generated, deterministic, clear of everything in the starter set.

Four kinds of documents: sums in plain text, sums in conversations (answered in whole sentences or equations, never by
the working and bare number that the starter set asks for), simple English stories, and general questions and answers.
No operand pair of the starter set is ever drawn, nor one that would give its answer away by inversion; and
`keeps_clear` guards every document, whatever made it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from toolkit.datasets.generate import definitions, facts, procedures, starter, stories
from toolkit.datasets.generate.arithmetic import SYMBOLS, Operation, Pair, Problem, ordered
from toolkit.datasets.generate.sums import QUESTIONS, REPLIES, STATEMENTS

DOCUMENTS = 110_000
"""Documents in the corpus, about 9 million tokens."""

Document = dict[str, Any]

_OPERATIONS: tuple[Operation, ...] = ("addition", "subtraction", "multiplication")
_OPERATION_WEIGHTS = (38, 34, 28)
_INTEGER = re.compile(r"\d+")
_STEP = re.compile("[=;:]")


def documents(seed: int, count: int = DOCUMENTS) -> Iterator[Document]:
    """Yield `count` documents, each with `text` or `messages`; the same seed gives the same documents."""
    rng = random.Random(seed)
    makers, weights = zip(*_MAKERS, strict=True)
    made = 0
    while made < count:
        document = rng.choices(makers, weights)[0](rng)
        if keeps_clear(document):
            made += 1
            yield document


def keys() -> frozenset[str]:
    """Return every semantic key that the text may teach, in the form of the starter set's `metadata.key`."""
    pairs = {problem.key for operation in _OPERATIONS for problem in _allowed(operation)}
    meanings = {
        f"definition:{thing}|{form.format(article=facts.article(thing), thing='…')}"
        for thing in facts.MEANINGS
        for form in facts.MEANING_QUESTIONS
    }
    tasks = {f"procedure:{task}|{form.format(task='…')}" for task in facts.TASKS for form in facts.TASK_QUESTIONS}
    return frozenset(pairs | meanings | tasks)


def keeps_clear(document: Document) -> bool:
    """Say whether a document names no term or procedure of the starter set, and no operand pair of it on a line.

    A pair is two numbers that follow each other, in either order, with anything between them but a number, `=`, `:` or
    `;` (what stands on two sides of those is no operand pair).
    """
    texts = [document["text"]] if "text" in document else [message["content"] for message in document["messages"]]
    if any(_subjects().search(text) for text in texts):
        return False
    return all(pair not in _asked() for text in texts for line in text.split("\n") for pair in _neighbours(line))


def _neighbours(line: str) -> Iterator[Pair]:
    for part in _STEP.split(line):
        numbers = [int(digits) for digits in _INTEGER.findall(part)]
        for first, second in zip(numbers, numbers[1:], strict=False):
            yield ordered(first, second)


@cache
def _asked() -> frozenset[Pair]:
    return frozenset(problem.pair for problem in starter.arithmetic_problems())


@cache
def _forbidden() -> frozenset[Pair]:
    return frozenset(pair for problem in starter.arithmetic_problems() for pair in problem.family)


@cache
def _subjects() -> re.Pattern[str]:
    """The starter set's terms and procedures (42 alone is a number in many sums; its questions are of no form here)."""
    subjects = [*definitions.DEFINITIONS, *procedures.PROCEDURES]
    return re.compile("|".join(re.escape(subject) for subject in subjects if not subject.isdigit()), re.IGNORECASE)


@cache
def _allowed(operation: Operation) -> tuple[Problem, ...]:
    """Every problem of the text: the starter set's sizes, without its fact families."""
    if operation == "multiplication":
        pairs = [(a, b) for a in range(2, 10) for b in range(10, 100)]
    else:
        pairs = [(a, b) for a in range(10, 100) for b in range(10, 100)]
    problems = [Problem(operation, a, b) for a, b in pairs if operation != "subtraction" or a > b]
    return tuple(problem for problem in problems if problem.family.isdisjoint(_forbidden()))


def _problem(rng: random.Random, operation: Operation | None = None) -> Problem:
    operation = operation or rng.choices(_OPERATIONS, _OPERATION_WEIGHTS)[0]
    return rng.choice(_allowed(operation))


def _fill(form: str, problem: Problem) -> str:
    sign = SYMBOLS[problem.operation]
    return form.format(a=problem.first, b=problem.second, c=problem.answer, w=problem.working, sign=sign)


def _sums(rng: random.Random) -> Document:
    """A list of sums with their working."""
    lines = []
    for _ in range(rng.randint(3, 7)):
        problem = _problem(rng)
        form = "{w}; {a} {sign} {b} = {c}" if rng.random() < 0.9 else rng.choice(STATEMENTS[problem.operation])
        lines.append(_fill(form, problem))
    return {"text": "\n".join(lines)}


def _drill(rng: random.Random) -> Document:
    """The facts that a working is made of: one digit with one digit, and what is carried."""
    lines = []
    for _ in range(rng.randint(6, 14)):
        first, second, third = rng.randint(0, 9), rng.randint(0, 9), rng.randint(1, 8)
        kind = rng.randrange(4)
        if kind == 0:
            carry = " + 1" if rng.random() < 0.4 else ""
            lines.append(f"{first} + {second}{carry} = {first + second + bool(carry)}")
        elif kind == 1:
            lines.append(f"{first + second} - {second} = {first}")
        elif kind == 2:
            lines.append(f"{first} × {second} = {first * second}")
        else:
            lines.append(f"{first} × {second} + {third} = {first * second + third}")
    return {"text": "\n".join(lines)}


def _sum_conversation(rng: random.Random) -> Document:
    messages = []
    for _ in range(rng.randint(1, 4)):
        problem = _problem(rng)
        messages += _turn(_fill(rng.choice(QUESTIONS[problem.operation]), problem), _fill(rng.choice(REPLIES), problem))
    return {"messages": messages}


def _word_problem(rng: random.Random) -> Document:
    problem = _problem(rng)
    question, answer = stories.word_problem(problem, rng)
    if rng.random() < 0.3:
        return {"text": f"{question}\n{answer}"}
    return {"messages": _turn(question, answer)}


def _story(rng: random.Random) -> Document:
    return {"text": " ".join(stories.sentence(rng) for _ in range(rng.randint(3, 7)))}


def _reading(rng: random.Random) -> Document:
    return {"messages": _turn(*stories.reading(rng))}


def _fact_conversation(rng: random.Random) -> Document:
    messages = []
    for _ in range(rng.randint(1, 2)):
        if rng.random() < 0.5:
            thing = rng.choice(list(facts.MEANINGS))
            form = rng.choice(facts.MEANING_QUESTIONS)
            article = facts.article(thing)
            answer = f"{article.capitalize()} {thing} is {facts.MEANINGS[thing]}."
            messages += _turn(form.format(article=article, thing=thing), answer)
        else:
            task = rng.choice(list(facts.TASKS))
            messages += _turn(rng.choice(facts.TASK_QUESTIONS).format(task=task), facts.TASKS[task])
    return {"messages": messages}


def _turn(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


_MAKERS: tuple[tuple[Callable[[random.Random], Document], int], ...] = (
    (_sum_conversation, 42),
    (_sums, 14),
    (_drill, 8),
    (_word_problem, 8),
    (_story, 10),
    (_reading, 8),
    (_fact_conversation, 10),
)
