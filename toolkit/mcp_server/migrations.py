"""The tables of the memory file, and how an older file becomes a newer one.

The file's version is its `PRAGMA user_version`: the number of migrations that were applied to it. A migration that was
released is never edited: a change is a new one at the end of MIGRATIONS. Each runs in one transaction with the new
version number, so a file is either migrated or untouched.

The triggers are the second line of defence behind `policy.py`. Whatever program writes, a strict item keeps its text
and stays, unless the same transaction has put the item's id into `consents` first; the change uses the entry up.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

from toolkit.mcp_server.passages import PASSAGES_DDL

APPLICATION_ID = 0x4C54544D
"""Marks the file as ours (`PRAGMA application_id`), so that another program's database is not taken for a memory."""

ITEMS_DDL = """
CREATE TABLE meta (key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE items (
    id TEXT PRIMARY KEY NOT NULL,
    namespace TEXT NOT NULL,
    text TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    preservation TEXT NOT NULL CHECK (preservation IN ('strict', 'moderate', 'flexible')),
    metadata TEXT NOT NULL,
    source TEXT,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    last_used_at TEXT NOT NULL,
    use_count INTEGER NOT NULL CHECK (use_count >= 0),
    expires_at TEXT,
    version INTEGER NOT NULL CHECK (version >= 1),
    tokens INTEGER NOT NULL CHECK (tokens >= 0),
    CHECK (expires_at IS NULL OR preservation = 'flexible')
) STRICT;
CREATE INDEX items_by_namespace ON items (namespace, id);
CREATE INDEX items_by_fingerprint ON items (fingerprint, namespace);
CREATE INDEX items_by_level ON items (preservation, id, namespace, tokens);
CREATE INDEX flexible_by_use ON items (namespace, last_used_at, id) WHERE preservation = 'flexible';
CREATE INDEX flexible_by_age ON items (namespace, created_at, id) WHERE preservation = 'flexible';
CREATE INDEX flexible_by_expiry ON items (expires_at, id) WHERE expires_at IS NOT NULL;

CREATE TABLE item_tags (
    tag TEXT NOT NULL,
    item_id TEXT NOT NULL REFERENCES items (id) ON DELETE CASCADE,
    PRIMARY KEY (tag, item_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX item_tags_by_item ON item_tags (item_id, tag);

CREATE TABLE links (
    source_id TEXT NOT NULL REFERENCES items (id) ON DELETE CASCADE,
    relation TEXT NOT NULL,
    target_id TEXT NOT NULL REFERENCES items (id) ON DELETE CASCADE,
    created_at TEXT NOT NULL,
    PRIMARY KEY (source_id, relation, target_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX links_by_target ON links (target_id, relation, source_id);

CREATE TABLE history (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    item_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    operation TEXT NOT NULL,
    at TEXT NOT NULL,
    by_person INTEGER NOT NULL CHECK (by_person IN (0, 1)),
    reason TEXT NOT NULL,
    successor TEXT,
    namespace TEXT NOT NULL,
    text TEXT,
    preservation TEXT NOT NULL,
    tags TEXT NOT NULL,
    metadata TEXT NOT NULL,
    source TEXT,
    expires_at TEXT,
    updated_at TEXT NOT NULL
) STRICT;
CREATE INDEX history_by_item ON history (item_id, sequence);
CREATE INDEX history_by_successor ON history (successor, sequence) WHERE successor IS NOT NULL;

CREATE TABLE namespace_totals (
    namespace TEXT NOT NULL,
    preservation TEXT NOT NULL,
    items INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    PRIMARY KEY (namespace, preservation)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER totals_of_new_items AFTER INSERT ON items BEGIN
    INSERT INTO namespace_totals VALUES (new.namespace, new.preservation, 1, new.tokens)
        ON CONFLICT DO UPDATE SET items = items + 1, tokens = tokens + excluded.tokens;
END;
CREATE TRIGGER totals_of_deleted_items AFTER DELETE ON items BEGIN
    UPDATE namespace_totals SET items = items - 1, tokens = tokens - old.tokens
        WHERE namespace = old.namespace AND preservation = old.preservation;
END;
CREATE TRIGGER totals_of_changed_items AFTER UPDATE OF namespace, preservation, tokens ON items BEGIN
    UPDATE namespace_totals SET items = items - 1, tokens = tokens - old.tokens
        WHERE namespace = old.namespace AND preservation = old.preservation;
    INSERT INTO namespace_totals VALUES (new.namespace, new.preservation, 1, new.tokens)
        ON CONFLICT DO UPDATE SET items = items + 1, tokens = tokens + excluded.tokens;
END;

CREATE TABLE consents (item_id TEXT PRIMARY KEY NOT NULL) STRICT, WITHOUT ROWID;

CREATE TRIGGER strict_items_keep_their_text
BEFORE UPDATE OF id, namespace, text, source, created_at ON items
WHEN old.preservation = 'strict' AND NOT EXISTS (SELECT 1 FROM consents WHERE item_id = old.id)
    AND (old.id, old.namespace, old.text, old.source, old.created_at)
        IS NOT (new.id, new.namespace, new.text, new.source, new.created_at)
BEGIN
    SELECT raise(ABORT, 'a strict item is never altered: only a person can allow it');
END;
CREATE TRIGGER strict_items_stay_strict BEFORE UPDATE OF preservation ON items
WHEN old.preservation = 'strict' AND new.preservation <> 'strict'
    AND NOT EXISTS (SELECT 1 FROM consents WHERE item_id = old.id)
BEGIN
    SELECT raise(ABORT, 'a strict item stays strict: only a person can allow less');
END;
CREATE TRIGGER strict_items_are_kept BEFORE DELETE ON items
WHEN old.preservation = 'strict' AND NOT EXISTS (SELECT 1 FROM consents WHERE item_id = old.id)
BEGIN
    SELECT raise(ABORT, 'a strict item is never deleted: only a person can allow it');
END;
CREATE TRIGGER strict_items_are_not_replaced BEFORE INSERT ON items
WHEN EXISTS (SELECT 1 FROM items WHERE id = new.id AND preservation = 'strict')
BEGIN
    SELECT raise(ABORT, 'a strict item is never replaced: only a person can allow it');
END;
CREATE TRIGGER strict_items_keep_their_tags BEFORE DELETE ON item_tags
WHEN EXISTS (SELECT 1 FROM items WHERE id = old.item_id AND preservation = 'strict')
    AND NOT EXISTS (SELECT 1 FROM consents WHERE item_id = old.item_id)
BEGIN
    SELECT raise(ABORT, 'a strict item keeps its tags: only a person can allow less');
END;
CREATE TRIGGER consents_are_used_up_by_a_deletion AFTER DELETE ON items BEGIN
    DELETE FROM consents WHERE item_id = old.id;
END;

CREATE TRIGGER history_is_not_rewritten BEFORE UPDATE ON history BEGIN
    SELECT raise(ABORT, 'history is only ever added to');
END;
CREATE TRIGGER history_is_kept_while_its_item_is BEFORE DELETE ON history
WHEN EXISTS (SELECT 1 FROM items WHERE id = old.item_id AND preservation <> 'flexible')
BEGIN
    SELECT raise(ABORT, 'the history of an item is kept as long as the item is');
END;
"""

