"""Rows out of Parquet files as plain Python values, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolkit.errors import Problem

# Rows decoded at once: a row is at most a conversation, so this stays in the megabytes.
_BATCH_ROWS = 512


def parquet_rows(path: Path, problems: list[Problem]) -> Iterator[tuple[str, object]]:
    """Yield (`file:row N`, row) with rows counted from 1, and append what cannot be read to `problems`.

    Inside a column, fields that are null are left out: Parquet gives every struct of a column all the fields that any
    of them has, so a null there says no more than that the field is missing.
    """
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for row in batch.to_pylist(maps_as_pydicts="strict"):
                    number += 1
                    yield f"{path}:row {number}", {name: _without_nulls(value) for name, value in row.items()}
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        place = f"{path}:row {number + 1}" if number else str(path)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        problems.append(Problem(f"cannot be read as Parquet: {reason}", place, "Write or download the file again"))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value
