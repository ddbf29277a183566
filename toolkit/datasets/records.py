"""One JSON object → one `Example`, by its own fields or by the mapping in the config.

Shapes told apart by their fields, of several the first: preference (`chosen`, `rejected`), chat (`messages`), ShareGPT
(`conversations`), instruction (`instruction`, `input`, `output`), completion (`prompt`, `completion`), plain `text`. A
field that is null counts as absent, since Parquet has no other way to leave one out. A mapping goes before all of them.
Anything else needs one, and the refusal proposes it from the fields that it found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from toolkit.config import DataConfig
from toolkit.datasets.conversations import check_conversation, read_turns
from toolkit.datasets.fields import advice, checked_text, kind, looks_like_turns, nearest, value_at
from toolkit.datasets.preferences import read_preference
from toolkit.datasets.schema import Example, Message
from toolkit.datasets.tool_calls import read_tools
from toolkit.errors import Problem, ToolkitError

Record = Mapping[str, Any]
_PAIR_ROLES = ("user", "assistant")


def example_from_record(record: object, data: DataConfig, where: str) -> Example:
    """Turn a decoded JSON value into an example.

    Args:
        record: what a line of the file holds; anything but an object is refused.
        data: the mapping (`messages`, `prompt`, `completion`, `input`, `text`) and the default `system` message.
        where: `file:line`, kept in the example and in every problem.

    Raises:
        ToolkitError: the record has no known shape, a field is missing or of the wrong type, or nothing can be learnt.
    """
    if not isinstance(record, dict):
        raise ToolkitError(f"expected a JSON object, found {kind(record)}", where=where)
    fields = {name: value for name, value in record.items() if value is not None}
    mapped, shaped = _mapped(fields, data), _shape(fields)
    read = mapped or shaped or _shape(record)
    if read is None:
        raise ToolkitError("no known shape of example", where=where, hint=advice(record))
    example = read(fields if shaped and not mapped else record, where)
    metadata = fields.get("metadata")
    example = replace(example, metadata=metadata if isinstance(metadata, dict) else {}, where=where)
    if example.text is not None:
        return example
    return replace(_with_system(example, data.system), tools=_tools(fields, where))


Reader = Callable[[Record, str], Example]


def _mapped(record: Record, data: DataConfig) -> Reader | None:
    """Return the reader that the config's mapping asks for, if it has one."""
    if data.text is not None:
        return lambda fields, where: _text(fields, data.text or "", where, "data.text")
    if data.messages is not None:
        return lambda fields, where: _turns(fields, data.messages or "", where, "data.messages")
    if data.prompt and not data.completion and "chosen" in record and "rejected" in record:
        return lambda fields, where: read_preference(fields, data.prompt or "", where)
    if data.prompt or data.completion or data.input:
        prompt, completion = data.prompt or "prompt", data.completion or "completion"
        return lambda fields, where: _pair(fields, prompt, data.input, completion, where, mapped=True)
    return None


def _shape(record: Record) -> Reader | None:
    """Return the reader of the first shape that a record has all the fields of."""
    return next((read for names, read in _SHAPES if all(name in record for name in names)), None)


def _with_system(example: Example, default: str | None) -> Example:
    """Put the config's system message before a conversation that brings none, and before its rejected twin."""
    if not default or example.messages[0].role == "system":
        return example
    system = Message("system", default)
    rejected = (system, *example.rejected) if example.rejected else ()
    return replace(example, messages=(system, *example.messages), rejected=rejected)


def _tools(record: Record, where: str) -> tuple[Mapping[str, Any], ...]:
    name = "tools" if "tools" in record else "functions"
    if name not in record:
        return ()
    try:
        return read_tools(record[name], name)
    except ToolkitError as error:
        raise _placed(error, where) from error


def _turns(record: Record, path: str, where: str, option: str = "") -> Example:
    """Read the list of turns at `path`, after the record's own `system` text where the turns bring none."""
    messages = read_turns(_value(record, path, where, option), path, where)
    messages = _after_own_system(record, messages, where)
    check_conversation(messages, path, where)
    return Example(messages)


