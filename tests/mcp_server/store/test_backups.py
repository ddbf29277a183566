"""Backups are whole, made while others write, and replace nothing but an older one."""

from __future__ import annotations

import threading
import time

import pytest

from tests.mcp_server.store.rows import damage, put, texts
from toolkit.errors import JobFailed, ToolkitError
from toolkit.mcp_server.store import Store


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
    damage(store, path)
    damaged = Store(path)
    with pytest.raises(JobFailed, match="damaged"):
        damaged.backup(target)
    assert target.read_bytes() == before
    assert not list(tmp_path.glob(".copy*"))
    damaged.close()
