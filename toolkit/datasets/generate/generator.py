"""What every generator of examples is: a name, how many it makes, and a function of a seed and a count.

A generator is a pure function of (seed, count): the same two give the same records in the same order on every machine,
and a smaller count gives the beginning of a larger one. Example number `index` of a category draws from a
`random.Random` of its own, derived by SHA-256 from (seed, category, index); nothing uses `hash()`, the order of a set
or the clock.

`metadata.difficulty` is a number from 0 (a child answers at once) to 1 (an adult needs paper, or cannot do it): each
generator documents how it measures it, so figures compare within a category and only roughly across categories.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from toolkit.errors import ToolkitError
from toolkit.preservation import Preservation

Record = dict[str, Any]
"""An instruction record (`instruction`, `input`, `output`) or a chat record (`messages`, `tools`), with `metadata`."""

OnRejected = Callable[[str], None]
"""Told in one line why a candidate was not kept; the candidate is skipped and another one drawn."""

_ID_DIGITS = 16
_STALE_DRAWS = 2_000


class Rejected(Exception):
    """A candidate that its own check refuses: the message says which and why. `draw` logs and skips it."""


class Make(Protocol):
    """The function of a generator."""

    def __call__(self, seed: int, count: int, on_rejected: OnRejected = ...) -> Iterator[Record]:
        """Yield `count` records that follow from `seed` alone; tell `on_rejected` about candidates that fail."""
        ...


@dataclass(frozen=True)
class Generator:
    """One category of examples.

    name:          the category, as in `metadata.category` and in `--count NAME=N`.
    default_count: how many examples the core set takes.
    count_range:   (low, high): the sensible sizes, both included; the core set stays within.
    description:   one line for the help text.
    make:          the function, see `Make`.
    """

    name: str
    default_count: int
    count_range: tuple[int, int]
    description: str
    make: Make


def ignore_rejected(_: str) -> None:
    """Do nothing: for callers that do not ask what was skipped."""


def sub_seed(seed: int, category: str, index: int) -> int:
    """Return a 64-bit seed derived by SHA-256 from (seed, category, index)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{category}/{index}".encode()).digest()[:8], "big")


def sub_random(seed: int, category: str, index: int) -> random.Random:
    """Return the random numbers of example `index` of a category."""
    return random.Random(sub_seed(seed, category, index))


def draw(
    category: str,
    seed: int,
    count: int,
    make_one: Callable[[random.Random], Record],
    on_rejected: OnRejected = ignore_rejected,
) -> Iterator[Record]:
    """Yield `count` records with `count` different ids, made one by one.

    Args:
        category: names the random numbers; candidate `index` gets `sub_random(seed, category, index)`.
        seed: what the user typed.
        count: how many to yield.
        make_one: makes one candidate, or raises `Rejected`.
        on_rejected: told about each rejected candidate. A repeated one is skipped without a word.

    Raises:
        ToolkitError: the category has no more than the records yielded so far.
    """

    def candidates() -> Iterator[Record | Rejected]:
        for index in itertools.count():
            try:
                yield make_one(sub_random(seed, category, index))
            except Rejected as reason:
                yield reason

    return keep_different(category, count, candidates(), on_rejected)


def keep_different(
    category: str, count: int, candidates: Iterable[Record | Rejected], on_rejected: OnRejected = ignore_rejected
) -> Iterator[Record]:
    """Yield the first `count` records with different ids among endless candidates.

    Raises:
        ToolkitError: many candidates in a row brought nothing new.
    """
    seen: set[str] = set()
    stale = 0
    if count < 1:
        return
    for candidate in candidates:
        stale += 1
        if stale > _STALE_DRAWS:
            raise exhausted(category, count, len(seen))
        if isinstance(candidate, Rejected):
            on_rejected(str(candidate))
            continue
        identity = candidate["metadata"]["id"]
        if identity in seen:
            continue
        seen.add(identity)
        stale = 0
        yield candidate
        if len(seen) == count:
            return


def exhausted(category: str, asked: int, available: int) -> ToolkitError:
    """Return the error for a category that cannot make as many different examples as were asked for."""
    return ToolkitError(
        f"{category} makes {available:,} different examples at most, {asked:,} were asked for",
        hint=f"Type --count {category}={available}",
    )


def record(
    category: str,
    instruction: str,
    output: str,
    *,
    key: str,
    difficulty: float,
    source: str,
    verified: bool,
    extra: str = "",
    preservation: Preservation = "flexible",
    **more: object,
) -> Record:
    """Return an instruction record.

    Args:
        category: the generator's name.
        instruction: what the user asks.
        output: what the assistant answers.
        key: what the example is about, whatever its wording: examples with one key stay on one side of a split.
        difficulty: 0..1, see the module's docstring; rounded to two places.
        source: the dotted name of the module that made it, or where it comes from.
        verified: a check that is not the generator itself found the answer right.
        extra: the record's `input`.
        preservation: what may happen to the text later.
        more: further metadata, JSON values, written after the fixed ones.
    """
    metadata: Record = {
        "id": identifier(category, (instruction, extra, output)),
        "category": category,
        "difficulty": round(difficulty, 2),
        "preservation": preservation,
        "key": key,
        "source": source,
        "verified": verified,
        **more,
    }
    return {"instruction": instruction, "input": extra, "output": output, "metadata": metadata}


def chat_record(
    category: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    key: str,
    difficulty: float,
    source: str,
    verified: bool,
    tools: Sequence[Mapping[str, Any]] = (),
    preservation: Preservation = "flexible",
    **more: object,
) -> Record:
    """Return a chat record: `messages`, `tools` where there are any, and the metadata that `record` describes."""
    turns = [dict(message) for message in messages]
    offered = [dict(tool) for tool in tools]
    metadata: Record = {
        "id": identifier(category, (turns, offered)),
        "category": category,
        "difficulty": round(difficulty, 2),
        "preservation": preservation,
        "key": key,
        "source": source,
        "verified": verified,
        **more,
    }
    return {"messages": turns, **({"tools": offered} if offered else {}), "metadata": metadata}


def identifier(category: str, content: Sequence[object]) -> str:
    """Return `category-` and 16 hexadecimal digits of the SHA-256 of the content: one content, one id, for ever."""
    text = json.dumps([category, *content], ensure_ascii=False, sort_keys=True)
    return f"{category}-{hashlib.sha256(text.encode()).hexdigest()[:_ID_DIGITS]}"
