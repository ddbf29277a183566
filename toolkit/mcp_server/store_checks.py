"""Looking for damage in a memory file: what SQLite can find, and what it cannot know."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from toolkit.mcp_server.items import fingerprint

MOST_FAULTS = 20
# What belongs together: a name for what is wrong, and a query that returns the ids where it is.
_BELONGS_TOGETHER = (
    ("item without a passage to find it by", "SELECT id FROM items WHERE id NOT IN (SELECT owner_id FROM passages"
     " WHERE kind = 'memory')"),
    ("passage of an item that is not there", "SELECT owner_id FROM passages WHERE kind = 'memory'"
     " AND owner_id NOT IN (SELECT id FROM items)"),
    ("passage of a document that is not there", "SELECT owner_id FROM passages WHERE kind = 'document'"
     " AND owner_id NOT IN (SELECT id FROM documents)"),
    ("passage in another namespace than its item", "SELECT i.id FROM items i JOIN passages p"
     " ON p.kind = 'memory' AND p.owner_id = i.id WHERE p.namespace <> i.namespace"),
    ("consent that was never used", "SELECT item_id FROM consents"),
    ("wrong count of items in namespace", "SELECT t.namespace FROM namespace_totals t WHERE (t.items, t.tokens) IS NOT"
     " (SELECT count(*), coalesce(sum(tokens), 0) FROM items i"
     " WHERE i.namespace = t.namespace AND i.preservation = t.preservation)"),
)  # fmt: skip


def find_faults(connection: sqlite3.Connection) -> list[str]:
    """Return what is wrong with a memory file, at most MOST_FAULTS lines for each kind of check."""
    faults = _faults_of_sqlite(connection)
    if faults:  # what is built on top would only repeat them
        return faults
    faults += _full_text_faults(connection)
    for what, query in _BELONGS_TOGETHER:
        ids = [row[0] for row in connection.execute(f"SELECT * FROM ({query}) LIMIT {MOST_FAULTS}")]
        faults += [f"{what}: {id_}" for id_ in ids]
    faults += _changed_texts(connection)
    return faults


def _faults_of_sqlite(connection: sqlite3.Connection) -> list[str]:
    found = [str(row[0]) for row in connection.execute(f"PRAGMA integrity_check({MOST_FAULTS})")]
    references = connection.execute("PRAGMA foreign_key_check").fetchmany(MOST_FAULTS)
    faults = [f"SQLite: {line}" for line in found if line != "ok"]
    return faults + [
        f"table {row[0]}, row {row[1]}: refers to a row of {row[2]} that is not there" for row in references
    ]


def _full_text_faults(connection: sqlite3.Connection) -> Iterator[str]:
    names = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%fts5%'"
    ).fetchall()
    for (name,) in names:
        try:
            connection.execute(f'INSERT INTO "{name}" ("{name}", rank) VALUES (\'integrity-check\', 1)')
        except sqlite3.DatabaseError as error:
            yield f"full-text index {name}: {error}"


def _changed_texts(connection: sqlite3.Connection) -> list[str]:
    # The fingerprint was written with the text; a text that was changed behind our back no longer fits it.
    faults = []
    for row in connection.execute("SELECT id, text, fingerprint FROM items"):
        if fingerprint(row[1]) != row[2]:
            faults.append(f"item {row[0]}: its text is not the one that was stored")
            if len(faults) == MOST_FAULTS:
                break
    return faults
