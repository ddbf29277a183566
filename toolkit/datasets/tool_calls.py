"""Tools, tool calls and their results as datasets spell them → the one form that transformers' chat templates expect.

The form is that of https://huggingface.co/docs/transformers/chat_extras: `tools` are `{"type": "function", "function":
{"name", "description", "parameters"}}`, calls `{"type": "function", "function": {"name", "arguments": {…}}}`. In the
wild tools come bare or as JSON text, arguments as JSON text (OpenAI), calls bare or as `function_call`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolkit.datasets.fields import as_json, checked_text, decoded, kind
from toolkit.datasets.schema import Message, ToolCall
from toolkit.errors import ToolkitError

# A turn whose plain text holds a call, as in Hermes' own data: results may follow it though nothing says `tool_calls`.
_CALLS_IN_TEXT = ("tool_call", "function", "[TOOL_CALLS]", "<|python_tag|>", '"name"')


def read_tools(value: object, path: str) -> tuple[Mapping[str, Any], ...]:
    """Return the schemas of a record's `tools`, each in the long form. Raises ToolkitError, without a place."""
    if isinstance(value, str):
        value = decoded(value, path) if value.strip() else []
    if not isinstance(value, list):
        raise ToolkitError(f"`{path}` must be a list of JSON schemas, found {kind(value)}")
    return tuple(_tool(item, f"{path}.{index}") for index, item in enumerate(value))


def _tool(item: object, path: str) -> Mapping[str, Any]:
    if isinstance(item, str):
        item = decoded(item, path)
    if not isinstance(item, dict):
        raise ToolkitError(f"`{path}` must be a JSON schema, found {kind(item)}")
    bare = item.get("function") is None
    schema = item if bare else item["function"]
    name = schema.get("name") if isinstance(schema, dict) else None
    if not isinstance(name, str) or not name.strip():
        raise ToolkitError(f"`{path}` has no name", hint='Expected {"type": "function", "function": {"name": …, …}}')
    as_json(item, path)
    return {"type": "function", "function": item} if bare else item


def read_calls(turn: Mapping[str, Any], path: str) -> tuple[ToolCall, ...]:
    """Return the calls of a turn, from `tool_calls` or the older `function_call`. Raises ToolkitError."""
    if turn.get("tool_calls") is not None:
        return calls_from(turn["tool_calls"], f"{path}.tool_calls")
    if turn.get("function_call") is not None:
        return calls_from([turn["function_call"]], f"{path}.function_call")
    return ()


def calls_from(value: object, path: str) -> tuple[ToolCall, ...]:
    """Return calls from a list, a single call, or the JSON text of either. Raises ToolkitError, without a place."""
    if isinstance(value, str):
        value = decoded(value, path)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise ToolkitError(f"`{path}` must be a list of calls, found {kind(value)}")
    return tuple(_call(item, f"{path}.{index}") for index, item in enumerate(value))


def _call(item: object, path: str) -> ToolCall:
    if not isinstance(item, dict):
        raise ToolkitError(f"`{path}` must be a call with `name` and `arguments`, found {kind(item)}")
    function = item if item.get("function") is None else item["function"]
    if not isinstance(function, dict):
        raise ToolkitError(f"`{path}.function` must be an object, found {kind(function)}")
    name = function.get("name")
    if not isinstance(name, str) or not name.strip():
        raise ToolkitError(f"`{path}` has no name: a call names the function that it calls")
    identity = item.get("id")
    return ToolCall(
        checked_text(name, f"{path}.name"),
        _arguments(function, path),
        checked_text(identity, f"{path}.id") if isinstance(identity, str) else None,
    )


def _arguments(function: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    names = [name for name in ("arguments", "parameters") if function.get(name) is not None]
    if not names:
        return {}
    value, path = function[names[0]], f"{path}.{names[0]}"
    if isinstance(value, str):
        value = decoded(value, path) if value.strip() else {}
    if not isinstance(value, dict):
        raise ToolkitError(f"`{path}` must be an object with one entry for each argument, found {kind(value)}")
    as_json(value, path)
    return value


def check_results(messages: Sequence[Message], path: str) -> None:
    """Raise ToolkitError, without a place, unless every tool result follows a call that it can belong to."""
    caller: Message | None = None
    answered = 0
    for index, message in enumerate(messages):
        if message.role != "tool":
            caller, answered = message, 0
            continue
        answered += 1
        _check_result(message, caller, answered, f"{path}.{index}")


def _check_result(result: Message, caller: Message | None, answered: int, path: str) -> None:
    calls = caller.tool_calls if caller is not None else ()
    in_text = caller is not None and caller.role == "assistant" and any(s in caller.content for s in _CALLS_IN_TEXT)
    if not calls and not in_text:
        raise ToolkitError(f"`{path}` is a tool result, but the assistant's turn before it calls nothing")
    if not calls:
        return
    ids = [call.id for call in calls if call.id is not None]
    if result.tool_call_id is not None and len(ids) == len(calls) and result.tool_call_id not in ids:
        made = ", ".join(repr(name) for name in ids)
        raise ToolkitError(f"`{path}` answers the call {result.tool_call_id!r}, but the calls before it are {made}")
    if answered > len(calls):
        raise ToolkitError(f"`{path}` is one tool result too many: the turn before makes {len(calls)} calls")