def _after_own_system(record: Record, messages: tuple[Message, ...], where: str) -> tuple[Message, ...]:
    """Put a record's `system` text before its turns where they begin without a system turn."""
    system = record.get("system")
    if not isinstance(system, str) or not system.strip() or messages[0].role == "system":
        return messages
    return (Message("system", _checked(system, "system", where)), *messages)


def _text(record: Record, path: str, where: str, option: str = "") -> Example:
    text = _checked(_value(record, path, where, option), path, where)
    if not text.strip():
        raise ToolkitError(f"`{path}` is empty: there is nothing to learn", where=where)
    return Example((), text=text)


def _pair(
    record: Record, prompt: str, extra: str | None, completion: str, where: str, *, mapped: bool = False
) -> Example:
    """Build a conversation from prompt, input and completion, reporting every field that does not fit.

    A prompt or a completion may be a list of turns. Then what the assistant says in the prompt is not trained.
    """
    problems: list[Problem] = []

    def part(option: str, path: str) -> Any:
        try:
            value = _value(record, path, where, f"data.{option}" if mapped else "")
            if option != "input" and looks_like_turns(value):
                return read_turns(value, path, where, answers_only=option == "completion")
            return _checked(value, path, where)
        except ToolkitError as error:
            problems.extend(error.problems)
            return ""

    asked = part("prompt", prompt)
    further = part("input", extra) if extra else ""
    answer = part("completion", completion)
    if not problems and isinstance(answer, str) and not answer.strip():
        problems.append(Problem(f"`{completion}` is empty: there is nothing to learn", where))
    if not problems and isinstance(asked, str) and not (asked.strip() or further.strip()):
        problems.append(Problem(f"`{prompt}` is empty", where))
    if problems:
        raise ToolkitError.gather(problems)
    messages = (*_asked(asked, further), *_answered(answer))
    check_conversation(messages, completion, where)
    return Example(messages)


def _asked(asked: str | tuple[Message, ...], further: str) -> tuple[Message, ...]:
    if isinstance(asked, str):
        return (Message("user", "\n\n".join(part for part in (asked, further) if part.strip())),)
    turns = tuple(replace(message, trained=False) for message in asked)
    return (*turns, Message("user", further)) if further.strip() else turns


def _answered(answer: str | tuple[Message, ...]) -> tuple[Message, ...]:
    return (Message("assistant", answer),) if isinstance(answer, str) else answer


def _instruction(record: Record, where: str) -> Example:
    """Read an instruction record, after the earlier turns in its `history` (pairs of texts) where it has one."""
    example = _pair(record, "instruction", "input" if "input" in record else None, "output", where)
    history = record.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise ToolkitError("`history` must be a list of pairs: what was asked, what was answered", where=where)
    places = [(role, f"history.{i}.{j}", i, j) for i in range(len(history)) for j, role in enumerate(_PAIR_ROLES)]
    earlier = [Message(role, _checked(history[i][j], place, where)) for role, place, i, j in places]
    if not all(message.content.strip() for message in earlier):
        raise ToolkitError("`history` holds an empty text", where=where)
    return Example(_after_own_system(record, (*earlier, *example.messages), where))


_SHAPES: tuple[tuple[tuple[str, ...], Reader], ...] = (
    (("chosen", "rejected"), lambda record, where: read_preference(record, "prompt", where)),
    (("messages",), lambda record, where: _turns(record, "messages", where)),
    (("conversations",), lambda record, where: _turns(record, "conversations", where)),
    (("conversation",), lambda record, where: _turns(record, "conversation", where)),
    (("instruction", "output"), _instruction),
    (("prompt", "completion"), lambda record, where: _pair(record, "prompt", None, "completion", where)),
    (("text",), lambda record, where: _text(record, "text", where)),
)


def _value(record: Record, path: str, where: str, option: str = "") -> Any:
    try:
        return value_at(record, path)
    except KeyError:
        asked = f" ({option})" if option else ""
        raise ToolkitError(f"no field `{path}`{asked}", where=where, hint=nearest(record, path)) from None


def _checked(value: object, path: str, where: str) -> str:
    try:
        return checked_text(value, path)
    except ToolkitError as error:
        raise _placed(error, where) from error


def _placed(error: ToolkitError, where: str) -> ToolkitError:
    return ToolkitError.gather([Problem(problem.what, where, problem.hint) for problem in error.problems])
