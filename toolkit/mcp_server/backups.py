"""A copy of a memory file, made while others write to it; and new files that nobody else may read."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from toolkit.atomic_files import flush_folder, write_failed
from toolkit.errors import JobFailed, ToolkitError

_BESIDE = ("-wal", "-shm", "-journal")


def write_backup(reading: Callable[[], AbstractContextManager[sqlite3.Connection]], source: Path, target: Path) -> None:
    """Copy what `reading` shows to `target`, which takes its name only when the copy is whole and checked."""
    _refuse_target(source, target)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        create_private_file(partial)
        _copy(reading, source, partial)
        os.replace(partial, target)
        flush_folder(target.parent)
    except OSError as error:
        raise write_failed(error, target) from error
    finally:
        for name in (partial.name, *(partial.name + end for end in _BESIDE)):
            with suppress(OSError):
                partial.with_name(name).unlink(missing_ok=True)


def create_private_file(path: Path) -> None:
    """Make an empty file, unless it is there, that its owner alone may read; what SQLite puts beside it is the same."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise ToolkitError("this is a folder, not a file", where=path, hint=f"Try: {path / 'memory.sqlite3'}")
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except OSError as error:
        raise write_failed(error, path) from error


def _refuse_target(source: Path, target: Path) -> None:
    if target.is_dir():
        raise ToolkitError("this is a folder", where=target, hint="Name a file in it")
    if target.exists() and os.path.samefile(target, source):
        raise ToolkitError("a backup cannot replace the memory itself", where=target, hint="Name another file")
    if any(target.with_name(target.name + end).exists() for end in _BESIDE):
        # A log that belongs to the old file would be applied to the new one.
        raise ToolkitError("this database is in use, so nothing may replace it", where=target, hint="Name another file")


def _copy(reading: Callable[[], AbstractContextManager[sqlite3.Connection]], source: Path, partial: Path) -> None:
    # In one step on one snapshot: in several, each write by another process would start the copy again.
    copy = sqlite3.connect(partial, isolation_level=None)
    try:
        with reading() as connection:
            connection.backup(copy, pages=-1)
        copy.execute("PRAGMA journal_mode = DELETE")  # so that it needs no file beside it
        faults = [row[0] for row in copy.execute("PRAGMA quick_check(5)") if row[0] != "ok"]
    finally:
        copy.close()
    if faults:
        raise JobFailed(f"the copy is damaged: {'; '.join(faults)}", where=source, hint="Type: toolkit mcp check")
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
