"""What the memory keeps: one item, its former versions, and the checks that a new one has to pass."""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock
from typing import Any

from toolkit.errors import Problem, ToolkitError
from toolkit.preservation import Preservation

MAX_TEXT_BYTES = 1_048_576
MAX_TAGS = 64
MAX_TAG_CHARACTERS = 100
MAX_METADATA_BYTES = 65_536
MAX_METADATA_DEPTH = 20
MAX_SOURCE_CHARACTERS = 2_000
MAX_RELATION_CHARACTERS = 100
NAMESPACE = re.compile(r"[a-z0-9][a-z0-9._/-]{0,63}")
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@dataclass(frozen=True)
class Item:
    """One thing that is remembered.

    id:           time-ordered text, so that newer items sort behind older ones
    preservation: what may happen to it (`toolkit.preservation`)
    metadata:     anything in JSON
    last_used_at: when it was last read or found; at first, when it was stored
    expires_at:   flexible items alone may have one
    version:      1 when stored, one more with every change of anything but its use
    tokens:       about how much of a model's context it takes (`estimated_tokens`)

    All times are aware and in UTC.
    """

    id: str
    namespace: str
    text: str
    preservation: Preservation
    tags: tuple[str, ...]
    metadata: Mapping[str, Any] = field(hash=False)
    source: str | None
    created_at: datetime
    updated_at: datetime
    last_used_at: datetime
    use_count: int
    expires_at: datetime | None
    version: int
    tokens: int


@dataclass(frozen=True)
class HistoryEntry:
    """A former version of an item, and what ended it.

    operation: update | condense | merge | duplicate (one that was offered again, as it was offered) | delete | expire |
               evict | forget. Of the last four only this line is left: their `text` is empty.
    at:        when it was ended
    successor: the item that it was merged into
    """

    item_id: str
    version: int
    operation: str
    at: datetime
    by_person: bool
    reason: str
    successor: str | None
    namespace: str
    text: str
    preservation: Preservation
    tags: tuple[str, ...]
    metadata: Mapping[str, Any] = field(hash=False)
    source: str | None
    expires_at: datetime | None
    updated_at: datetime


@dataclass(frozen=True)
class Link:
    """Two items that belong together; read as a sentence: source, relation, target."""

    source_id: str
    relation: str
    target_id: str
    created_at: datetime


@dataclass(frozen=True)
class Draft:
    """The checked fields of an item that is to be written."""

    text: str
    tags: tuple[str, ...]
    metadata: Mapping[str, Any] = field(hash=False)
    source: str | None = None


def is_over(item: Item, now: datetime) -> bool:
    """Say whether an item's time has come: nobody is shown it any more, though it may still have to be cleared away."""
    return item.expires_at is not None and item.expires_at <= now


def checked_draft(
    text: object, tags: object = (), metadata: object = None, source: object = None, *, where: str = ""
) -> Draft:
    """Check what a client wants to keep and return it: tags sorted, each once. Raises ToolkitError with all faults."""
    problems = [*_text_problems(text, where)]
    kept_tags: tuple[str, ...] = ()
    if isinstance(tags, Iterable) and not isinstance(tags, str | bytes | Mapping):
        given = list(tags)
        tag_problems = _tag_problems(given, where)
        problems += tag_problems
        if not tag_problems:
            kept_tags = tuple(sorted({_clean_tag(tag) for tag in given}))
    else:
        problems.append(Problem("the tags are not a list of text", where))
    problems += _metadata_problems({} if metadata is None else metadata, where)
    problems += _source_problems(source, where)
    if problems:
        raise ToolkitError.gather(problems)
    assert isinstance(text, str)
    kept_metadata = json.loads(metadata_text(metadata)) if isinstance(metadata, Mapping) else {}
    return Draft(text, kept_tags, kept_metadata, source if isinstance(source, str) else None)


def _text_problems(text: object, where: str) -> list[Problem]:
    if not isinstance(text, str):
        return [Problem(f"the text is {type(text).__name__}, not text", where)]
    fault = _unstorable(text)
    if fault:
        return [Problem(f"the text holds {fault}", where, "Take it out and try again")]
    if not text.strip():
        return [Problem("the text is empty", where)]
    size = len(text.encode("utf-8"))
    if size > MAX_TEXT_BYTES:
        hint = "Store it in parts, or ingest it as a document"
        return [Problem(f"the text has {size:,} bytes; at most {MAX_TEXT_BYTES:,} are kept in one item", where, hint)]
    return []


def _unstorable(text: str) -> str:
    place = text.find("\0")
    if place >= 0:
        return f"a NUL character (at position {place})"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"half a surrogate pair (at position {error.start}), which is no character"
    return ""


def _clean_tag(tag: str) -> str:
    return unicodedata.normalize("NFC", tag).strip()


