"""Passages: the pieces of text that are searched, whichever they belong to (a memory item, a document).

The tables are here as text, so that the store's first migration can join them with its own. Triggers keep what
belongs together together, whoever writes: the full-text index follows the passages, a new passage waits in
`unembedded` until it has a vector, and `vector_changes` tells a reader which vectors changed since it last looked, so
that a hundred thousand others need not be read again.

Ids are never used twice (AUTOINCREMENT), and the vector of an id never changes within one generation of the embedding
model: an index beside the file that is a little old is then incomplete, never wrong.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["memory", "document"]

PASSAGES_DDL = """
CREATE TABLE documents (
    id TEXT PRIMARY KEY,
    namespace TEXT NOT NULL,
    path TEXT NOT NULL,
    root TEXT NOT NULL,
    title TEXT NOT NULL,
    media_type TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    modified_ns INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    reading TEXT NOT NULL,
    ingested_at TEXT NOT NULL,
    UNIQUE (namespace, path)
);

CREATE TABLE passages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('memory', 'document')),
    owner_id TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    namespace TEXT NOT NULL,
    text TEXT NOT NULL,
    heading TEXT NOT NULL DEFAULT '',
    start_line INTEGER,
    end_line INTEGER,
    page INTEGER
);
CREATE INDEX passages_owner ON passages (kind, owner_id, ordinal);
CREATE INDEX passages_namespace ON passages (namespace, kind);

CREATE VIRTUAL TABLE passages_fts USING fts5 (
    text, heading, content = 'passages', content_rowid = 'id', tokenize = "porter unicode61 remove_diacritics 2"
);

