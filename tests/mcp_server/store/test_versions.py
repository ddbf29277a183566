"""Versions of the file: older ones are brought up to date, newer and foreign ones refused."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from tests.mcp_server.store.rows import NEXT, put, texts
from toolkit.errors import ToolkitError
from toolkit.mcp_server.migrations import statements
from toolkit.mcp_server.store import Store


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
    dump = (Path(__file__).parents[1] / "files" / "version-1.sql").read_text(encoding="utf-8")
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
