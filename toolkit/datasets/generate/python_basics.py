"""Python basics: what a program prints, functions to write, faults to find. Every answer has been executed.

`metadata.verified` is set by execution alone (`python_runner`): a program printed what the answer says, a function gave
what an independent function gives in five calls, a faulty program failed as described and the repaired one did not.
What does not is rejected.

Difficulty: c lines of code, each counted once and once more for every level that it is indented, plus 2 for a function
to write and 3 for a fault to find, mapped to c / (c + 12).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from toolkit.datasets.generate.drawing import chance, pick
from toolkit.datasets.generate.generator import (
    Generator,
    OnRejected,
    Record,
    Rejected,
    ignore_rejected,
    keep_different,
    sub_random,
)  # fmt: skip
from toolkit.datasets.generate.number_text import capitalised
from toolkit.datasets.generate.python_faults import any_fault
from toolkit.datasets.generate.python_functions import TASKS
from toolkit.datasets.generate.python_programs import any_program
from toolkit.datasets.generate.python_runner import Outcome, run_programs
from toolkit.datasets.generate.quantities import Made, verified_record

CATEGORY = "python"
SOURCE = "toolkit.datasets.generate.python_basics"
BATCH = 64
"""Candidates whose programs one interpreter runs."""

_CALLS = 5
_PRINTED_LIMIT = 200


class Plan(NamedTuple):
    """Programs to run, and what makes an example of their outcomes (or raises `Rejected`)."""

    programs: list[str]
    finish: Callable[[Sequence[Outcome]], Made]


def effort_of(code: str) -> int:
    """Count the lines of code, a line once more for every level of its indentation."""
    return sum(1 + (len(line) - len(line.lstrip())) // 4 for line in code.split("\n") if line.strip())


# --- what does this print -------------------------------------------------------------------------------------------

_PRINT_QUESTIONS: tuple[tuple[str, str], ...] = (
    ("What does this program print?", "bare"),
    ("What is the output of this code?", "bare"),
    ("What appears on the screen when this runs?", "bare"),
    ("Give the exact output of this Python program.", "bare"),
    ("Run this in your head. What is printed?", "bare"),
    ("Predict the output.", "bare"),
    ("What does Python print here? Answer in a sentence.", "sentence"),
    ("Tell me what this code prints.", "sentence"),
    ("A student asks what this program prints. What do you answer?", "sentence"),
    ("I ran this script. Which output did I get?", "sentence"),
    ("Show the output of this program as a code block.", "block"),
    ("Write down what this prints, in a code block.", "block"),
)


def print_plan(rng: random.Random) -> Plan:
    """Draw a program and a question about its output."""
    program = any_program(rng)
    question, style = pick(rng, _PRINT_QUESTIONS)
    in_input = chance(rng, 0.4)

    def finish(outcomes: Sequence[Outcome]) -> Made:
        printed = outcomes[0].printed.rstrip("\n")
        if outcomes[0].error or not printed or printed != printed.strip() or len(printed) > _PRINTED_LIMIT:
            raise Rejected(f"{program!r} ended with {outcomes[0].error or repr(printed)}")
        shown = f"`{printed}`" if "\n" not in printed else f"these lines:\n```\n{printed}\n```"
        answer = {"bare": printed, "block": f"```\n{printed}\n```", "sentence": f"It prints {shown}"}[style]
        answer += "." if style == "sentence" and "\n" not in printed else ""
        asked, extra = _asked(question, program, in_input)
        return Made("output", asked, answer, f"python:{program}", effort_of(program), extra)

    return Plan([program], finish)


def _asked(question: str, program: str, in_input: bool) -> tuple[str, str]:
    """Return instruction and input: the program stands in either."""
    return (question, _block(program)) if in_input else (f"{question}\n\n{_block(program)}", "")


def _block(code: str) -> str:
    return f"```python\n{code}\n```"


# --- write a function -----------------------------------------------------------------------------------------------

_WRITE_QUESTIONS: tuple[str, ...] = (
    "Write a function `{name}({parameters})` that {says}.",
    "Write a Python function called `{name}` with the parameters `{parameters}`. It {says}.",
    "I need `{name}({parameters})`: it {says}. How do I write it?",
    "Define `{name}({parameters})`, which {says}.",
    "How do you write a Python function that {says}? Call it `{name}({parameters})`.",
    "Implement `{name}({parameters})`. The function {says}.",
    "Please give me Python code for a function `{name}({parameters})` that {says}.",
)
_EXAMPLE_WORDS = (
    "For example, `{call}` gives `{result}`.",
    "`{call}` should return `{result}`.",
    "Example: `{call}` is `{result}`.",
)


def function_plan(rng: random.Random) -> Plan:
    """Draw a function to write, with calls whose results come from another function."""
    task = pick(rng, TASKS)
    name = pick(rng, task.names)
    body = task.solutions[task.names.index(name) % len(task.solutions)]  # one question has one answer
    solution = f"def {name}({task.parameters}):\n{body.replace('{name}', name)}"
    calls = [task.draw(rng) for _ in range(_CALLS)]
    written = [f"{name}({', '.join(map(repr, arguments))})" for arguments in calls]
    expected = "".join(f"{task.oracle(*arguments)!r}\n" for arguments in calls)
    says = pick(rng, task.says)
    question = pick(rng, _WRITE_QUESTIONS).format(name=name, parameters=task.parameters, says=says)
    shows_call = chance(rng, 0.6)
    if shows_call:
        example = pick(rng, _EXAMPLE_WORDS).format(call=written[0], result=expected.split("\n")[0])
        question = f"{question} {example}"
    program = solution + "\n\n" + "\n".join(f"print(repr({call}))" for call in written)

    def finish(outcomes: Sequence[Outcome]) -> Made:
        if outcomes[0].error or outcomes[0].printed != expected:
            raise Rejected(f"{solution!r} gave {outcomes[0].printed!r} {outcomes[0].error}, expected {expected!r}")
        return Made("function", question, _block(solution), f"python:function:{name}", effort_of(solution) + 2)

    return Plan([program], finish)


# --- what is wrong --------------------------------------------------------------------------------------------------

_FAULT_QUESTIONS: tuple[tuple[str, str], ...] = (
    ("What is wrong with this code?", "both"),
    ("This program does not do what it should. Why, and how is it repaired?", "both"),
    ("Find the bug and correct it.", "both"),
    ("Why does this not work?", "both"),
    ("Debug this program.", "both"),
    ("A beginner wrote this. What is the mistake, and what is right?", "both"),
    ("Explain the mistake in this program. No code, please.", "reason"),
    ("In a sentence or two: what is wrong here?", "reason"),
    ("Correct this program. Only the code.", "code"),
    ("Give me the repaired program and nothing else.", "code"),
)


def fault_plan(rng: random.Random) -> Plan:
    """Draw a faulty program, its explanation and its repair."""
    fault = any_fault(rng)
    question, style = pick(rng, _FAULT_QUESTIONS)
    in_input = chance(rng, 0.4)

    def finish(outcomes: Sequence[Outcome]) -> Made:
        faulty, repaired = outcomes
        if faulty.error != fault.error or repaired.error or (not fault.error and faulty.printed == repaired.printed):
            raise Rejected(f"{fault.name}: {fault.program!r} ended with {faulty}, repaired with {repaired}")
        ends = f" Python stops with {_article(fault.error)} `{fault.error}`." if fault.error not in ("", "time") else ""
        reason = f"{capitalised(fault.because)}{ends}"
        answer = {"both": f"{reason}\n\n{_block(fault.repaired)}", "reason": reason, "code": _block(fault.repaired)}[
            style
        ]
        asked, extra = _asked(question, fault.program, in_input)
        return Made("fault", asked, answer, f"python:{fault.program}", effort_of(fault.program) + 3, extra)

    return Plan([fault.program, fault.repaired], finish)


def _article(name: str) -> str:
    return "an" if name[0] in "AEIOU" else "a"


# --- which exception ------------------------------------------------------------------------------------------------

_EXCEPTION_QUESTIONS = (
    "Which exception does this program stop with? Only its name.",
    "Name the exception that this raises.",
    "What kind of error does Python report here? The name is enough.",
    "I see a traceback when I run this. Which exception is on its last line? Just the name.",
    "With which exception does this end? Give its name alone.",
    "What does Python raise when this runs? One name.",
    "Run this. Which exception is reported? Only the name.",
)


def exception_plan(rng: random.Random) -> Plan:
    """Draw a faulty program that an exception stops, and ask which."""
    fault = any_fault(rng)
    while fault.error in ("", "time"):
        fault = any_fault(rng)
    question = pick(rng, _EXCEPTION_QUESTIONS)
    in_input = chance(rng, 0.4)

    def finish(outcomes: Sequence[Outcome]) -> Made:
        if outcomes[0].error != fault.error:
            raise Rejected(f"{fault.name}: {fault.program!r} ended with {outcomes[0]}")
        asked, extra = _asked(question, fault.program, in_input)
        return Made("exception", asked, fault.error, f"python:{fault.program}", effort_of(fault.program), extra)

    return Plan([fault.program], finish)


# --- together -------------------------------------------------------------------------------------------------------


def make(seed: int, count: int, on_rejected: OnRejected = ignore_rejected) -> Iterator[Record]:
    """Yield `count` examples about Python."""
    return keep_different(CATEGORY, count, _candidates(seed, min(BATCH, count)), on_rejected)


def _candidates(seed: int, batch: int) -> Iterator[Record | Rejected]:
    for first in itertools.count(0, batch):
        plans = [_plan(sub_random(seed, CATEGORY, index)) for index in range(first, first + batch)]
        outcomes = iter(run_programs([program for plan in plans for program in plan.programs]))
        for plan in plans:
            yield _finished(plan, list(itertools.islice(outcomes, len(plan.programs))))


def _plan(rng: random.Random) -> Plan:
    place = rng.random()
    if place < 0.48:
        return print_plan(rng)
    if place < 0.68:
        return exception_plan(rng)
    return (fault_plan if place < 0.84 else function_plan)(rng)


def _finished(plan: Plan, outcomes: Sequence[Outcome]) -> Record | Rejected:
    try:
        made = plan.finish(outcomes)
    except Rejected as reason:
        return reason
    return verified_record(made, CATEGORY, SOURCE)


PYTHON = Generator(
    CATEGORY, 500, (100, 20_000), "Outputs to predict, functions to write, faults to find; every answer executed", make
)