CREATE TABLE unembedded (passage_id INTEGER PRIMARY KEY);
CREATE TABLE vectors (passage_id INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE vector_changes (id INTEGER PRIMARY KEY AUTOINCREMENT, passage_id INTEGER NOT NULL);
CREATE TABLE embedding_model (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    name TEXT NOT NULL,
    dimension INTEGER NOT NULL,
    generation INTEGER NOT NULL
);
CREATE TABLE embedding_cache (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    model TEXT NOT NULL,
    text_sha256 BLOB NOT NULL,
    vector BLOB NOT NULL,
    UNIQUE (model, text_sha256)
);

CREATE TRIGGER passages_inserted AFTER INSERT ON passages BEGIN
    INSERT INTO passages_fts (rowid, text, heading) VALUES (new.id, new.text, new.heading);
    INSERT INTO unembedded (passage_id) VALUES (new.id);
END;
CREATE TRIGGER passages_deleted AFTER DELETE ON passages BEGIN
    INSERT INTO passages_fts (passages_fts, rowid, text, heading) VALUES ('delete', old.id, old.text, old.heading);
    DELETE FROM unembedded WHERE passage_id = old.id;
    DELETE FROM vectors WHERE passage_id = old.id;
END;
CREATE TRIGGER passages_moved AFTER UPDATE OF namespace ON passages WHEN old.namespace <> new.namespace BEGIN
    INSERT INTO vector_changes (passage_id) SELECT passage_id FROM vectors WHERE passage_id = new.id;
END;
CREATE TRIGGER passages_text_is_fixed BEFORE UPDATE OF text, heading ON passages
    WHEN old.text <> new.text OR old.heading <> new.heading BEGIN
    SELECT raise(ABORT, 'a passage is replaced, never edited: its vector would be that of another text');
END;
CREATE TRIGGER vectors_inserted AFTER INSERT ON vectors BEGIN
    DELETE FROM unembedded WHERE passage_id = new.passage_id;
    INSERT INTO vector_changes (passage_id) VALUES (new.passage_id);
END;
CREATE TRIGGER vectors_deleted AFTER DELETE ON vectors BEGIN
    INSERT INTO vector_changes (passage_id) VALUES (old.passage_id);
END;
"""


@dataclass(frozen=True)
class Passage:
    """A piece of text with its place in what it was cut from.

    heading:    the titles that it stands under ("Backup › While running"), or ""
    start_line: the first line of it in the file, counted from 1; None where there are no lines (a memory item)
    end_line:   the last line of it, inclusive
    page:       the page of a PDF, counted from 1
    """

    text: str
    heading: str = ""
    start_line: int | None = None
    end_line: int | None = None
    page: int | None = None

    @property
    def embedded_text(self) -> str:
        """What the embedding model is given: a paragraph often says what it is about in its heading alone."""
        return f"{self.heading}\n{self.text}" if self.heading else self.text


@dataclass(frozen=True)
class Pending:
    """A passage that has no vector yet, and the text to embed for it."""

    passage_id: int
    text: str


def replace_passages(
    connection: sqlite3.Connection, kind: Kind, owner_id: str, namespace: str, passages: Sequence[Passage]
) -> list[int]:
    """Make `passages` the passages of an owner, in order, and return their ids.

    A passage whose text and heading the owner has already keeps its row, hence its vector: only what changed is
    indexed and embedded again. Call it inside `Store.writing()`.
    """
    spare: dict[tuple[str, str], list[int]] = {}
    for row in connection.execute(
        "SELECT id, text, heading FROM passages WHERE kind = ? AND owner_id = ? ORDER BY ordinal DESC", (kind, owner_id)
    ):
        spare.setdefault((row[1], row[2]), []).append(row[0])
    ids = []
    for ordinal, passage in enumerate(passages):
        kept = spare.get((passage.text, passage.heading))
        place = (ordinal, namespace, passage.start_line, passage.end_line, passage.page)
        if kept:
            ids.append(kept.pop())
            connection.execute(
                "UPDATE passages SET ordinal = ?, namespace = ?, start_line = ?, end_line = ?, page = ? WHERE id = ?",
                (*place, ids[-1]),
            )
        else:
            cursor = connection.execute(
                "INSERT INTO passages (ordinal, namespace, start_line, end_line, page, kind, owner_id, text, heading)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
                (*place, kind, owner_id, passage.text, passage.heading),
            )
            ids.append(cursor.fetchone()[0])
    gone = [(passage_id,) for ids_left in spare.values() for passage_id in ids_left]
    connection.executemany("DELETE FROM passages WHERE id = ?", gone)
    return ids


def delete_passages(connection: sqlite3.Connection, kind: Kind, owner_id: str) -> int:
    """Delete what an owner has, vectors and full-text entries included; return how many passages there were."""
    return connection.execute("DELETE FROM passages WHERE kind = ? AND owner_id = ?", (kind, owner_id)).rowcount


def pending(connection: sqlite3.Connection, limit: int) -> list[Pending]:
    """Return passages that have no vector yet, at most `limit`: half of them the newest, the others the oldest.

    So an item that was stored just now does not wait behind a folder of documents.
    """
    ids: list[int] = []
    for order, count in (("DESC", limit // 2), ("ASC", limit)):
        rows = connection.execute(f"SELECT passage_id FROM unembedded ORDER BY passage_id {order} LIMIT ?", (count,))
        ids += [row[0] for row in rows if row[0] not in ids]
    chosen = sorted(ids[:limit])
    rows = connection.execute(
        f"SELECT id, text, heading FROM passages WHERE id IN ({', '.join('?' * len(chosen))}) ORDER BY id", chosen
    )
    return [Pending(row[0], Passage(row[1], row[2]).embedded_text) for row in rows]


def pending_count(connection: sqlite3.Connection) -> int:
    """Say how many passages have no vector yet."""
    return connection.execute("SELECT count(*) FROM unembedded").fetchone()[0]


def set_vectors(connection: sqlite3.Connection, vectors: Iterable[tuple[int, NDArray[np.float32]]]) -> int:
    """Give passages their vectors, (passage id, float32 of the model's dimension); return how many were taken.

    A passage that was deleted while its vector was computed is passed over, and so is one that another process has
    embedded meanwhile. The caller has checked, in the same transaction, that the vectors come from the store's model.
    """
    taken = 0
    for passage_id, vector in vectors:
        taken += connection.execute(
            "INSERT INTO vectors (passage_id, vector) SELECT id, ? FROM passages WHERE id = ?"
            " ON CONFLICT (passage_id) DO NOTHING",
            (np.asarray(vector, dtype="<f4").tobytes(), passage_id),
        ).rowcount
    return taken
