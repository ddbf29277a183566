"""One JSON object → one `Example`, by its own fields or by the mapping in the config.

Shapes told apart by their fields: chat (`messages`), instruction (`instruction`, `input`, `output`) and completion
(`prompt`, `completion`). Anything else needs a mapping, and the refusal proposes one from the fields that it found.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from toolkit.config import DataConfig
from toolkit.datasets.schema import ROLES, Example, Message
from toolkit.errors import Problem, ToolkitError

# Field names in the order of preference, by the part that they play in datasets found in the wild.
_PROMPT_NAMES = ("prompt", "instruction", "question", "query", "problem", "user", "human", "task", "title", "text")
_COMPLETION_NAMES = ("completion", "output", "answer", "response", "solution", "target", "assistant", "reply", "label")
_INPUT_NAMES = ("input", "context", "passage", "document", "background", "body")

_NOT_YET = {
    "conversations": "ShareGPT `conversations`",
    "chosen": "preference pairs (`chosen` and `rejected`)",
    "tools": "`tools`",
}


def example_from_record(record: object, data: DataConfig, where: str) -> Example:
    """Turn a decoded JSON value into an example.

    Args:
        record: what a line of the file holds; anything but an object is refused.
        data: the mapping (`prompt`, `completion`, `input`) and the default `system` message.
        where: `file:line`, kept in the example and in every problem.

    Raises:
        ToolkitError: the record has no known shape, a field is missing or of the wrong type, or nothing can be learnt.
    """
    if not isinstance(record, dict):
        raise ToolkitError(f"expected a JSON object, found {_kind(record)}", where=where)
    if data.prompt or data.completion or data.input:
        messages = _mapped(record, data, where)
    elif "messages" in record:
        messages = _chat(record, where)
    elif "instruction" in record and "output" in record:
        messages = _pair(record, "instruction", "input" if "input" in record else None, "output", where)
    elif "prompt" in record and "completion" in record:
        messages = _pair(record, "prompt", None, "completion", where)
    else:
        raise ToolkitError("no known shape of example", where=where, hint=_advice(record))
    if data.system and messages[0].role != "system":
        messages = (Message("system", data.system), *messages)
    metadata = record.get("metadata")
    return Example(messages, metadata if isinstance(metadata, dict) else {}, where)


def _mapped(record: Mapping[str, Any], data: DataConfig, where: str) -> tuple[Message, ...]:
    prompt, completion = data.prompt or "prompt", data.completion or "completion"
    return _pair(record, prompt, data.input, completion, where, mapped=True)


def _pair(
    record: Mapping[str, Any], prompt: str, extra: str | None, completion: str, where: str, *, mapped: bool = False
) -> tuple[Message, ...]:
    """Build user and assistant turns from three fields, reporting every field that does not fit."""
    problems: list[Problem] = []

    def text(option: str, path: str) -> str:
        value, problem = _text_at(record, path, where, f"data.{option}" if mapped else "")
        if problem:
            problems.append(problem)
        return value

    asked = text("prompt", prompt)
    further = text("input", extra) if extra else ""
    answer = text("completion", completion)
    if not problems and not answer.strip():
        problems.append(Problem(f"`{completion}` is empty: there is nothing to learn", where))
    if not problems and not (asked.strip() or further.strip()):
        problems.append(Problem(f"`{prompt}` is empty", where))
    if problems:
        raise ToolkitError.gather(problems)
    question = "\n\n".join(part for part in (asked, further) if part.strip())
    return Message("user", question), Message("assistant", answer)


def _chat(record: Mapping[str, Any], where: str) -> tuple[Message, ...]:
    turns = record["messages"]
    if not isinstance(turns, list) or not turns:
        raise ToolkitError(f"`messages` must be a list of turns, found {_kind(turns)}", where=where)
    problems: list[Problem] = []
    messages = []
    for index, turn in enumerate(turns):
        problem = _turn_problem(turn, f"messages.{index}", index)
        if problem:
            problems.append(Problem(problem[0], where, problem[1]))
        else:
            messages.append(Message(turn["role"], turn["content"]))
    if not problems and not any(message.role == "assistant" for message in messages):
        problems.append(Problem("no assistant turn: there is nothing to learn", where))
    if problems:
        raise ToolkitError.gather(problems)
    return tuple(messages)


def _turn_problem(turn: object, path: str, index: int) -> tuple[str, str] | None:
    """Return (what, hint) for the first thing wrong with a turn, or None."""
    if not isinstance(turn, dict):
        return f"`{path}` must be an object with `role` and `content`, found {_kind(turn)}", ""
    role, content = turn.get("role"), turn.get("content")
    if turn.get("tool_calls") or role in ("tool", "function"):
        return f"`{path}` holds a tool call: tool calls are not read yet", "Leave these examples out"
    if not isinstance(role, str) or role not in ROLES:
        near = difflib.get_close_matches(str(role).lower(), ROLES, n=1) if role else []
        named = f"unknown role {role!r}" if role is not None else "no role"
        hint = f"Did you mean {near[0]!r}?" if near else "Roles are system, user and assistant"
        return f"`{path}` has {named}", hint
    problem = _content_problem(role, content, path)
    if problem is None and role == "system" and index > 0:
        return f"`{path}` is a system turn: only the first turn may be one", ""
    return (problem, "") if problem else None


def _content_problem(role: str, content: object, path: str) -> str | None:
    if not isinstance(content, str):
        return f"`{path}.content` must be text, found {_kind(content)}"
    if role == "assistant" and not content.strip():
        return f"`{path}` is an empty assistant turn: there is nothing to learn"
    return _unencodable(content, f"{path}.content")


def _text_at(record: Mapping[str, Any], path: str, where: str, option: str) -> tuple[str, Problem | None]:
    """Return the text at a dotted path, or the problem that keeps it from being read."""
    value: Any = record
    for part in path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            asked = f" ({option})" if option else ""
            return "", Problem(f"no field `{path}`{asked}", where, _nearest(record, path))
    if not isinstance(value, str):
        inner = [p for p, _ in text_fields(value, path)]
        hint = f"Texts inside it: {_quoted(inner)}" if inner else ""
        return "", Problem(f"`{path}` must be text, found {_kind(value)}", where, hint)
    broken = _unencodable(value, path)
    return value, Problem(broken, where) if broken else None


def _unencodable(text: str, path: str) -> str | None:
    # JSON can spell half of a surrogate pair ("\ud800"), which no tokenizer and no UTF-8 file can hold.
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return f"`{path}` holds half of a surrogate pair, which is not a character"
    return None


def text_fields(value: object, path: str = "", depth: int = 4) -> Iterator[tuple[str, str]]:
    """Yield (dotted path, text) for every text inside a JSON value; of a list only the first item is looked at."""
    if isinstance(value, str):
        yield path, value
    elif depth and isinstance(value, dict):
        for name, inner in value.items():
            yield from text_fields(inner, f"{path}.{name}" if path else str(name), depth - 1)
    elif depth and isinstance(value, list) and value:
        yield from text_fields(value[0], f"{path}.0" if path else "0", depth - 1)


def _nearest(record: Mapping[str, Any], path: str) -> str:
    paths = [p for p, _ in text_fields(record)]
    near = difflib.get_close_matches(path, paths, n=1, cutoff=0.5)
    if not near:
        near = [p for p in paths if p.rsplit(".", 1)[-1] == path.rsplit(".", 1)[-1]][:1]
    return f"Did you mean `{near[0]}`?" if near else f"Fields with text: {_quoted(paths)}"


def suggest_mapping(record: Mapping[str, Any]) -> dict[str, str] | None:
    """Guess `data.prompt`, `data.input` and `data.completion` from field names; None when no pair stands out."""
    paths = [path for path, _ in text_fields(record) if not path.startswith("metadata.")]
    prompt = _pick(paths, _PROMPT_NAMES)
    completion = _pick([p for p in paths if p != prompt], _COMPLETION_NAMES)
    if prompt is None or completion is None:
        return None
    mapping = {"data.prompt": prompt}
    extra = _pick([p for p in paths if p not in (prompt, completion)], _INPUT_NAMES)
    if extra is not None:
        mapping["data.input"] = extra
    return {**mapping, "data.completion": completion}


def _pick(paths: list[str], names: tuple[str, ...]) -> str | None:
    """Return the path whose last part stands first among `names`; list indices at the end are looked through."""
    best: tuple[int, int, str] | None = None
    for position, path in enumerate(paths):
        parts = [part for part in path.lower().split(".") if not part.isdigit()]
        if parts and parts[-1] in names:
            rank = (names.index(parts[-1]), position, path)
            best = rank if best is None else min(best, rank)
    return best[2] if best else None


def _advice(record: Mapping[str, Any]) -> str:
    unread = next((named for name, named in _NOT_YET.items() if name in record), None)
    if unread:
        return f"{unread} are not read yet; read are messages, instruction/input/output and prompt/completion"
    mapping = suggest_mapping(record)
    if mapping:
        return "Say which fields to use: " + " ".join(f"--set {name}={path}" for name, path in mapping.items())
    found = _quoted([path for path, _ in text_fields(record)])
    return f"Say which fields to use: --set data.prompt=FIELD --set data.completion=FIELD (fields with text: {found})"


def _quoted(paths: list[str], limit: int = 8) -> str:
    shown = ", ".join(f"`{path}`" for path in paths[:limit])
    return (shown + (", …" if len(paths) > limit else "")) or "none"


def _kind(value: object) -> str:
    names = {bool: "true or false", dict: "an object", list: "a list", str: "text", int: "a number", float: "a number"}
    if value is None:
        return "null"
    return "an empty list" if value == [] else names.get(type(value), type(value).__name__)
