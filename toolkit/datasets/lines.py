"""JSON values out of .jsonl and .json files, one by one, each with its place; a fault is a `Problem`, no traceback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from toolkit.errors import Problem, ToolkitError

MAX_LINE_BYTES = 16 * 1024 * 1024
"""A line longer than this is not an example; reading stops there, so that memory stays bounded."""

DATA_SUFFIXES = (".jsonl", ".ndjson", ".json")


def read_values(path: Path, problems: list[Problem]) -> Iterator[tuple[str, object]]:
    """Yield (`file:line`, decoded JSON value) and append what cannot be read to `problems`.

    A byte-order mark, Windows line ends and blank lines are accepted. `.json` holds one list, whose items are numbered.

    Raises:
        ToolkitError: the file is missing, not a file, or of a kind that is not read.
    """
    check_data_file(path)
    if path.suffix.lower() == ".json":
        yield from _list_items(path, problems)
    else:
        yield from _lines(path, problems)


def check_data_file(path: Path) -> None:
    """Raise ToolkitError unless `path` is a file of a kind that is read."""
    if not path.exists():
        raise ToolkitError("no such file", where=path)
    if not path.is_file():
        raise ToolkitError("not a file", where=path)
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".arrow"):
        write = "pandas.read_parquet(FILE).to_json(OUT, orient='records', lines=True)"
        raise ToolkitError(
            f"{suffix} files are not read yet", where=path, hint=f"Write it as JSON lines, for example with {write}"
        )
    if suffix not in DATA_SUFFIXES:
        raise ToolkitError(
            f"{suffix or 'a file without a suffix'} is not a kind of data file that is read",
            where=path,
            hint="Use JSON lines (.jsonl) or a JSON list (.json)",
        )


def text_lines(path: Path, problems: list[Problem]) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end), decoded as UTF-8 and at most `MAX_LINE_BYTES` long."""
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            where = f"{path}:{number}"
            if number == 1:
                if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                    problems.append(Problem("the file is UTF-16", where, "Save it as UTF-8"))
                    return
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if len(raw) > MAX_LINE_BYTES:
                problems.append(Problem(f"the line is longer than {MAX_LINE_BYTES // 2**20} MiB", where))
                return
            try:
                yield number, raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                bad = f"not UTF-8 (byte 0x{raw[error.start]:02x} at column {error.start + 1})"
                problems.append(Problem(bad, where, "Save the file as UTF-8"))


def _lines(path: Path, problems: list[Problem]) -> Iterator[tuple[str, object]]:
    for number, line in text_lines(path, problems):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            hint = "One JSON object a line" if line.strip() in ("[", "{") else ""
            problems.append(Problem(f"invalid JSON: {error.msg} (column {error.colno})", where, hint))
        except (ValueError, RecursionError) as error:
            problems.append(Problem(f"invalid JSON: {error}", where))
        else:
            yield where, value


def _list_items(path: Path, problems: list[Problem]) -> Iterator[tuple[str, object]]:
    raw = path.read_bytes()
    if not raw.strip():
        return
    try:
        values = json.loads(raw.decode("utf-8-sig"))
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
