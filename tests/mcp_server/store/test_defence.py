"""The second line of defence: the file itself refuses what the policy forbids."""

from __future__ import annotations

import sqlite3

import pytest

from tests.mcp_server.store.rows import put, texts
from toolkit.errors import ToolkitError

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