MIGRATIONS: tuple[str, ...] = (ITEMS_DDL + PASSAGES_DDL,)
"""SQL texts, in order; after number n the file is at version n."""


def file_version(connection: sqlite3.Connection) -> int:
    """Return how many migrations the file has seen."""
    return connection.execute("PRAGMA user_version").fetchone()[0]


def apply_migrations(connection: sqlite3.Connection, migrations: Sequence[str] = MIGRATIONS) -> int:
    """Bring the file up to the last migration and return its version. Call it inside one write transaction.

    Raises sqlite3.Error when a statement fails; the caller rolls back, and the file is what it was.
    """
    version = file_version(connection)
    for number in range(version + 1, len(migrations) + 1):
        for statement in statements(migrations[number - 1]):
            connection.execute(statement)
    if version < len(migrations):
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
    return max(version, len(migrations))


def statements(script: str) -> Iterator[str]:
    """Cut an SQL text into its statements (`executescript` would commit first, and end the caller's transaction)."""
    statement = ""
    for piece in script.split(";"):
        statement += piece + ";"
        if sqlite3.complete_statement(statement):
            if statement.strip(" \n;"):
                yield statement.strip()
            statement = ""
    if statement.strip(" \n;"):
        raise ValueError(f"an SQL statement has no end: {statement.strip()[:80]}")
