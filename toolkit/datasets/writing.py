"""Records into .jsonl, .json and .parquet files (JSON gzipped where the name ends in .gz): whole or not at all."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, cast

from toolkit.atomic_files import open_atomic, write_failed
from toolkit.datasets.lines import DATA_SUFFIXES, data_suffix
from toolkit.errors import JobFailed, ToolkitError


def check_output(path: Path, *, overwrite: bool, sources: Iterable[Path] = ()) -> None:
    """Raise ToolkitError unless records can be written to `path`: its name, its place, and nothing there to lose."""
    if not data_suffix(path.name):
        hint = f"End the name in {', '.join(DATA_SUFFIXES[:1])}, .json or .parquet"
        raise ToolkitError("the name does not say which kind of file to write", where=path, hint=hint)
    if any(path.resolve() == source.resolve() for source in sources):
        raise ToolkitError("this file is read: nothing is rewritten in place", where=path, hint="Name another file")
    if path.exists() and not overwrite:
        raise ToolkitError("the file exists", where=path, hint="Name another one, or add --overwrite")


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Write records in order and return how many there were; a missing folder is made.

    Two equal sequences give equal bytes. A .json file is a list with a record a line. In Parquet, where a column has
    one type, tools and the arguments of calls are JSON text, which is read back as what it was.

    Raises:
        ToolkitError: a record holds what the file's kind cannot (Parquet wants one type for one field).
        JobFailed: the system refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_failed(error, path) from error
    if data_suffix(path.name).lower() == ".parquet":
        return _write_parquet(path, list(records))
    with open_atomic(path) as file:
        if path.suffix.lower() != ".gz":
            return _write_json(file, path, records)
        # No name and no time in the header, so that equal records give equal bytes.
        with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
            return _write_json(cast("IO[bytes]", packed), path, records)


def record_line(record: Mapping[str, Any]) -> str:
    """Return a record as one line of JSON, without its end."""
    return json.dumps(record, ensure_ascii=False)


def _write_json(file: IO[bytes], path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    is_list = data_suffix(path.name).lower() in (".json", ".json.gz")
    count = 0
    for record in records:
        before = ("[\n" if count == 0 else ",\n") if is_list else ""
        file.write(f"{before}{record_line(record)}{'' if is_list else chr(10)}".encode())
        count += 1
    if is_list:
        file.write(b"\n]\n" if count else b"[]\n")
    return count


def _write_parquet(path: Path, records: list[Mapping[str, Any]]) -> int:
    import pyarrow
    from pyarrow import parquet

    names = list(dict.fromkeys(name for record in records for name in record))
    try:
        columns = {name: pyarrow.array([_flat(name, record.get(name)) for record in records]) for name in names}
        table = pyarrow.table(columns)
    except (pyarrow.ArrowException, TypeError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        hint = "Write .jsonl instead: there a field may differ from record to record"
        raise ToolkitError(f"Parquet cannot hold these records: {reason}", where=path, hint=hint) from error
    with open_atomic(path) as file:
        try:
            parquet.write_table(table, file)
        except pyarrow.ArrowException as error:
            raise JobFailed(f"cannot write Parquet: {error}", where=path) from error
    return len(records)


def _flat(name: str, value: Any) -> Any:
    if name in ("tools", "functions") and value is not None and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return [_flat_turn(turn) if isinstance(turn, dict) else turn for turn in value]
    return value


def _flat_turn(turn: dict[str, Any]) -> dict[str, Any]:
    calls = turn.get("tool_calls")
    if not isinstance(calls, list):
        return turn
    return {**turn, "tool_calls": [_flat_call(call) for call in calls]}


def _flat_call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), dict):
        return call
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}
