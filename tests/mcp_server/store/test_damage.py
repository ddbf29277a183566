"""Damage is found and named."""

from __future__ import annotations

from tests.mcp_server.store.rows import damage, put
from toolkit.mcp_server.passages import Passage, replace_passages
from toolkit.mcp_server.store import Store


def test_damage_is_found_and_named(store, path):
    damage(store, path)
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
