"""Transactions: what is written is there or not at all, whoever else reads and writes."""

from __future__ import annotations

import sqlite3
import threading

import pytest

from tests.mcp_server.store.rows import put, texts
from toolkit.errors import JobFailed
from toolkit.mcp_server.store import Store


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


def test_a_statement_that_writes_while_reading_is_refused_and_later_writes_go_on(store):
    with store.reading() as connection, pytest.raises(sqlite3.OperationalError, match="readonly"):
        put(connection, "a")
    with pytest.raises(JobFailed, match="can only be read, nothing was written"), store.reading() as connection:
        put(connection, "a")
    with store.writing() as connection:
        put(connection, "b")
    assert texts(store) == {"b": "milk"}


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
