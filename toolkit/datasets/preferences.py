"""Preference pairs (`prompt`, `chosen`, `rejected`) as TRL and its datasets spell them → one `Example` with both.

They are kept whole. Training on the pair (DPO and its kin) is not built; training on the chosen answers is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from toolkit.datasets.conversations import check_conversation, read_turns
from toolkit.datasets.fields import advice, checked_text, kind, looks_like_turns, value_at
from toolkit.datasets.schema import Example, Message
from toolkit.errors import Problem, ToolkitError

# Anthropic's HH-RLHF writes whole conversations as one text.
_SPEAKER = re.compile(r"\n\n(Human|Assistant):")


def read_preference(record: Mapping[str, Any], prompt_path: str, where: str) -> Example:
    """Read a pair: answers to a prompt, or two whole conversations that begin alike.

    `chosen` and `rejected` are texts (answers to the prompt; without one, conversations as HH-RLHF writes them, each
    turn after an empty line and `Human:` or `Assistant:`) or lists of turns: answers when they begin with the
    assistant, else whole conversations, of which the prompt, if it is given, is the beginning. What the assistant says
    before the two part is not trained.

    Raises:
        ToolkitError: a part is missing or of the wrong kind, they do not fit together, or there is no difference.
    """
    prompt = _prompt(record, prompt_path, where)
    problems: list[Problem] = []
    sides: list[tuple[Message, ...]] = []
    for name in ("chosen", "rejected"):
        try:
            sides.append(_side(record, name, prompt, where))
        except ToolkitError as error:
            problems.extend(error.problems)
    if problems:
        raise ToolkitError.gather(problems)
    chosen, rejected = sides
    shared = _shared_beginning(chosen, rejected)
    if shared == len(chosen) or shared == len(rejected):
        raise ToolkitError("`chosen` and `rejected` are the same, or one is the beginning of the other", where=where)
    chosen, rejected = _untrained_until(chosen, shared), _untrained_until(rejected, shared)
    for name, messages in (("chosen", chosen), ("rejected", rejected)):
        check_conversation(messages, name, where)
    return Example(chosen, rejected=rejected)


def need_a_choice(examples: Iterable[Example]) -> list[Problem]:
    """Return one problem for each preference pair: what it is, and how its better answer can be trained."""
    what = "a preference pair: training on pairs (DPO) is not built"
    hint = "To train on the chosen answers: --set data.preference=chosen"
    return [Problem(what, example.where, hint) for example in examples if example.rejected]


def _prompt(record: Mapping[str, Any], path: str, where: str) -> tuple[Message, ...]:
    """Return the prompt's turns; none where the record has no prompt."""
    try:
        value = value_at(record, path)
    except KeyError:
        return ()
    if value is None:
        return ()
    if looks_like_turns(value):
        return read_turns(value, path, where)
    return (Message("user", _text(value, path, where)),)


def _side(record: Mapping[str, Any], name: str, prompt: tuple[Message, ...], where: str) -> tuple[Message, ...]:
    """Return one side as a whole conversation, the prompt included."""
    value = record[name]
    if isinstance(value, str):
        return _text_side(record, name, prompt, where)
    if not isinstance(value, list):
        raise ToolkitError(f"`{name}` must be text or a list of turns, found {kind(value)}", where=where)
    turns = read_turns(value, name, where)
    if turns[0].role == "assistant":
        if not prompt:
            raise ToolkitError(f"`{name}` answers, but there is no prompt", where=where, hint=advice(record))
        return (*prompt, *turns)
    asked = [(m.role, m.content.strip()) for m in prompt if m.role != "system"]
    if [(m.role, m.content.strip()) for m in turns if m.role != "system"][: len(asked)] != asked:
        what = f"`{name}` is a whole conversation that does not begin with `prompt`"
        raise ToolkitError(what, where=where, hint="Leave `prompt` out, or give the answers alone")
    begun = turns[0].role == "system" or not prompt or prompt[0].role != "system"
    return turns if begun else (prompt[0], *turns)


def _text_side(record: Mapping[str, Any], name: str, prompt: tuple[Message, ...], where: str) -> tuple[Message, ...]:
    text = _text(record[name], name, where)
    if prompt:
        if not text.strip():
            raise ToolkitError(f"`{name}` is empty", where=where)
        return (*prompt, Message("assistant", text))
    before, *parts = _SPEAKER.split(text)
    if before.strip() or not parts:
        raise ToolkitError(
            f"`{name}` is text, but there is no prompt that it answers", where=where, hint=advice(record)
        )
    if not all(said.strip() for said in parts[1::2]):
        raise ToolkitError(f"`{name}` has an empty turn", where=where)
    roles = {"Human": "user", "Assistant": "assistant"}
    return tuple(Message(roles[who], said.strip()) for who, said in zip(parts[::2], parts[1::2], strict=True))


def _text(value: object, path: str, where: str) -> str:
    try:
        return checked_text(value, path)
    except ToolkitError as error:
        raise ToolkitError(error.problems[0].what, where=where, hint=error.problems[0].hint) from error


def _shared_beginning(first: tuple[Message, ...], second: tuple[Message, ...]) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(first), len(second)))


def _untrained_until(messages: tuple[Message, ...], stop: int) -> tuple[Message, ...]:
    return tuple(replace(message, trained=False) if i < stop else message for i, message in enumerate(messages))