def _tag_problems(tags: list[object], where: str) -> list[Problem]:
    problems = []
    if len(tags) > MAX_TAGS:
        problems.append(Problem(f"{len(tags)} tags; an item has at most {MAX_TAGS}", where))
    for tag in tags[:MAX_TAGS]:
        if not isinstance(tag, str):
            problems.append(Problem(f"the tag {tag!r} is not text", where))
        elif _unstorable(tag) or not tag.strip() or any(unicodedata.category(one) == "Cc" for one in tag):
            problems.append(Problem(f"the tag {tag!a} is empty or holds a control character", where))
        elif len(_clean_tag(tag)) > MAX_TAG_CHARACTERS:
            problems.append(Problem(f"the tag {tag[:20]!r}… is longer than {MAX_TAG_CHARACTERS} characters", where))
    return problems


def _metadata_problems(metadata: object, where: str) -> list[Problem]:
    if not isinstance(metadata, Mapping):
        return [Problem("the metadata is not a JSON object", where)]
    if _depth(metadata) > MAX_METADATA_DEPTH:
        return [Problem(f"the metadata is nested more than {MAX_METADATA_DEPTH} deep", where)]
    try:
        text = metadata_text(metadata)
    except (TypeError, ValueError) as error:
        return [Problem(f"the metadata cannot be written as JSON: {error}", where)]
    fault = _unstorable(text) or ("a NUL character" if "\\u0000" in text else "")
    if fault:
        return [Problem(f"the metadata holds {fault}", where)]
    size = len(text.encode("utf-8"))
    if size > MAX_METADATA_BYTES:
        return [Problem(f"the metadata has {size:,} bytes as JSON; at most {MAX_METADATA_BYTES:,} are kept", where)]
    return []


def _depth(value: object) -> int:
    # Level by level, so that what is nested too deep cannot exhaust the stack.
    level, depth = [value], 0
    while level and depth <= MAX_METADATA_DEPTH:
        depth += 1
        inner: list[object] = []
        for one in level:
            inner += one.values() if isinstance(one, Mapping) else one if isinstance(one, list | tuple) else []
        level = inner
    return depth


def _source_problems(source: object, where: str) -> list[Problem]:
    if source is None:
        return []
    if not isinstance(source, str):
        return [Problem("the source is not text", where)]
    if fault := _unstorable(source):
        return [Problem(f"the source holds {fault}", where)]
    if len(source) > MAX_SOURCE_CHARACTERS:
        return [Problem(f"the source is longer than {MAX_SOURCE_CHARACTERS:,} characters", where)]
    return []


def checked_relation(relation: object) -> str:
    """Return the name of a link. Raises ToolkitError unless it is a short line of text."""
    if (
        not isinstance(relation, str)
        or not relation.strip()
        or _unstorable(relation)
        or len(relation) > MAX_RELATION_CHARACTERS
        or any(unicodedata.category(one) == "Cc" for one in relation)
    ):
        what = f"a relation is one line of up to {MAX_RELATION_CHARACTERS} characters"
        raise ToolkitError(what, hint="For example: supports, replaces, about")
    return unicodedata.normalize("NFC", relation).strip()


def metadata_text(metadata: object) -> str:
    """Write metadata as the file keeps it: JSON with sorted keys. Raises TypeError or ValueError."""
    if isinstance(metadata, Mapping) and not all(isinstance(key, str) for key in metadata):
        raise TypeError("a key is not text")
    return json.dumps(metadata, ensure_ascii=False, sort_keys=True, allow_nan=False, separators=(",", ":"))


def fingerprint(text: str) -> str:
    """Return the SHA-256 of a text as duplicates are told by: NFC, newlines alone, no blanks at the ends of lines.

    Blanks at the beginning of a line count, since they mean something in code.
    """
    lines = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    normalised = "\n".join(line.rstrip() for line in lines).strip("\n")
    return hashlib.sha256(normalised.encode("utf-8")).hexdigest()


def estimated_tokens(text: str) -> int:
    """Say about how many tokens a model makes of a text: a third of its UTF-8 bytes, rounded up.

    English prose has rather four bytes a token, code three; the estimate errs on the high side, so that a budget holds.
    """
    return -(-len(text.encode("utf-8")) // 3)


def time_text(moment: datetime) -> str:
    """Write a time as the file keeps it: UTC, microseconds, so that text order is time order."""
    if moment.tzinfo is None:
        raise ToolkitError(f"the time {moment.isoformat()} has no time zone", hint="For example: 2027-01-31T12:00:00Z")
    try:
        return moment.astimezone(UTC).isoformat(timespec="microseconds")
    except OverflowError as error:
        raise ToolkitError(f"the time {moment.isoformat()} is out of range") from error


def read_time(text: str) -> datetime:
    """Read what `time_text` wrote."""
    return datetime.fromisoformat(text)


class ItemIds:
    """Makes ids of 26 characters: the first ten are the time in milliseconds, the others random (a ULID).

    Those of one maker sort as they were made, within a millisecond too. Safe to use from many threads.
    """

    def __init__(self) -> None:
        self._last = 0
        self._lock = Lock()

    def __call__(self, moment: datetime) -> str:
        """Return a new id for an item that is made at `moment`."""
        milliseconds = int(moment.timestamp() * 1000)
        with self._lock:
            if self._last >> 80 == milliseconds:
                number = self._last + 1 + int.from_bytes(os.urandom(4), "big")
            else:
                number = milliseconds << 80 | int.from_bytes(os.urandom(10), "big")
            self._last = number
        return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


new_item_id = ItemIds()
"""The maker of this process."""
