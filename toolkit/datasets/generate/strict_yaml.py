"""Small YAML files of data, read strictly into a pydantic model: every mistake with its line, all at once.

Every scalar is text (`42` and `no` stay what was typed): such files hold words, not settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from toolkit.errors import Problem, ToolkitError

KeyPath = tuple[str | int, ...]


class Strict(BaseModel):
    """A model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Model = TypeVar("Model", bound=Strict)


class Places:
    """Where each value of a file stands (its line, from 1), and what is wrong so far."""

    def __init__(self, file: Path) -> None:
        """Begin with no lines and no problems."""
        self.file = file
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[tuple[int, Problem]] = []
        self.seen: set[int] = set()  # lists and mappings, by identity
        # Where items of a top-level list were left out: the old places of those that stayed.
        self.kept: dict[str | int, list[int]] = {}

    def line(self, path: KeyPath) -> int:
        """Return the line of a value, or of the nearest thing around it."""
        if len(path) > 1 and path[0] in self.kept and isinstance(path[1], int):
            path = (path[0], self.kept[path[0]][path[1]], *path[2:])
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def add(self, what: str, path: KeyPath, hint: str = "", *, line: int | None = None) -> None:
        """Note a problem."""
        line = line or self.line(path)
        self.problems.append((line, Problem(what, f"{self.file}:{line}", hint)))

    def settled(self, model: Model | None) -> Model:
        """Return the model. Raises ToolkitError with every problem, in the order of the lines, where there is one."""
        if self.problems or model is None:
            raise ToolkitError.gather([problem for _, problem in sorted(self.problems, key=lambda item: item[0])])
        return model


def read_strict(path: Path | str, kind: type[Model], hint: str = "") -> tuple[Model | None, Places]:
    """Read a file; return the model and the places, problems included.

    What does not fit is left out, so that the rest can be checked further and all mistakes be told at once; the model
    is None where nothing is left. `Places.settled` raises when anything was wrong.

    hint: what to type for an example of such a file

    Raises:
        ToolkitError: the file cannot be read, is not UTF-8 or not YAML, or holds no `key: value` lines.
    """
    file = Path(path).expanduser()
    places = Places(file)
    tree = _tree(_compose(file, hint), (), places)
    if not isinstance(tree, dict):
        known = ", ".join(f"`{name}:`" for name in kind.model_fields)
        raise ToolkitError(f"expected {known}", where=f"{file}:1", hint=hint)
    try:
        return kind.model_validate(tree), places
    except ValidationError as error:
        for item in error.errors():
            _explain(item, kind, places)
        try:
            return kind.model_validate(_sound_part(tree, error, places)), places
        except ValidationError:
            return None, places


def _sound_part(tree: Mapping[str, Any], error: ValidationError, places: Places) -> dict[str, Any]:
    """Return the tree without the items, or whole sections, that have an error."""
    sound = dict(tree)
    bad: dict[str | int, set[str | int]] = {}
    for item in error.errors():
        section, *rest = item["loc"]
        bad.setdefault(section, set()).add(rest[0] if rest else "")
    for section, items in bad.items():
        value = sound.pop(str(section), None)
        if isinstance(value, list) and "" not in items:
            places.kept[section] = [index for index in range(len(value)) if index not in items]
            sound[str(section)] = [value[index] for index in places.kept[section]]
        elif isinstance(value, dict) and "" not in items:
            sound[str(section)] = {name: inner for name, inner in value.items() if name not in items}
    return sound


def dotted(path: KeyPath) -> str:
    """Write a path; items of lists are counted from 1."""
    return ".".join(str(part + 1 if isinstance(part, int) else part) for part in path)


def _compose(file: Path, hint: str) -> yaml.Node | None:
    try:
        return yaml.compose(file.read_text("utf-8-sig"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise ToolkitError(f"cannot be read: {error.strerror or error}", where=file, hint=hint) from error
    except UnicodeDecodeError as error:
        raise ToolkitError("not UTF-8 text", where=file, hint="Save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{file}:{mark.line + 1}" if mark else str(file)
        advice = "A text that begins with { or [, or holds `: ` or ` #`, needs quotes"
        what = f"invalid YAML: {getattr(error, 'problem', None) or error}"
        raise ToolkitError(what, where=place, hint=advice) from error


def _tree(node: yaml.Node | None, path: KeyPath, places: Places) -> Any:
    """Turn a node into dicts, lists and texts, and note the lines."""
    if node is None:
        return None
    places.lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.ScalarNode):
        return None if node.value == "" and node.style is None else node.value
    if id(node) in places.seen:  # It may hold itself.
        places.add("a reference (*name) to a list or a mapping is not read", path, "Write it out")
        return None
    places.seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        return [_tree(item, (*path, index), places) for index, item in enumerate(node.value)]
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
        inner, line = (*path, key), key_node.start_mark.line + 1
        if key in values:
            places.add(f"{dotted(inner)} is given twice (first on line {places.lines[inner]})", inner, line=line)
            continue
        places.lines[inner] = line
        values[key] = _tree(value_node, inner, places)
        if values[key] is None and path:  # At the top, `terms:` with nothing behind it is an absent section.
            hint = "Leave it out, or write a text; a text with a comma needs quotes inside {…}"
            places.add(f"{dotted(inner)} is empty", inner, hint)
    return {key: value for key, value in values.items() if value is not None}


def _explain(item: Mapping[str, Any], kind: type[BaseModel], places: Places) -> None:
    path: KeyPath = tuple(item["loc"])
    if item["type"] == "extra_forbidden":
        known = _known_keys(kind, path[:-1])
        near = get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]}?" if near else f"Known keys: {', '.join(known)}"
        places.add(f"unknown key {dotted(path)}", path, hint)
    elif item["type"] == "missing":
        places.add(f"{dotted(path)} is missing", path)
    else:
        places.add(f"{dotted(path)}: {_expected(item)}", path)


def _known_keys(kind: Any, path: KeyPath) -> list[str]:
    """Return the keys of the model that stands at a path."""
    for part in path:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[str(part)].annotation
        else:  # tuple[Item, ...] or dict[str, Item]
            kind = get_args(kind)[0 if get_origin(kind) is tuple else 1]
    return list(kind.model_fields)


def _expected(item: Mapping[str, Any]) -> str:
    words = {
        "string_type": "expected text",
        "string_too_short": "expected text, found none",
        "tuple_type": "expected a list (`- …` lines, or [a, b])",
        "dict_type": "expected `name: …` lines",
        "model_type": "expected `key: value` lines",
        "too_short": "expected at least one",
    }
    if item["type"] == "literal_error":
        return f"expected one of {item['ctx']['expected'].replace(chr(39), '')}, found {item['input']}"
    return words.get(item["type"]) or str(item["msg"])
