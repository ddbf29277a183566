"""Asking about things in turn: every subject gets its share, every phrasing its turn, and no key comes twice."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count as count_up
from typing import TypeVar

from toolkit.datasets.generate.generator import OnRejected, Record, draw, exhausted, sub_random
from toolkit.datasets.generate.grammar import Pattern, as_sentence, pick, read_pattern, shuffled
from toolkit.datasets.generate.phrasings import OPENINGS, SURROUNDINGS

Subject = TypeVar("Subject")
OPENING_SHARE = 0.25
"""The share of questions that something stands before."""

_STALE_ROUNDS = 20
_STALE_RECORDS = 5_000
_ENDLESS = 1 << 60


@dataclass(frozen=True)
class Asking:
    """One question about one thing, to be asked in several patterns.

    subject:    what it is about (the first part of the semantic key)
    facet:      what is asked about it
    patterns:   the ways to ask
    fill:       the slots that are fixed by the subject
    answer:     what is taught, whatever the pattern
    difficulty: 0..1
    """

    subject: str
    facet: str
    patterns: tuple[Pattern, ...]
    fill: Mapping[str, str]
    answer: str
    difficulty: float


def in_rounds(
    category: str,
    seed: int,
    count: int,
    subjects: Sequence[Subject],
    make_one: Callable[[Subject, int, random.Random], Record | None],
) -> Iterator[Record]:
    """Yield `count` different records, visiting the subjects in rounds, so that each gets its share.

    `make_one` gets the subject, the number of the round and the random numbers of this record; None skips.

    Raises:
        ToolkitError: the subjects give no more than what was yielded so far.
    """
    order = shuffled(sub_random(seed, f"{category}/order", 0), subjects)
    seen: set[str] = set()
    index = stale = 0
    for turn in count_up():
        before = len(seen)
        for subject in order:
            if len(seen) == count:
                return
            made = make_one(subject, turn, sub_random(seed, category, index))
            index += 1
            if made is not None and made["metadata"]["id"] not in seen:
                seen.add(made["metadata"]["id"])
                yield made
        stale = 0 if len(seen) > before else stale + 1
        if stale > _STALE_ROUNDS or not order:
            raise exhausted(category, count, len(seen))


def turn_of(category: str, seed: int, subject: str, options: int, turn: int) -> int:
    """Return which of `options` a subject takes in round `turn`: all of them in an order of its own, then again."""
    return shuffled(sub_random(seed, f"{category}/{subject}", 0), range(options))[turn % options]


class Openings:
    """Draws what stands before a question."""

    def __init__(self, patterns: Sequence[str] = OPENINGS, share: float = OPENING_SHARE) -> None:
        """Take patterns whose slots are among `SURROUNDINGS` and `number`."""
        self.patterns = tuple(read_pattern(text) for text in patterns)
        self.share = share

    def before(self, question: str, rng: random.Random, fill: Mapping[str, str] | None = None) -> str:
        """Return the question, perhaps with an opening before it."""
        if not self.patterns or rng.random() >= self.share:
            return question
        surroundings = {name: pick(rng, values) for name, values in SURROUNDINGS.items()}
        number = str(100 + int(rng.random() * 9900))
        opening = pick(rng, self.patterns).expand(rng, {**surroundings, "number": number, **(fill or {})})
        return f"{as_sentence(opening)} {question}"


def one_per_key(
    category: str, seed: int, count: int, make_one: Callable[[random.Random], Record], on_rejected: OnRejected
) -> Iterator[Record]:
    """Yield `count` records drawn one by one, of each semantic key only the first.

    Raises:
        ToolkitError: there are no more keys than the records yielded so far.
    """
    seen: set[str] = set()
    stale = 0
    records = draw(category, seed, _ENDLESS, make_one, on_rejected)
    while len(seen) < count:
        made = next(records)
        stale += 1
        if stale > _STALE_RECORDS:
            raise exhausted(category, count, len(seen))
        if made["metadata"]["key"] not in seen:
            seen.add(made["metadata"]["key"])
            stale = 0
            yield made
