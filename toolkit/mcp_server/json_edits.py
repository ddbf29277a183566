"""Adding and removing one entry in a JSON file that belongs to somebody else: every other byte stays as it is.

Parsing a file and writing it anew would reformat it, drop comments and duplicate keys, and respell numbers. Here the
text is parsed only to find where an object ends; the entry is spliced in. Comments and trailing commas (the dialect
of VS Code's files) are blanked out in a copy of equal length, so that the places found in the copy hold in the text.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from toolkit.errors import ToolkitError

_SPACE = re.compile(r"[ \t\r\n]*")
_COMMENT_OR_STRING = re.compile(r'"(?:\\.|[^"\\])*"|//[^\r\n]*|/\*.*?\*/', re.DOTALL)
_TRAILING_COMMA = re.compile(r'"(?:\\.|[^"\\])*"|,(?=[ \t\r\n]*[}\]])', re.DOTALL)
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Member:
    """One `"key": value` of an object: the key, its value, and where both lie in the text (offsets in characters)."""

    key: str
    value: Any
    begin: int
    value_begin: int
    end: int


def with_entry(text: str, section: str, name: str, entry: dict[str, Any], *, comments: bool = False) -> str:
    """Return `text` with `section.name` set to `entry`; both are made where they are missing.

    `comments` says whether the file's reader takes comments and trailing commas. Raises ToolkitError (without a
    place) when the text is not JSON, holds a key twice where it matters, or has something else under `section`.
    """
    if not text.strip("\ufeff \t\r\n"):
        return _fresh(text, section, name, entry)
    plain = _plain(text, comments)
    unit, newline = _indent(text), "\r\n" if "\r\n" in text else "\n"
    root = _start(plain)
    found = _member(plain, root, section)
    if found is None:
        return _insert(text, plain, root, section, {name: entry}, (unit, newline), 1)
    if not isinstance(found.value, dict):
        raise ToolkitError(f"{section!r} is not an object", hint="Mend the file by hand, or remove that key")
    old = _member(plain, found.value_begin, name)
    if old is None:
        return _insert(text, plain, found.value_begin, name, entry, (unit, newline), 2)
    if old.value == entry:
        return text
    return text[: old.value_begin] + _written(entry, unit, newline, 2) + text[old.end :]


def without_entry(text: str, section: str, name: str, *, comments: bool = False) -> str:
    """Return `text` without `section.name`, and without `section` where nothing else is left in it.

    A text that has no such entry comes back as it is. Raises ToolkitError like `with_entry`.
    """
    if not text.strip("\ufeff \t\r\n"):
        return text
    plain = _plain(text, comments)
    root = _start(plain)
    found = _member(plain, root, section)
    if found is None or not isinstance(found.value, dict) or name not in found.value:
        return text
    if len(found.value) == 1 and not _has_comment(text, plain, found.value_begin, found.end):
        return _cut(text, plain, root, section)
    return _cut(text, plain, found.value_begin, name)


def entry_of(text: str, section: str, name: str, *, comments: bool = False) -> dict[str, Any] | None:
    """Return what stands under `section.name`, or None."""
    if not text.strip("\ufeff \t\r\n"):
        return None
    plain = _plain(text, comments)
    found = _member(plain, _start(plain), section)
    value = found.value.get(name) if found is not None and isinstance(found.value, dict) else None
    return value if isinstance(value, dict) else None


def _plain(text: str, comments: bool) -> str:
    """Return strict JSON of the same length, or raise ToolkitError."""
    body = text.replace("\ufeff", " ", 1) if text.startswith("\ufeff") else text
    if comments:
        body = _COMMENT_OR_STRING.sub(lambda found: _blank(found[0]), body)
        body = _TRAILING_COMMA.sub(lambda found: " " if found[0] == "," else found[0], body)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ToolkitError(f"not valid JSON: {error}", hint="Mend the file first; it was left as it is") from error
    if not isinstance(value, dict):
        raise ToolkitError("not a JSON object", hint="Mend the file first; it was left as it is")
    return body


def _blank(token: str) -> str:
    return token if token.startswith('"') else re.sub(r"[^\r\n]", " ", token)


def _has_comment(text: str, plain: str, begin: int, end: int) -> bool:
    return text[begin:end] != plain[begin:end]


def _start(plain: str) -> int:
    return plain.index("{")


def _members(plain: str, begin: int) -> list[Member]:
    """Return the members of the object that opens at `begin`."""
    found = []
    place = _skip(plain, begin + 1)
    while plain[place] != "}":
        key, after = _DECODER.raw_decode(plain, place)
        value_begin = _skip(plain, _skip(plain, after) + 1)
        value, end = _DECODER.raw_decode(plain, value_begin)
        found.append(Member(key, value, place, value_begin, end))
        place = _skip(plain, end)
        if plain[place] == ",":
            place = _skip(plain, place + 1)
    return found


def _member(plain: str, begin: int, key: str) -> Member | None:
    found = [member for member in _members(plain, begin) if member.key == key]
    if len(found) > 1:
        raise ToolkitError(f"the key {key!r} stands in it twice", hint="Mend the file first; it was left as it is")
    return found[0] if found else None


def _skip(plain: str, place: int) -> int:
    found = _SPACE.match(plain, place)
    return found.end() if found else place


def _insert(text: str, plain: str, begin: int, key: str, value: Any, style: tuple[str, str], depth: int) -> str:
    """Add a member behind the last one of the object that opens at `begin`."""
    unit, newline = style
    members = _members(plain, begin)
    line = f"{newline}{unit * depth}{json.dumps(key, ensure_ascii=False)}: {_written(value, unit, newline, depth)}"
    if members:
        end = members[-1].end  # a trailing comma stays behind the new member, and trails it
        return f"{text[:end]},{line}{text[end:]}"
    closing = _skip(plain, begin + 1)
    if not text[begin + 1 : closing].strip():
        return f"{text[: begin + 1]}{line}{newline}{unit * (depth - 1)}{text[closing:]}"
    return f"{text[: begin + 1]}{line}{text[begin + 1 :]}"


def _cut(text: str, plain: str, begin: int, key: str) -> str:
    """Take a member out of the object that opens at `begin`, with the comma that parted it from its neighbour."""
    members = _members(plain, begin)
    place = next(index for index, member in enumerate(members) if member.key == key)
    member = members[place]
    if place > 0:  # from behind the member before it, which takes the comma and the line break along
        before = members[place - 1].end
        comma = plain.index(",", before)
        return text[:comma] + text[comma + 1 : _line_begin(text, member.begin, comma + 1)] + text[member.end :]
    after = _skip(plain, member.end)
    if plain[after] == ",":
        following = members[place + 1].begin
        return text[: member.begin] + text[following:]
    inside = text[begin + 1 : member.begin] + text[member.end : after]
    return text[: begin + 1] + (inside if inside.strip() else "") + text[after:]


def _line_begin(text: str, place: int, lowest: int) -> int:
    """Return where the white space before `place` begins, at `lowest` or behind it."""
    while place > lowest and text[place - 1] in " \t\r\n":
        place -= 1
    return place


def _indent(text: str) -> str:
    found = re.search(r"^([ \t]+)\"", text, re.MULTILINE)
    return found[1] if found else "  "


def _written(value: Any, unit: str, newline: str, depth: int) -> str:
    lines = json.dumps(value, indent=unit, ensure_ascii=False).split("\n")
    return f"{newline}{unit * depth}".join(lines)


def _fresh(text: str, section: str, name: str, entry: dict[str, Any]) -> str:
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    return mark + json.dumps({section: {name: entry}}, indent=2, ensure_ascii=False) + "\n"
