"""Values out of .jsonl, .json and .parquet files, one by one, each with its place; a fault is a `Problem`.

JSON may be packed by gzip.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from toolkit.datasets.parquet import parquet_rows
from toolkit.errors import Problem, ToolkitError

MAX_LINE_BYTES = 16 * 1024 * 1024
"""A line longer than this is not an example; it is passed over in pieces, so that memory stays bounded."""

_PIECE_BYTES = 1024 * 1024

_LINE_SUFFIXES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
_LIST_SUFFIXES = (".json", ".json.gz")
DATA_SUFFIXES = (*_LINE_SUFFIXES, *_LIST_SUFFIXES, ".parquet")


def data_suffix(name: str) -> str:
    """Return which kind of data file a name says it is, `.gz` included; empty for any other file."""
    lower = name.lower()
    suffix = next((suffix for suffix in sorted(DATA_SUFFIXES, key=len, reverse=True) if lower.endswith(suffix)), "")
    return name[len(name) - len(suffix) :]


def read_values(path: Path, problems: list[Problem], *, unique_keys: bool = False) -> Iterator[tuple[str, object]]:
    """Yield (`file:line`, decoded JSON value) and append what cannot be read to `problems`.

    A byte-order mark, Windows line ends and blank lines are accepted. `.json` holds one list, whose items are numbered
    (or one object a line, like `.jsonl`). Of `.parquet` the rows are numbered. With `unique_keys` a key that stands
    twice in one object is a problem too (JSON leaves open which counts; Python takes the last and says nothing).

    Raises:
        ToolkitError: the file is missing, not a file, or of a kind that is not read.
    """
    check_data_file(path)
    suffix = data_suffix(path.name).lower()
    if suffix == ".parquet":
        yield from parquet_rows(path, problems)
    elif suffix in _LIST_SUFFIXES and not _holds_lines(path):
        yield from _list_items(path, problems, unique_keys)
    else:
        yield from _lines(path, problems, unique_keys)


def check_data_file(path: Path) -> None:
    """Raise ToolkitError unless `path` is a file of a kind that is read."""
    if not path.exists():
        raise ToolkitError("no such file", where=path)
    if not path.is_file():
        raise ToolkitError("not a file", where=path)
    if not data_suffix(path.name):
        raise ToolkitError(
            f"{path.suffix.lower() or 'a file without a suffix'} is not a kind of data file that is read",
            where=path,
            hint="Use JSON lines (.jsonl, .jsonl.gz), a JSON list (.json) or Parquet (.parquet)",
        )


def open_data(path: Path) -> IO[bytes]:
    """Open a data file's own bytes, unpacked where it ends in `.gz`."""
    if path.suffix.lower() == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))  # noqa: SIM115 - the callers close it
    return path.open("rb")


def _raw_lines(path: Path, problems: list[Problem]) -> Iterator[bytes]:
    """Yield lines with their ends, each cut after `MAX_LINE_BYTES` + 1 bytes."""
    try:
        with open_data(path) as file:
            while raw := file.readline(MAX_LINE_BYTES + 1):
                yield raw
                rest = raw if len(raw) > MAX_LINE_BYTES else b""
                while rest and not rest.endswith(b"\n"):
                    rest = file.readline(_PIECE_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        problems.append(_unreadable(path, error))


def _unreadable(path: Path, error: Exception) -> Problem:
    hint = "Pack or download the file again" if path.suffix.lower() == ".gz" else ""
    return Problem(f"cannot be read: {error}", str(path), hint)


def text_lines(path: Path, problems: list[Problem]) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end), decoded as UTF-8 and at most `MAX_LINE_BYTES` long."""
    for number, raw in enumerate(_raw_lines(path, problems), start=1):
        where = f"{path}:{number}"
        if number == 1:
            if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                problems.append(Problem("the file is UTF-16", where, "Save it as UTF-8"))
                return
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if len(raw) > MAX_LINE_BYTES:
            problems.append(Problem(f"the line is longer than {MAX_LINE_BYTES // 2**20} MiB", where))
            continue
        try:
            yield number, raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            bad = f"not UTF-8 (byte 0x{raw[error.start]:02x} at column {error.start + 1})"
            problems.append(Problem(bad, where, "Save the file as UTF-8"))


def _lines(path: Path, problems: list[Problem], unique_keys: bool) -> Iterator[tuple[str, object]]:
    for number, line in text_lines(path, problems):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = _decode(line, where, problems) if unique_keys else json.loads(line)
        except json.JSONDecodeError as error:
            hint = "One JSON object a line" if line.strip() in ("[", "{") else ""
            problems.append(Problem(f"invalid JSON: {error.msg} (column {error.colno})", where, hint))
        except (ValueError, RecursionError) as error:
            problems.append(Problem(f"invalid JSON: {error}", where))
        else:
            yield where, value


def _decode(text: str, where: str, problems: list[Problem]) -> object:
    """Decode JSON and append a problem for every key that stands twice in one object."""
    twice: dict[str, None] = {}

    def build(pairs: list[tuple[str, object]]) -> dict[str, object]:
        built = dict(pairs)
        if len(built) < len(pairs):
            names = [name for name, _ in pairs]
            twice.update((name, None) for name in built if names.count(name) > 1)
        return built

    value = json.loads(text, object_pairs_hook=build)
    problems.extend(
        Problem(f"the key {name!r} stands twice in one object", where, "Keep one of the two") for name in twice
    )
    return value


def _holds_lines(path: Path) -> bool:
    """Say whether a .json file holds one object a line, as many on the hub do: more than one, the first line whole."""
    lines = (raw for raw in _raw_lines(path, []) if raw.strip())
    first = next(lines, b"").removeprefix(b"\xef\xbb\xbf").strip()
    if not first.startswith(b"{") or next(lines, None) is None:
        return False
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return True


def _list_items(path: Path, problems: list[Problem], unique_keys: bool) -> Iterator[tuple[str, object]]:
    try:
        with open_data(path) as file:
            raw = file.read()
    except (OSError, EOFError, zlib.error) as error:
        problems.append(_unreadable(path, error))
        return
    if not raw.strip():
        return
    try:
        text = raw.decode("utf-8-sig")
        values = _decode(text, str(path), problems) if unique_keys else json.loads(text)
    except UnicodeDecodeError:
        problems.append(Problem("not UTF-8", str(path), "Save the file as UTF-8"))
        return
    except json.JSONDecodeError as error:
        problems.append(Problem(f"invalid JSON: {error.msg} (column {error.colno})", f"{path}:{error.lineno}"))
        return
    except (ValueError, RecursionError) as error:
        problems.append(Problem(f"invalid JSON: {error}", str(path)))
        return
    if not isinstance(values, list):
        hint = "Or use one object a line (.jsonl)"
        problems.append(Problem("a .json file must hold a list of examples", str(path), hint))
        return
    for number, value in enumerate(values, start=1):
        yield f"{path}:item {number}", value
