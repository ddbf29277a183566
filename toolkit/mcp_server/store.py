"""The memory file: one SQLite database that several programs use at once and that a crash cannot spoil.

Write-ahead logging lets readers go on while one writer works; a commit is on the disk before it is acknowledged
(`synchronous = FULL`). Each thread has a connection of its own. Writers queue: within this process for a lock, across
processes for SQLite's, which is asked again until `busy_timeout_seconds` have passed.

Everything that SQLite refuses (a full disk, a file that can only be read, a lock that never comes free, a damaged file)
leaves as one ToolkitError, after the transaction was rolled back.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from toolkit.errors import JobFailed, ToolkitError
from toolkit.home import toolkit_home
from toolkit.mcp_server.backups import create_private_file, write_backup
from toolkit.mcp_server.migrations import APPLICATION_ID, MIGRATIONS, apply_migrations, file_version
from toolkit.mcp_server.store_checks import find_faults
from toolkit.mcp_server.store_errors import is_busy, is_damage, require_sqlite, translated

STORE_NAME = "memory.sqlite3"
POLL_SECONDS = 0.05
"""How long SQLite itself waits for a lock before it is asked anew: its own waits grow to 100 ms, and lose the race."""

T = TypeVar("T")


def default_store_path() -> Path:
    """Return where the memory is kept unless a place is given."""
    return toolkit_home() / STORE_NAME


@dataclass
class _Session:
    """One thread's connection, and what the thread is doing with it."""

    connection: sqlite3.Connection
    thread: threading.Thread
    doing: str = ""  # "", "reading" or "writing"
    depth: int = 0


