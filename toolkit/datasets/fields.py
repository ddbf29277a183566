"""Texts inside JSON values: find them by dotted path, name their kinds, guess which fields a mapping should name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from toolkit.errors import ToolkitError

# Field names in the order of preference, by the part that they play in datasets found in the wild.
_PROMPT_NAMES = ("prompt", "instruction", "question", "query", "problem", "user", "human", "task", "title", "text")
_COMPLETION_NAMES = ("completion", "output", "answer", "response", "solution", "target", "assistant", "reply", "label")
_INPUT_NAMES = ("input", "context", "passage", "document", "background", "body")
_TEXT_NAMES = ("text", "content", "document", "raw_content", "body", "article", "story", "markdown", "code")


def kind(value: object) -> str:
    """Name the kind of a JSON value in words."""
    names = {bool: "true or false", dict: "an object", list: "a list", str: "text", int: "a number", float: "a number"}
    if value is None:
        return "null"
    return "an empty list" if value == [] else names.get(type(value), type(value).__name__)


def value_at(record: Mapping[str, Any], path: str) -> Any:
    """Return what stands at a dotted path. Raises KeyError where nothing does."""
    value: Any = record
    for part in path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise KeyError(path)
    return value


def checked_text(value: object, path: str) -> str:
    """Return a text. Raises ToolkitError (without a place) when it is none, or holds what is not a character."""
    if not isinstance(value, str):
        inner = [p for p, _ in text_fields(value, path)]
        hint = f"Texts inside it: {quoted(inner)}" if inner else ""
        raise ToolkitError(f"`{path}` must be text, found {kind(value)}", hint=hint)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        # JSON can spell half of a surrogate pair ("\ud800"), which no tokenizer and no UTF-8 file can hold.
        raise ToolkitError(f"`{path}` holds half of a surrogate pair, which is not a character") from error
    return value


def as_json(value: object, path: str) -> str:
    """Write a value as JSON. Raises ToolkitError (without a place) when it holds anything but JSON values."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ToolkitError(f"`{path}` holds what JSON cannot: {error}") from error
    except RecursionError as error:
        raise ToolkitError(f"`{path}` is nested too deeply") from error
    return checked_text(text, path)


def decoded(text: str, path: str) -> Any:
    """Decode JSON that stands inside a text. Raises ToolkitError (without a place) when it is not JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ToolkitError(f"`{path}` is not valid JSON: {error.msg} (column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise ToolkitError(f"`{path}` is not valid JSON: {error}") from error


def text_fields(value: object, path: str = "", depth: int = 4) -> Iterator[tuple[str, str]]:
    """Yield (dotted path, text) for every text inside a JSON value; of a list only the first item is looked at."""
    if isinstance(value, str):
        yield path, value
    elif depth and isinstance(value, dict):
        for name, inner in value.items():
            yield from text_fields(inner, f"{path}.{name}" if path else str(name), depth - 1)
    elif depth and isinstance(value, list) and value:
        yield from text_fields(value[0], f"{path}.0" if path else "0", depth - 1)


def nearest(record: Mapping[str, Any], path: str) -> str:
    """Say which field was probably meant, or which there are."""
    paths = [p for p, _ in text_fields(record)]
    near = difflib.get_close_matches(path, paths, n=1, cutoff=0.5)
    if not near:
        near = [p for p in paths if p.rsplit(".", 1)[-1] == path.rsplit(".", 1)[-1]][:1]
    return f"Did you mean `{near[0]}`?" if near else f"Fields with text: {quoted(paths)}"


def looks_like_turns(value: object) -> bool:
    """Say whether a value is a list of turns: objects that name who speaks."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in value)
    )


def suggest_mapping(record: Mapping[str, Any]) -> dict[str, str] | None:
    """Guess `data.messages`, `data.prompt`, `data.input` and `data.completion`, or `data.text`, from field names.

    None when nothing stands out.
    """
    turns = [str(name) for name, value in record.items() if looks_like_turns(value)]
    if turns:
        return {"data.messages": turns[0]}
    paths = [path for path, _ in text_fields(record) if not path.startswith("metadata.")]
    prompt = _pick(paths, _PROMPT_NAMES)
    completion = _pick([p for p in paths if p != prompt], _COMPLETION_NAMES)
    if prompt is None or completion is None:
        text = _pick([path for path in paths if "." not in path], _TEXT_NAMES)
        return None if text is None else {"data.text": text}
    mapping = {"data.prompt": prompt}
    extra = _pick([p for p in paths if p not in (prompt, completion)], _INPUT_NAMES)
    if extra is not None:
        mapping["data.input"] = extra
    return {**mapping, "data.completion": completion}


def advice(record: Mapping[str, Any]) -> str:
    """Say what to type so that a record of no known shape is read."""
    if "chosen" in record and "rejected" in record:
        prompt = _pick([path for path, _ in text_fields(record)], _PROMPT_NAMES)
        return f"Say where the prompt stands: --set data.prompt={prompt or 'FIELD'}"
    mapping = suggest_mapping(record)
    if mapping:
        return "Say which fields to use: " + " ".join(f"--set {name}={path}" for name, path in mapping.items())
    found = quoted([path for path, _ in text_fields(record)])
    return f"Say which fields to use: --set data.prompt=FIELD --set data.completion=FIELD (fields with text: {found})"


def _pick(paths: list[str], names: tuple[str, ...]) -> str | None:
    """Return the path whose last part stands first among `names`; list indices at the end are looked through."""
    best: tuple[int, int, str] | None = None
    for position, path in enumerate(paths):
        parts = [part for part in path.lower().split(".") if not part.isdigit()]
        if parts and parts[-1] in names:
            rank = (names.index(parts[-1]), position, path)
            best = rank if best is None else min(best, rank)
    return best[2] if best else None


def quoted(paths: list[str], limit: int = 8) -> str:
    """List paths for a message, the first few of them."""
    shown = ", ".join(f"`{path}`" for path in paths[:limit])
    return (shown + (", …" if len(paths) > limit else "")) or "none"
