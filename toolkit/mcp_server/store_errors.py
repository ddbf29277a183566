"""What SQLite refuses, in words: what is wrong, where, what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit.errors import JobFailed, ToolkitError

OLDEST_SQLITE = (3, 37, 0)
BUSY_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_CHECK = "Type: toolkit mcp check; then put a backup in its place"
# Primary result codes (sqlite.org/rescode.html): what happened, and what to do.
_WORDS: dict[int, tuple[str, str]] = {
    sqlite3.SQLITE_FULL: ("the disk is full, nothing was written", "Free some space and try again"),
    sqlite3.SQLITE_READONLY: (
        "the memory can only be read, nothing was written",
        "Allow writing to the file and its folder, or choose another path",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        "the memory cannot be opened",
        "Look at the rights of the file and its folder, or choose another path",
    ),
    sqlite3.SQLITE_PERM: ("the memory may not be opened", "Look at the rights of the file and its folder"),
    sqlite3.SQLITE_IOERR: (
        "the system refused to read or write the memory, nothing was written",
        "Look for a full disk, a quota or a failing drive, and try again",
    ),
    sqlite3.SQLITE_CORRUPT: ("the memory file is damaged", _CHECK),
    sqlite3.SQLITE_NOTADB: ("this is not a memory file", "Choose another path, or put a backup in its place"),
    sqlite3.SQLITE_TOOBIG: ("the text is too long for the memory", "Cut it, or ingest it as a document"),
    sqlite3.SQLITE_NOMEM: ("there is not enough memory, nothing was written", "Close other programs and try again"),
}


def result_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code of an error (0: the error is Python's own)."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def is_busy(error: sqlite3.Error) -> bool:
    """Say whether somebody else holds a lock, so that asking again can help."""
    return result_code(error) in BUSY_CODES


def is_damage(error: BaseException | None) -> bool:
    """Say whether an error means that the file is damaged."""
    return isinstance(error, sqlite3.Error) and result_code(error) == sqlite3.SQLITE_CORRUPT


@contextmanager
def translated(path: Path, busy_timeout_seconds: float) -> Iterator[None]:
    """Turn what SQLite refuses in the `with` block into ToolkitError; our own mistakes in SQL stay what they are."""
    try:
        yield
    except sqlite3.Error as error:
        known = in_words(error, path, busy_timeout_seconds)
        if known is None:
            raise
        raise known from error


def in_words(error: sqlite3.Error, path: Path, busy_timeout_seconds: float) -> ToolkitError | None:
    """Describe an error of SQLite, or return None when it is none that a user can do something about."""
    code = result_code(error)
    if code in BUSY_CODES:
        what = f"another program has been writing to the memory for {busy_timeout_seconds:g} s, nothing was written"
        return JobFailed(what, where=path, hint="Try again; if it stays so, end that program")
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_CONSTRAINT_TRIGGER:
        hint = "Nothing was written. A person can do it: toolkit mcp --help"
        return ToolkitError(str(error), where=path, hint=hint)
    if code not in _WORDS:
        return None
    what, hint = _WORDS[code]
    return JobFailed(what, where=path, hint=hint)


def require_sqlite() -> None:
    """Raise ToolkitError unless this Python's SQLite is new enough and has full-text search."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(str(part) for part in OLDEST_SQLITE)
        what = f"this Python has SQLite {sqlite3.sqlite_version}; the memory needs {oldest} or newer"
        raise ToolkitError(what, hint="Use a newer Python, or one that brings its own SQLite (python.org, uv, conda)")
    probe = sqlite3.connect(":memory:")
    try:
        probe.execute("CREATE VIRTUAL TABLE probe USING fts5 (text)")
    except sqlite3.OperationalError as error:
        hint = "Use a Python that has it (python.org, Homebrew, uv, conda)"
        raise ToolkitError("this Python's SQLite has no full-text search (FTS5)", hint=hint) from error
    finally:
        probe.close()