class Store:
    """An open memory file.

    path:                 created with its folder, readable by its owner alone, when it is not there
    busy_timeout_seconds: how long a write waits for others before it gives up

    Raises ToolkitError when the file is not a memory, is newer than this toolkit, or cannot be opened.
    """

    def __init__(
        self, path: Path, *, busy_timeout_seconds: float = 30.0, migrations: Sequence[str] = MIGRATIONS
    ) -> None:
        require_sqlite()
        self.path = Path(path)
        self.busy_timeout_seconds = busy_timeout_seconds
        self._local = threading.local()
        self._sessions: list[_Session] = []
        self._registry = threading.Lock()
        self._writers = threading.RLock()
        self._watching = threading.Lock()
        self._watcher: sqlite3.Connection | None = None
        self._closed = False
        create_private_file(self.path)
        try:
            self._prepare(migrations)
        except BaseException:
            self.close()
            raise

    def _prepare(self, migrations: Sequence[str]) -> None:
        connection = self._session().connection
        with translated(self.path, self.busy_timeout_seconds):
            version = self._retried(lambda: file_version(connection))
            self._refuse_foreign(connection, version, len(migrations))
            if self._retried(lambda: connection.execute("PRAGMA journal_mode").fetchone()[0]) != "wal":
                self._use_wal(connection)
        if version < len(migrations):
            with self.writing() as connection:
                # Another process may have been faster: both are decided on the file as it is now, under the lock.
                self._refuse_foreign(connection, file_version(connection), len(migrations))
                apply_migrations(connection, migrations)

    def _refuse_foreign(self, connection: sqlite3.Connection, version: int, known: int) -> None:
        marked = self._retried(lambda: connection.execute("PRAGMA application_id").fetchone()[0])
        has_tables = self._retried(lambda: connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]) > 0
        if (has_tables or version) and marked != APPLICATION_ID:
            hint = "Choose another path; nothing was changed"
            raise ToolkitError("this SQLite file belongs to another program", where=self.path, hint=hint)
        if version > known:
            what = f"this memory was written by a newer toolkit (file version {version}, known here up to {known})"
            hint = "Update the toolkit, or open a backup made before the update; nothing was changed"
            raise ToolkitError(what, where=self.path, hint=hint)

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        mode = self._retried(lambda: connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        if mode != "wal":
            hint = "Put it on a local disk: set TOOLKIT_HOME, or name another path"
            what = "this file system cannot hold a file that several programs write"
            raise ToolkitError(what, where=self.path, hint=hint)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield this thread's connection on one consistent snapshot of the file. Nested use joins the outer one.

        A statement that writes is refused: a read ends in a rollback, so the change would be lost in silence.
        """
        session = self._session()
        if session.depth:
            with self._nested(session):
                yield session.connection
            return
        connection = session.connection
        with translated(self.path, self.busy_timeout_seconds):
            self._retried(lambda: _begin_snapshot(connection))
            session.doing, session.depth = "reading", 1
            try:
                connection.execute("PRAGMA query_only = ON")
                yield connection
            finally:
                session.doing, session.depth = "", 0
                _rollback(connection)
                with suppress(sqlite3.ProgrammingError):
                    connection.execute("PRAGMA query_only = OFF")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Yield this thread's connection in a write transaction: committed at the end, rolled back on any exception.

        When the `with` block has ended, the change is on the disk. Nested use joins the outer transaction; an
        exception undoes what the inner block wrote, whoever catches it.
        """
        session = self._session()
        if session.doing == "reading":
            raise RuntimeError("a write cannot begin inside a read: its snapshot may be out of date")
        if session.depth:
            with self._nested(session), _savepoint(session.connection):
                yield session.connection
            return
        with translated(self.path, self.busy_timeout_seconds), self._turn(), self._transaction(session) as connection:
            yield connection

    @contextmanager
    def _transaction(self, session: _Session) -> Iterator[sqlite3.Connection]:
        connection = session.connection
        self._retried(lambda: connection.execute("BEGIN IMMEDIATE"))
        session.doing, session.depth = "writing", 1
        try:
            yield connection
            if not connection.in_transaction:  # SQLite itself rolled back, and someone swallowed the reason
                raise JobFailed("the write was rolled back", where=self.path, hint="Try again")
            self._retried(lambda: connection.execute("COMMIT"))
        finally:
            session.doing, session.depth = "", 0
            _rollback(connection)

    @contextmanager
    def _nested(self, session: _Session) -> Iterator[None]:
        session.depth += 1
        try:
            yield
        finally:
            session.depth -= 1

    @contextmanager
    def _turn(self) -> Iterator[None]:
        # Threads of this process queue here: SQLite's lock is not handed over in turn, and polling it costs time.
        if not self._writers.acquire(timeout=self.busy_timeout_seconds):
            raise JobFailed("another task has been writing to the memory for too long", where=self.path)
        try:
            yield
        finally:
            self._writers.release()

    def _retried(self, action: Callable[[], T]) -> T:
        deadline = time.monotonic() + self.busy_timeout_seconds
        while True:
            try:
                return action()
            except sqlite3.OperationalError as error:
                if not is_busy(error) or time.monotonic() >= deadline:
                    raise
                time.sleep(0.0005)

    def _session(self) -> _Session:
        session: _Session | None = getattr(self._local, "session", None)
        if session is not None and not self._closed:
            return session
        with self._registry:
            if self._closed:
                raise RuntimeError(f"the store {self.path} is closed")
            self._drop_dead_threads()
            session = _Session(self._connect(), threading.current_thread())
            self._sessions.append(session)
        self._local.session = session
        return session

    def _connect(self) -> sqlite3.Connection:
        with translated(self.path, self.busy_timeout_seconds):
            connection = sqlite3.connect(
                self.path, timeout=POLL_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=256
            )
            connection.row_factory = sqlite3.Row
            for pragma in ("synchronous = FULL", "foreign_keys = ON", "recursive_triggers = ON", "cache_size = -16000"):
                connection.execute(f"PRAGMA {pragma}")
            connection.execute("PRAGMA journal_size_limit = 67108864")
        return connection

    def _drop_dead_threads(self) -> None:
        # Worker threads come and go; a connection left behind by one would hold its files open for good.
        for session in [session for session in self._sessions if not session.thread.is_alive()]:
            session.connection.close()
            self._sessions.remove(session)

    def revision(self) -> int:
        """Return a number that is another one after every commit to the file, by whichever process."""
        with self._watching, translated(self.path, self.busy_timeout_seconds):
            if self._closed:
                raise RuntimeError(f"the store {self.path} is closed")
            if self._watcher is None:
                self._watcher = self._connect()
                self._watcher.execute("PRAGMA query_only = ON")
            watcher = self._watcher
            return self._retried(lambda: watcher.execute("PRAGMA data_version").fetchone()[0])

    def meta(self, key: str) -> str | None:
        """Return a setting of this file, or None."""
        with self.reading() as connection:
            row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def set_meta(self, connection: sqlite3.Connection, key: str, value: str) -> None:
        """Write a setting of this file inside a `writing()` block."""
        connection.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (key, value)
        )

    def backup(self, target: Path) -> None:
        """Copy the file as it is at this moment, while others go on writing. The copy is one file, and checked.

        It takes its name only when it is whole; an older backup of that name is replaced then. Raises ToolkitError
        when `target` is this file or another one in use, JobFailed when the system refuses.
        """
        with translated(Path(target), self.busy_timeout_seconds):
            write_backup(self.reading, self.path, Path(target))

    def check(self) -> list[str]:
        """Look for damage: SQLite's own check, references, full text, and what belongs together. [] means healthy."""
        try:
            with self.writing() as connection:  # the check of a full-text index is written as an insert
                return find_faults(connection)
        except JobFailed as error:
            if is_damage(error.__cause__):  # too much of it to look any further
                return [f"SQLite: {error.__cause__}"]
            raise

    def close(self) -> None:
        """Close all connections, after a write that is under way. The store cannot be used afterwards."""
        with self._turn(), self._registry:
            self._closed = True
            for session in self._sessions:
                session.connection.close()
            self._sessions.clear()
        with self._watching:
            if self._watcher is not None:
                self._watcher.close()
                self._watcher = None


def _begin_snapshot(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN")
    try:
        connection.execute("SELECT 1 FROM sqlite_schema").fetchone()  # the snapshot is that of the first read
    except BaseException:
        _rollback(connection)
        raise


def _rollback(connection: sqlite3.Connection) -> None:
    with suppress(sqlite3.ProgrammingError):  # closed meanwhile
        if connection.in_transaction:
            connection.execute("ROLLBACK")


@contextmanager
def _savepoint(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("SAVEPOINT inner_write")
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK TO inner_write")
            connection.execute("RELEASE inner_write")
        raise
    connection.execute("RELEASE inner_write")
