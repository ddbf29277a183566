"""A problem with its proved answer, its record, and the keys that tell which problems are the same one."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from toolkit.datasets.generate.generator import Record, record
from toolkit.datasets.generate.workings import difficulty_of


class Made(NamedTuple):
    """A question with its answer.

    kind:     the family within the category, written to `metadata.kind`.
    question: the instruction.
    answer:   the output.
    key:      the semantic key.
    steps:    its work, in the unit of the category's difficulty.
    extra:    the record's `input`.
    """

    kind: str
    question: str
    answer: str
    key: str
    steps: float
    extra: str = ""


def operands_key(*numbers: int | Fraction) -> str:
    """Return the key of a problem about these numbers, whatever their order: `operands:23,45`."""
    return "operands:" + ",".join(map(str, sorted(numbers)))


def verified_record(made: Made, category: str, source: str) -> Record:
    """Return the record of a problem whose answer has been checked."""
    return record(
        category,
        made.question,
        made.answer,
        extra=made.extra,
        key=made.key,
        difficulty=difficulty_of(made.steps),
        source=source,
        verified=True,
        kind=made.kind,
    )
