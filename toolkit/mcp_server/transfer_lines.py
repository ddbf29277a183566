"""The lines of an exported memory, read and checked: every mistake with its line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from toolkit.errors import Problem, ToolkitError
from toolkit.mcp_server.exporting import FORMAT, FORMAT_VERSION
from toolkit.mcp_server.items import (
    NAMESPACE,
    HistoryEntry,
    Item,
    Link,
    checked_draft,
    checked_relation,
    estimated_tokens,
)
from toolkit.preservation import Preservation

MOST_PROBLEMS = 100
MAX_LINE_BYTES = 16_777_216
ITEM_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_EXPORT_HINT = "Write one with: toolkit mcp export"


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Item(_Line):
    kind: Literal["item"]
    id: str
    namespace: str
    text: str
    preservation: Preservation
    tags: list[str] = []
    metadata: dict[str, Any] = {}
    source: str | None = None
    created_at: AwareDatetime = Field(strict=False)
    updated_at: AwareDatetime = Field(strict=False)
    last_used_at: AwareDatetime | None = Field(default=None, strict=False)
    use_count: int = Field(default=0, ge=0)
    expires_at: AwareDatetime | None = Field(default=None, strict=False)
    version: int = Field(default=1, ge=1)


class _History(_Line):
    kind: Literal["history"]
    item_id: str
    version: int = Field(ge=1)
    operation: str
    at: AwareDatetime = Field(strict=False)
    by_person: bool = False
    reason: str = ""
    successor: str | None = None
    namespace: str
    text: str
    preservation: Preservation
    tags: list[str] = []
    metadata: dict[str, Any] = {}
    source: str | None = None
    expires_at: AwareDatetime | None = Field(default=None, strict=False)
    updated_at: AwareDatetime = Field(strict=False)


class _Link(_Line):
    kind: Literal["link"]
    source_id: str
    relation: str
    target_id: str
    created_at: AwareDatetime = Field(strict=False)


_KINDS: dict[str, type[_Line]] = {"item": _Item, "history": _History, "link": _Link}


@dataclass(frozen=True)
class ReadLine:
    """A checked line: its number, and what is on it."""

    number: int
    content: Item | HistoryEntry | Link


class Faults:
    """Problems found so far; only the first ones are kept, all are counted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._kept: list[Problem] = []

    def add(self, number: int, what: str, hint: str = "") -> None:
        """Note a problem of a line."""
        self.count += 1
        if len(self._kept) < MOST_PROBLEMS:
            self._kept.append(Problem(what, f"{self.path}:{number}", hint))

    def raise_any(self) -> None:
        """Raise ToolkitError with all problems, if there are any."""
        if not self.count:
            return
        kept = list(self._kept)
        if self.count > len(kept):
            kept.append(Problem(f"{self.count - len(kept)} more problems", str(self.path)))
        raise ToolkitError.gather(kept)


def read_lines(path: Path, faults: Faults) -> Iterator[ReadLine]:
    """Yield the checked lines of an exported memory, one at a time; what is wrong goes into `faults`.

    Raises ToolkitError when the file cannot be read, or is no exported memory.
    """
    try:
        with path.open("rb") as file:
            _check_header(path, file.readline(MAX_LINE_BYTES))
            number = 1
            while raw := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(raw) > MAX_LINE_BYTES:
                    faults.add(number, f"the line is longer than {MAX_LINE_BYTES:,} bytes")
                    return
                if raw.strip():
                    content = _content(raw, number, faults)
                    if content is not None:
                        yield ReadLine(number, content)
    except OSError as error:
        raise ToolkitError(f"cannot read: {error.strerror or error}", where=path) from error


def _check_header(path: Path, raw: bytes) -> None:
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ToolkitError("this is not an exported memory", where=f"{path}:1", hint=_EXPORT_HINT)
    if header.get("version") != FORMAT_VERSION:
        what = f"the export has version {header.get('version')!r}; this toolkit reads {FORMAT_VERSION}"
        raise ToolkitError(what, where=f"{path}:1", hint="Update the toolkit")


def _content(raw: bytes, number: int, faults: Faults) -> Item | HistoryEntry | Link | None:
    try:
        values = json.loads(raw)
    except (ValueError, RecursionError) as error:
        faults.add(number, f"not a JSON object: {error}")
        return None
    kind = values.get("kind") if isinstance(values, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        faults.add(number, f"kind is {kind!r}; expected {', '.join(_KINDS)}")
        return None
    try:
        line = _KINDS[kind].model_validate(values)
    except ValidationError as error:
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"])
            faults.add(number, f"{key}: {str(item['msg']).replace('Input should', 'it should')}")
        return None
    try:
        return _made(line)
    except ToolkitError as error:
        for problem in error.problems:
            faults.add(number, problem.what)
        return None


def _made(line: _Line) -> Item | HistoryEntry | Link:
    if isinstance(line, _Item):
        return _item(line)
    if isinstance(line, _History):
        return _history(line)
    assert isinstance(line, _Link)
    _check_ids(line.source_id, line.target_id)
    if line.source_id == line.target_id:
        raise ToolkitError("an item is not linked with itself")
    return Link(line.source_id, checked_relation(line.relation), line.target_id, line.created_at)


def _item(line: _Item) -> Item:
    _check_ids(line.id)
    _check_namespace(line.namespace)
    draft = checked_draft(line.text, line.tags, line.metadata, line.source)
    if line.expires_at is not None and line.preservation != "flexible":
        raise ToolkitError(f"a {line.preservation} item does not expire")
    return Item(
        id=line.id,
        namespace=line.namespace,
        text=draft.text,
        preservation=line.preservation,
        tags=draft.tags,
        metadata=draft.metadata,
        source=draft.source,
        created_at=line.created_at,
        updated_at=line.updated_at,
        last_used_at=line.last_used_at or line.created_at,
        use_count=line.use_count,
        expires_at=line.expires_at,
        version=line.version,
        tokens=estimated_tokens(draft.text),
    )


def _history(line: _History) -> HistoryEntry:
    _check_ids(line.item_id, *([line.successor] if line.successor is not None else []))
    _check_namespace(line.namespace)
    # A forgotten item's line has no text; what else is on it is checked all the same.
    draft = checked_draft(line.text or "-", line.tags, line.metadata, line.source)
    names = checked_draft(line.operation, (), None, line.reason)
    return HistoryEntry(
        item_id=line.item_id,
        version=line.version,
        operation=names.text,
        at=line.at,
        by_person=line.by_person,
        reason=line.reason,
        successor=line.successor,
        namespace=line.namespace,
        text=line.text,
        preservation=line.preservation,
        tags=draft.tags,
        metadata=draft.metadata,
        source=draft.source,
        expires_at=line.expires_at,
        updated_at=line.updated_at,
    )


def _check_ids(*ids: str) -> None:
    for one in ids:
        if not ITEM_ID.fullmatch(one):
            raise ToolkitError(f"{one[:80]!a} cannot be an id: letters, digits, - and _, up to 64")


def _check_namespace(name: str) -> None:
    if not NAMESPACE.fullmatch(name):
        raise ToolkitError(f"{name[:80]!a} cannot be a namespace")
