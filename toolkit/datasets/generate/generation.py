"""Making a set: which categories, how many of each, from which seed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

from toolkit.datasets.generate.generator import Generator, Record
from toolkit.errors import Problem, ToolkitError

Shape = Literal["records", "messages"]
"""`records`: as each generator makes them; `messages`: every record as a conversation."""


@dataclass
class CategoryStatistics:
    """What one category holds; lengths are characters."""

    count: int = 0
    verified: int = 0
    rejected: int = 0
    difficulty: float = 0.0
    asked: int = 0
    answered: int = 0
    keys: set[str] = field(default_factory=set)
    levels: Counter[str] = field(default_factory=Counter)

    def add(self, record: Record) -> None:
        """Count a record."""
        metadata = record["metadata"]
        self.count += 1
        self.verified += bool(metadata["verified"])
        self.difficulty += metadata["difficulty"]
        self.keys.add(metadata["key"])
        self.levels[metadata["preservation"]] += 1
        asked, answered = question_and_answer(record)
        self.asked += len(asked)
        self.answered += len(answered)


def read_counts(texts: Sequence[str], available: Mapping[str, Generator]) -> dict[str, int]:
    """Read `category=N` texts; without any, every category that has a default gets it.

    Raises:
        ToolkitError: all texts that name no category (with the nearest one) or no whole number above 0, or one twice.
    """
    if not texts:
        return {name: generator.default_count for name, generator in available.items() if generator.default_count}
    counts: dict[str, int] = {}
    problems: list[Problem] = []
    for text in texts:
        name, equals, number = text.partition("=")
        name, number, place = name.strip(), number.strip(), f"--count {text}"
        if not equals or not number.isdecimal() or int(number) == 0:
            problems.append(
                Problem("expected category=N, N a whole number above 0", place, "Such as --count process=100")
            )
        elif name not in available:
            near = get_close_matches(name, available, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]}?" if near else f"Categories: {', '.join(available)}"
            problems.append(Problem(f"no category named {name}", place, hint))
        elif name in counts:
            problems.append(Problem(f"{name} is counted twice", place))
        else:
            counts[name] = int(number)
    if problems:
        raise ToolkitError.gather(problems)
    return {name: counts[name] for name in available if name in counts}


def make_set(
    available: Mapping[str, Generator],
    counts: Mapping[str, int],
    seed: int,
    statistics: dict[str, CategoryStatistics] | None = None,
    advance: Callable[[str, int], None] = lambda name, done: None,
    on_rejected: Callable[[str, str], None] = lambda name, why: None,
) -> Iterator[Record]:
    """Yield the records of a set, category by category; the same arguments give the same records.

    statistics: filled by category on the way
    advance: called with (category, records made since the last call)
    on_rejected: called with (category, why a candidate was not kept)
    """
    statistics = {} if statistics is None else statistics
    for name, count in counts.items():
        figures = statistics.setdefault(name, CategoryStatistics())

        def rejected(why: str, name: str = name, figures: CategoryStatistics = figures) -> None:
            figures.rejected += 1
            on_rejected(name, why)

        for record in available[name].make(seed, count, rejected):
            figures.add(record)
            advance(name, 1)
            yield record


def question_and_answer(record: Record) -> tuple[str, str]:
    """Return what is asked and what is taught, tool calls as JSON."""
    if "messages" not in record:
        return "\n\n".join(part for part in (record["instruction"], record["input"]) if part), record["output"]
    sides: dict[bool, list[str]] = {True: [], False: []}
    for message in record["messages"]:
        calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", ())]
        sides[message["role"] == "assistant"] += [part for part in (message["content"], *calls) if part]
    return "\n".join(sides[False]), "\n".join(sides[True])


def as_messages(record: Record) -> Record:
    """Return a record as a conversation; one that is a conversation stays as it is."""
    if "messages" in record:
        return record
    asked, answered = question_and_answer(record)
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return {"messages": turns, "metadata": record["metadata"]}
