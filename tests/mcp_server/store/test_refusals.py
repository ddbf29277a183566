"""What the system refuses: locks, full disks, folders that cannot be written, an old SQLite."""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mcp_server.store.rows import in_a_process, put, texts
from toolkit.errors import JobFailed, ToolkitError
from toolkit.mcp_server.store import Store


def test_a_lock_that_never_comes_free_is_named_and_the_next_try_works(store, path):
    hasty = Store(path, busy_timeout_seconds=0.3)
    with store.writing() as connection:
        put(connection, "a")
        began = time.monotonic()
        with pytest.raises(JobFailed, match="another program has been writing to the memory for 0.3 s"):
            with hasty.writing() as other:
                put(other, "b")
        assert 0.25 < time.monotonic() - began < 5
    with hasty.writing() as other:
        put(other, "b")
    assert list(texts(store)) == ["a", "b"]
    hasty.close()


FULL_DISK = """
import resource, sys
from pathlib import Path
from tests.mcp_server.store.rows import put, texts
from toolkit.errors import ToolkitError
from toolkit.mcp_server.store import Store
store = Store(Path(sys.argv[1]))
with store.writing() as connection:
    put(connection, "kept", preservation="strict")
old = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, old[1]))  # every file of this process: writes fail beyond it
kept = ["kept"]
for number in range(1000):
    try:
        with store.writing() as connection:
            put(connection, f"{number:04}", text="x" * 20_000)
    except ToolkitError as error:
        print(error)
        break
    kept.append(f"{number:04}")
assert sorted(texts(store)) == sorted(kept), "something is lost"
resource.setrlimit(resource.RLIMIT_FSIZE, old)
with store.writing() as connection:
    put(connection, "later")
assert store.check() == []
store.close()
assert sorted(texts(Store(Path(sys.argv[1])))) == sorted([*kept, "later"])
"""


def test_a_system_that_refuses_to_write_gives_one_error_and_loses_nothing(path):
    done = in_a_process(FULL_DISK, path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing was written. Look for a full disk" in done.stdout
    assert done.stdout.count("\n") == 1


def test_a_full_disk_gives_one_error_and_loses_nothing(store):
    with store.writing() as connection:
        put(connection, "a", preservation="strict")
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 5}")  # SQLite's own word for a full disk
    with pytest.raises(JobFailed, match="the disk is full, nothing was written. Free some space"):
        with store.writing() as connection:
            put(connection, "b", text="x" * 100_000)
    assert texts(store) == {"a": "milk"}
    with store.writing() as connection:
        connection.execute("PRAGMA max_page_count = 1000000")
        put(connection, "c", text="x" * 100_000)
    assert list(texts(store)) == ["a", "c"]
    assert store.check() == []


def test_a_write_that_sqlite_rolled_back_itself_does_not_count_as_written(store):
    with pytest.raises(JobFailed, match="rolled back"), store.writing() as connection:
        put(connection, "a")
        connection.execute("ROLLBACK")  # as SQLite does on some errors, which somebody may have swallowed
    assert texts(store) == {}


READ_ONLY = """
import os, sys
from pathlib import Path
from tests.mcp_server.store.rows import put, texts
from toolkit.errors import ToolkitError
from toolkit.mcp_server.store import Store
if os.geteuid() == 0:
    os.setuid(65534)  # root may write to anything
store = Store(Path(sys.argv[1]))
assert texts(store) == {"a": "milk"}
assert store.revision() == store.revision()
try:
    with store.writing() as connection:
        put(connection, "b")
except ToolkitError as error:
    print(error)
assert texts(store) == {"a": "milk"}
store.close()
"""


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    # pytest's own folders are closed to other users, and the test has to be one when it runs as root.
    folder = Path(tempfile.mkdtemp(prefix="toolkit-read-only-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize("folder_mode", [0o777, 0o555], ids=["in a folder for all", "open elsewhere"])
def test_a_file_that_can_only_be_read_is_read_and_a_write_gives_one_error(shared_folder, folder_mode):
    path = shared_folder / "memory.sqlite3"
    store = Store(path)
    with store.writing() as connection:
        put(connection, "a")
    if folder_mode == 0o777:
        store.close()
    for file in shared_folder.iterdir():
        file.chmod(0o444)
    shared_folder.chmod(folder_mode)

    done = in_a_process(READ_ONLY, path)

    assert (done.returncode, done.stderr) == (0, "")
    assert "the memory can only be read, nothing was written. Allow writing" in done.stdout
    assert done.stdout.count("\n") == 1
    store.close()


def test_a_folder_that_sqlite_may_not_write_to_is_named(shared_folder):
    path = shared_folder / "memory.sqlite3"
    Store(path).close()
    path.chmod(0o444)
    shared_folder.chmod(0o555)
    done = in_a_process(READ_ONLY, path)
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("toolkit.errors.")]
    assert re.search("the memory (can only be read|cannot be opened).* choose another path$", error)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(JobFailed, match="cannot write"):
        Store(tmp_path / "file" / "memory.sqlite3")


def test_a_python_whose_sqlite_is_too_old_is_told_what_to_use(path, monkeypatch):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 31, 1))
    with pytest.raises(ToolkitError, match=r"needs 3.37.0 or newer.*Use a newer Python"):
        Store(path)
    assert not path.exists()
