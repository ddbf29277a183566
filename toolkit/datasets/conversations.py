"""Lists of turns, as chat and ShareGPT data spell them → `Message`s."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from toolkit.datasets.fields import as_json, checked_text, kind
from toolkit.datasets.schema import ROLES, Message
from toolkit.datasets.tool_calls import calls_from, check_results, read_calls
from toolkit.errors import Problem, ToolkitError

_CALL = "call"
# Who speaks, by the names that datasets give. ShareGPT: human, gpt, function_call, observation.
ROLE_NAMES = {
    **{role: role for role in ROLES},
    "developer": "system",
    "human": "user",
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "bot", "model", "ai"), "assistant"),
    **dict.fromkeys(("function", "observation", "ipython", "tool_response", "function_response"), "tool"),
    **dict.fromkeys(("function_call", "tool_call", "tool_calls"), _CALL),
}


def read_turns(turns: object, path: str, where: str, *, answers_only: bool = False) -> tuple[Message, ...]:
    """Turn a list of turns (`role` and `content`, or ShareGPT's `from` and `value`) into messages.

    Args:
        turns: what the record holds at `path`.
        path: dotted, for messages to the user.
        where: `file:line`.
        answers_only: the turns go on with a conversation, so they must begin with the assistant.

    Raises:
        ToolkitError: everything that is wrong with the turns, gathered.
    """
    if not isinstance(turns, list) or not turns:
        raise ToolkitError(f"`{path}` must be a list of turns, found {kind(turns)}", where=where)
    problems: list[Problem] = []
    messages: list[Message] = []
    for index, turn in enumerate(turns):
        try:
            messages.append(_turn(turn, f"{path}.{index}", index))
        except ToolkitError as error:
            problems.extend(Problem(problem.what, where, problem.hint) for problem in error.problems)
    if problems:
        raise ToolkitError.gather(problems)
    if answers_only and messages[0].role != "assistant":
        raise ToolkitError(f"`{path}` must begin with an assistant turn, found {messages[0].role}", where=where)
    return tuple(messages)


def check_conversation(messages: tuple[Message, ...], path: str, where: str) -> None:
    """Raise ToolkitError unless tool results follow calls and some assistant turn is trained."""
    try:
        check_results(messages, path)
    except ToolkitError as error:
        raise ToolkitError(error.problems[0].what, where=where, hint=error.problems[0].hint) from error
    answers = [message for message in messages if message.role == "assistant"]
    if not answers:
        raise ToolkitError("no assistant turn: there is nothing to learn", where=where)
    if not any(message.trained for message in answers):
        raise ToolkitError("no assistant turn is trained: there is nothing to learn", where=where)


def _turn(turn: object, path: str, index: int) -> Message:
    """Read one turn. Raises ToolkitError, without a place, for the first thing wrong with it."""
    if not isinstance(turn, dict):
        raise ToolkitError(f"`{path}` must be an object with `role` and `content`, found {kind(turn)}")
    role = _role(turn, path)
    if role == "system" and index > 0:
        raise ToolkitError(f"`{path}` is a system turn: only the first turn may be one")
    name = "value" if "content" not in turn and "value" in turn else "content"
    content, place = turn.get(name), f"{path}.{name}"
    if role == "tool":
        return _tool_result(turn, content, path, place)
    if role == _CALL:
        calls = calls_from(content, place)
        if not calls:
            raise ToolkitError(f"`{place}` calls nothing")
        return Message("assistant", "", calls, trained=_trained(turn, "assistant", path))
    calls = read_calls(turn, path)
    if calls and role != "assistant":
        raise ToolkitError(f"`{path}` is a {role} turn with tool calls: only the assistant makes calls")
    text = "" if calls and content is None else _text(content, place)
    trained = _trained(turn, role, path)
    if role == "assistant" and trained and not calls and not text.strip():
        raise ToolkitError(f"`{path}` is an empty assistant turn: there is nothing to learn")
    if isinstance(turn.get("reasoning_content"), str) and turn["reasoning_content"].strip():
        hint = "Put it into the content, as <think>…</think> before the answer"
        raise ToolkitError(f"`{path}.reasoning_content` is not read", hint=hint)
    return Message(role, text, calls, trained=trained)


def _role(turn: Mapping[str, Any], path: str) -> str:
    role = turn.get("role", turn.get("from"))
    known = ROLE_NAMES.get(role.lower()) if isinstance(role, str) else None
    if known is not None:
        return known
    near = difflib.get_close_matches(str(role).lower(), ROLES, n=1) if role else []
    named = f"unknown role {role!r}" if role is not None else "no role"
    hint = f"Did you mean {near[0]!r}?" if near else "Roles are system, user, assistant and tool"
    raise ToolkitError(f"`{path}` has {named}", hint=hint)


def _text(content: object, path: str) -> str:
    """Return a content that is text, or a list of parts that are all text (OpenAI's form)."""
    if isinstance(content, list) and content and all(isinstance(part, dict) and "type" in part for part in content):
        other = next((part["type"] for part in content if part["type"] != "text"), None)
        if other is not None:
            raise ToolkitError(f"`{path}` holds a part of type {other!r}: only text is read")
        parts = (checked_text(part.get("text"), f"{path}.{index}.text") for index, part in enumerate(content))
        return "".join(parts)
    if not isinstance(content, str):
        raise ToolkitError(f"`{path}` must be text, found {kind(content)}")
    return checked_text(content, path)


def _tool_result(turn: Mapping[str, Any], content: object, path: str, place: str) -> Message:
    if content is None:
        raise ToolkitError(f"`{path}` is a tool result without content")
    named, identity = turn.get("name"), turn.get("tool_call_id")
    _trained(turn, "tool", path)
    return Message(
        "tool",
        _text(content, place) if isinstance(content, str) or _is_parts(content) else as_json(content, place),
        name=checked_text(named, f"{path}.name") if named is not None else None,
        tool_call_id=checked_text(identity, f"{path}.tool_call_id") if identity is not None else None,
    )


def _is_parts(content: object) -> bool:
    if not isinstance(content, list) or not content:
        return False
    return all(isinstance(part, dict) and part.get("type") == "text" for part in content)


def _trained(turn: Mapping[str, Any], role: str, path: str) -> bool:
    """Return whether a turn is trained: `weight` (OpenAI's, 0 or 1) and `train` (axolotl's) say so, default yes."""
    weight, train = turn.get("weight"), turn.get("train")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        raise ToolkitError(f"`{path}.weight` must be 0 or 1, found {weight!r}"[:200])
    if train is not None and not isinstance(train, bool):
        raise ToolkitError(f"`{path}.train` must be true or false, found {kind(train)}")
    if role != "assistant" and (weight or train):
        raise ToolkitError(f"`{path}` asks to train a {role} turn: only what the assistant writes is trained")
    if None not in (weight, train) and bool(weight) != train:
        raise ToolkitError(f"`{path}` has `weight` and `train`, and they say different things")
    return bool(weight) if weight is not None else train is not False
