"""Turn examples into questions: what the model sees, what it should answer, and the family that it counts towards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.datasets.schema import Example, Message

OVERALL = "overall"
SINGLE_FAMILY = "all"
UNNAMED_FAMILY = "other"


@dataclass(frozen=True)
class Question:
    """One held-out question.

    messages:  the conversation up to, but without, its last assistant turn
    reference: what that turn says: its content; where it calls tools, `canonical_calls` after it
    family:    see `families_of`
    where:     `file:line` of the example
    tools:     what the assistant may call
    answer:    the last assistant turn itself
    """

    messages: tuple[Message, ...]
    reference: str
    family: str
    where: str
    tools: tuple[Mapping[str, Any], ...] = ()
    answer: Message | None = None

    @property
    def text(self) -> str:
        """The contents of the messages, one after the other: what the nearest-question baseline compares."""
        return "\n".join(message.content for message in self.messages)


def families_of(examples: Sequence[Example]) -> list[str]:
    """Name the family of each example: its `metadata.category`.

    Where some examples have none they are `other`; where no example has one they are all of the family `all`.
    """
    named = [example.category or "" for example in examples]
    unnamed = UNNAMED_FAMILY if any(named) else SINGLE_FAMILY
    return [name or unnamed for name in named]


def ask(example: Example, family: str) -> Question | None:
    """Cut an example before its last assistant turn; None when it has no such turn or nothing stands before it."""
    roles = [message.role for message in example.messages]
    if "assistant" not in roles:
        return None
    last = len(roles) - 1 - roles[::-1].index("assistant")
    if last == 0:
        return None
    answer = example.messages[last]
    reference = "\n".join(part for part in (answer.content, canonical_calls(answer)) if part)
    return Question(tuple(example.messages[:last]), reference, family, example.where, example.tools, answer)


def canonical_calls(message: Message) -> str:
    """Write a turn's tool calls as JSON, one a line: how they are shown and compared without a chat template."""
    calls = ({"name": call.name, "arguments": dict(call.arguments)} for call in message.tool_calls)
    return "\n".join(json.dumps(call, ensure_ascii=False, sort_keys=True) for call in calls)


def ask_all(examples: Sequence[Example]) -> list[Question]:
    """Turn every example that asks something into a question, in order."""
    questions = (ask(example, family) for example, family in zip(examples, families_of(examples), strict=True))
    return [question for question in questions if question is not None]


def with_overall(named: Sequence[str]) -> list[str]:
    """List the distinct families, sorted (never in the data's order), then `overall` unless there is only `all`."""
    distinct = sorted(set(named))
    return distinct if distinct == [SINGLE_FAMILY] else [*distinct, OVERALL]
