"""The memory file: transactions, several users at once, migrations, backups, and everything that SQLite refuses."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolkit.errors import JobFailed, ToolkitError
from toolkit.mcp_server.items import fingerprint
from toolkit.mcp_server.migrations import MIGRATIONS, statements
from toolkit.mcp_server.passages import Passage, replace_passages
from toolkit.mcp_server.store import Store

AT = "2026-11-28T12:00:00.000000+00:00"
NEXT = (*MIGRATIONS, "CREATE TABLE novelties (id INTEGER PRIMARY KEY);")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = Store(path, busy_timeout_seconds=10)
    yield store
    store.close()


def put(connection: sqlite3.Connection, id_: str, text: str = "milk", preservation: str = "moderate") -> None:
    connection.execute(
        "INSERT INTO items VALUES (?, 'default', ?, ?, ?, '{}', NULL, ?, ?, ?, 0, NULL, 1, 2)",
        (id_, text, fingerprint(text), preservation, AT, AT, AT),
    )
    connection.execute("INSERT INTO item_tags VALUES ('kept', ?)", (id_,))
    replace_passages(connection, "memory", id_, "default", [Passage(text)])


def texts(store: Store) -> dict[str, str]:
    with store.reading() as connection:
        return {row["id"]: row["text"] for row in connection.execute("SELECT id, text FROM items ORDER BY id")}


def in_a_process(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


# --- transactions ----------------------------------------------------------------------------------------------------


def test_a_new_file_is_healthy_in_wal_mode_and_readable_by_its_owner_alone(store, path):
    assert store.check() == []
    with store.reading() as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
        assert connection.execute("PRAGMA foreign_keys").fetchone()[0] == 1
    assert path.stat().st_mode & 0o077 == 0


def test_what_was_written_is_there_for_others_when_the_block_has_ended_and_not_before(store, path):
    other = Store(path)
    with store.writing() as connection:
        put(connection, "a")
        assert texts(other) == {}
    assert texts(other) == {"a": "milk"}
    other.close()


def test_an_exception_undoes_everything_in_the_block(store):
    with pytest.raises(ZeroDivisionError), store.writing() as connection:
        put(connection, "a")
        raise ZeroDivisionError
    assert texts(store) == {}
    with store.writing() as connection:
        put(connection, "b")
    assert list(texts(store)) == ["b"]


def test_a_nested_block_joins_the_outer_one_and_fails_alone(store):
    with store.writing() as connection:
        put(connection, "a")
        with store.writing() as inner:
            assert inner is connection
            put(inner, "b")
        with pytest.raises(ZeroDivisionError), store.writing() as inner:
            put(inner, "c")
            raise ZeroDivisionError
        with store.reading() as inner:
            assert inner is connection
    assert list(texts(store)) == ["a", "b"]


def test_a_read_stays_on_its_snapshot_while_others_write(store, path):
    other = Store(path)
    with store.reading() as connection:
        with other.writing() as writer:
            put(writer, "a")
        assert connection.execute("SELECT count(*) FROM items").fetchone()[0] == 0
    assert list(texts(store)) == ["a"]
    other.close()


def test_a_write_inside_a_read_is_refused_since_its_snapshot_may_be_old(store):
    with store.reading(), pytest.raises(RuntimeError, match="inside a read"), store.writing():
        pass


def test_the_revision_changes_with_every_commit_by_anyone_and_with_nothing_else(store, path):
    other = Store(path)
    seen = [store.revision()]
    texts(store)
    assert store.revision() == seen[0]
    for number, writer in enumerate((store, other, store)):
        with writer.writing() as connection:
            put(connection, str(number))
        seen.append(store.revision())
    assert len(set(seen)) == 4
    other.close()


def test_threads_have_connections_of_their_own_and_those_of_ended_threads_are_closed(store):
    connections: list[sqlite3.Connection] = []

    def work(number: int) -> None:
        with store.writing() as connection:
            put(connection, f"{number:02}")
        connections.append(connection)

    for number in range(12):
        thread = threading.Thread(target=work, args=(number,))
        thread.start()
        thread.join()
    assert len(texts(store)) == 12
    assert len({id(connection) for connection in connections}) == 12
    for connection in connections[:-1]:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")


def test_threads_that_write_at_once_all_get_their_turn(store):
    def work(name: str) -> None:
        for number in range(10):
            with store.writing() as connection:
                put(connection, f"{name}{number}")

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcdef"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts(store)) == 60
    assert store.check() == []


def test_a_closed_store_says_so(path):
    store = Store(path)
    store.close()
    for use in (store.revision, lambda: store.meta("x"), store.check):
        with pytest.raises(RuntimeError, match="closed"):
            use()


def test_settings_of_the_file_are_kept(store, path):
    with store.writing() as connection:
        store.set_meta(connection, "colour", "blue")
        store.set_meta(connection, "colour", "red")
    other = Store(path)
    assert (other.meta("colour"), other.meta("size")) == ("red", None)
    other.close()


# --- the second line of defence --------------------------------------------------------------------------------------

CHANGES = {
    "its text": "UPDATE items SET text = 'other' WHERE id = 'a'",
    "its namespace": "UPDATE items SET namespace = 'other' WHERE id = 'a'",
    "its source": "UPDATE items SET source = 'other' WHERE id = 'a'",
    "its level": "UPDATE items SET preservation = 'moderate' WHERE id = 'a'",
    "its tags": "DELETE FROM item_tags WHERE item_id = 'a'",
    "the item": "DELETE FROM items WHERE id = 'a'",
    "by replacing it": "INSERT OR REPLACE INTO items SELECT id, namespace, 'other', fingerprint, 'flexible', metadata,"
    " source, created_at, updated_at, last_used_at, use_count, expires_at, version, tokens FROM items",
    "by an upsert": "INSERT INTO items SELECT * FROM items WHERE true ON CONFLICT (id) DO UPDATE SET text = 'other'",
}


@pytest.mark.parametrize("statement", CHANGES.values(), ids=CHANGES)
def test_the_file_itself_refuses_to_change_a_strict_item_and_allows_it_for_others(store, path, statement):
    with store.writing() as connection:
        put(connection, "a", preservation="strict")
    with pytest.raises(ToolkitError, match="only a person can allow"), store.writing() as connection:
        connection.execute(statement)
    plain = sqlite3.connect(path)  # another program, without our pragmas
    with pytest.raises(sqlite3.IntegrityError, match="only a person can allow"):
        plain.execute(statement)
    plain.close()
    assert texts(store) == {"a": "milk"}
    with store.writing() as connection:
        connection.execute("INSERT INTO consents VALUES ('a')")
        connection.execute("UPDATE items SET preservation = 'moderate' WHERE id = 'a'")
        connection.execute("DELETE FROM consents")
        connection.execute(statement)


def test_consent_for_a_deletion_is_used_up_by_it(store):
    with store.writing() as connection:
        put(connection, "a", preservation="strict")
        connection.execute("INSERT INTO consents VALUES ('a')")
        connection.execute("DELETE FROM items WHERE id = 'a'")
        put(connection, "a", preservation="strict")
    with pytest.raises(ToolkitError, match="only a person"), store.writing() as connection:
        connection.execute("DELETE FROM items WHERE id = 'a'")


def test_a_strict_item_may_be_counted_as_used_and_get_more_tags(store):
    with store.writing() as connection:
        put(connection, "a", preservation="strict")
        connection.execute("UPDATE items SET use_count = use_count + 1, version = 2, metadata = '{\"a\":1}'")
        connection.execute("INSERT INTO item_tags VALUES ('more', 'a')")


def test_totals_follow_every_change(store):
    with store.writing() as connection:
        for id_ in "abc":
            put(connection, id_, preservation="flexible")
        connection.execute("UPDATE items SET tokens = 10 WHERE id = 'a'")
        connection.execute("UPDATE items SET preservation = 'moderate' WHERE id = 'b'")
        connection.execute("DELETE FROM items WHERE id = 'c'")
        rows = connection.execute("SELECT preservation, items, tokens FROM namespace_totals ORDER BY 1").fetchall()
    assert [tuple(row) for row in rows] == [("flexible", 1, 10), ("moderate", 1, 2)]


# --- versions of the file --------------------------------------------------------------------------------------------


def test_an_older_file_is_brought_up_to_date_with_everything_in_it(path):
    store = Store(path)
    with store.writing() as connection:
        put(connection, "a", preservation="strict")
    store.close()

    newer = Store(path, migrations=NEXT)

    assert texts(newer) == {"a": "milk"}
    with newer.reading() as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == 2
        assert connection.execute("SELECT count(*) FROM novelties").fetchone()[0] == 0
    assert newer.check() == []
    newer.close()


def test_a_file_of_the_first_version_as_it_was_released_is_still_read(path):
    # The dump is committed: a migration that edits the first one instead of following it fails here.
    dump = (Path(__file__).parent / "files" / "version-1.sql").read_text(encoding="utf-8")
    connection = sqlite3.connect(path)
    connection.executescript(dump)
    connection.close()

    store = Store(path)

    assert texts(store) == {"01A": "Never restart the billing server.", "01B": "The kitchen has milk."}
    assert store.check() == []
    with store.writing() as writer, pytest.raises(sqlite3.IntegrityError, match="only a person"):
        writer.execute("DELETE FROM items WHERE id = '01A'")
    fresh = Store(path.with_name("fresh.sqlite3"))
    assert _schema(store) == _schema(fresh)
    fresh.close()
    store.close()


def _schema(store: Store) -> dict[str, str]:
    with store.reading() as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND type <> 'table'")
        return {row["name"]: row["sql"] for row in rows}


def test_a_newer_file_is_refused_with_what_to_do_and_not_touched(path):
    Store(path, migrations=NEXT).close()
    before = path.read_bytes()
    with pytest.raises(ToolkitError, match=r"newer toolkit \(file version 2, known here up to 1\).*Update the toolkit"):
        Store(path)
    assert path.read_bytes() == before


def test_a_migration_that_fails_leaves_the_old_file_usable(path):
    store = Store(path)
    with store.writing() as connection:
        put(connection, "a")
    store.close()
    broken = (*NEXT, "CREATE TABLE half (id INTEGER); INSERT INTO half VALUES (1); INSERT INTO nowhere VALUES (1);")

    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        Store(path, migrations=broken)

    store = Store(path)
    assert texts(store) == {"a": "milk"}
    with store.reading() as connection:
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema")}
    assert not names & {"half", "novelties"}
    assert store.check() == []
    store.close()


def test_programs_that_open_a_new_file_at_the_same_moment_all_succeed(path):
    barrier = threading.Barrier(6)
    failures: list[BaseException] = []

    def open_it() -> None:
        barrier.wait()
        try:
            Store(path, busy_timeout_seconds=20).close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    store = Store(path)
    assert store.check() == []
    store.close()


@pytest.mark.parametrize("version", [0, 1])
def test_a_database_of_another_program_is_refused_and_not_touched(path, version):
    connection = sqlite3.connect(path)
    connection.executescript(f"CREATE TABLE bookmarks (url); PRAGMA user_version = {version};")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ToolkitError, match="belongs to another program"):
        Store(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_and_a_folder_are_refused_in_words(path, tmp_path):
    path.write_text("Dear diary, " * 100)
    with pytest.raises(ToolkitError, match="not a memory file"):
        Store(path)
    with pytest.raises(ToolkitError, match="folder"):
        Store(tmp_path)


def test_statements_are_cut_where_sqlite_says_they_end():
    script = (
        "CREATE TABLE a (b); -- no; end\nCREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM a; SELECT ';'; END;\n"
    )
    assert len(list(statements(script))) == 2
    with pytest.raises(ValueError, match="has no end"):
        list(statements("CREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM a;"))


# --- backups ---------------------------------------------------------------------------------------------------------


def test_backups_made_while_another_writes_are_whole_and_each_on_one_state(store, path, tmp_path):
    stop = threading.Event()

    def write_pairs() -> None:
        other, number = Store(path), 0
        while not stop.is_set():
            with other.writing() as connection:
                put(connection, f"a{number:05}")
                put(connection, f"b{number:05}")
            number += 1
        other.close()

    writer = threading.Thread(target=write_pairs)
    writer.start()
    sizes = []
    for number in range(5):
        time.sleep(0.05)
        target = tmp_path / f"backup-{number}.sqlite3"
        store.backup(target)
        assert sorted(one.name for one in tmp_path.glob(f"*backup-{number}*")) == [target.name]
        copy = Store(target)
        names = texts(copy)
        assert copy.check() == []
        copy.close()
        assert {name[1:] for name in names if name[0] == "a"} == {name[1:] for name in names if name[0] == "b"}
        sizes.append(len(names))
    stop.set()
    writer.join()
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_a_backup_replaces_an_older_one_and_nothing_else(store, path, tmp_path):
    target = tmp_path / "backups" / "copy.sqlite3"
    store.backup(target)
    with store.writing() as connection:
        put(connection, "a")
    store.backup(target)
    assert target.stat().st_mode & 0o077 == 0
    with pytest.raises(ToolkitError, match="cannot replace the memory itself"):
        store.backup(path)
    with pytest.raises(ToolkitError, match="folder"):
        store.backup(tmp_path)
    open_copy = Store(target)
    assert list(texts(open_copy)) == ["a"]
    with pytest.raises(ToolkitError, match="in use"):
        store.backup(target)
    open_copy.close()


def test_a_backup_of_a_damaged_file_is_refused_and_the_older_one_stays(store, path, tmp_path):
    target = tmp_path / "copy.sqlite3"
    store.backup(target)
    before = target.read_bytes()
    _damage(store, path)
    damaged = Store(path)
    with pytest.raises(JobFailed, match="damaged"):
        damaged.backup(target)
    assert target.read_bytes() == before
    assert not list(tmp_path.glob(".copy*"))
    damaged.close()


def _damage(store: Store, path: Path) -> None:
    with store.writing() as connection:
        for number in range(300):
            put(connection, f"{number:03}", text=f"number {number} " * 20)
        root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'items_by_fingerprint'").fetchone()
    store.close()
    with path.open("rb+") as file:
        file.seek((root[0] - 1) * 4096)
        file.write(os.urandom(2000))


# --- damage ----------------------------------------------------------------------------------------------------------


def test_damage_is_found_and_named(store, path):
    _damage(store, path)
    damaged = Store(path)
    faults = damaged.check()
    assert faults and all(fault.startswith("SQLite:") for fault in faults)
    damaged.close()


def test_what_sqlite_cannot_know_is_checked_too(store):
    with store.writing() as connection:
        for id_ in "abcd":
            put(connection, id_, text=f"text {id_}")
        connection.execute("UPDATE items SET text = 'another' WHERE id = 'a'")
        connection.execute("DELETE FROM passages WHERE owner_id = 'b'")
        replace_passages(connection, "memory", "gone", "default", [Passage("nobody's")])
        connection.execute("UPDATE passages SET namespace = 'elsewhere' WHERE owner_id = 'c'")
        connection.execute("UPDATE namespace_totals SET items = 7")
        connection.execute("INSERT INTO consents VALUES ('d')")
    assert store.check() == [
        "item without a passage to find it by: b",
        "passage of an item that is not there: gone",
        "passage in another namespace than its item: c",
        "consent that was never used: d",
        "wrong count of items in namespace: default",
        "item a: its text is not the one that was stored",
    ]


def test_a_full_text_index_that_lost_an_entry_is_found(store):
    with store.writing() as connection:
        put(connection, "a")
        connection.execute(
            "INSERT INTO passages_fts (passages_fts, rowid, text, heading) VALUES ('delete', 1, 'milk', '')"
        )
    assert [fault.split(":")[0] for fault in store.check()] == ["full-text index passages_fts"]


# --- what the system refuses -----------------------------------------------------------------------------------------


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
from tests.mcp_server.test_store import put, texts
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
from tests.mcp_server.test_store import put, texts
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
