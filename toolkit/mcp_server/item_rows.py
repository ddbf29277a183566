"""Items as rows: reading them, writing a new version with the former one in history, erasing them.

Everything here runs inside a transaction of the caller, who has asked the policy.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

from toolkit.mcp_server.items import (
    HistoryEntry,
    Item,
    estimated_tokens,
    fingerprint,
    metadata_text,
    read_time,
    time_text,
)
from toolkit.mcp_server.passages import Passage, delete_passages, replace_passages

PASSAGE_BYTES = 768
"""At most 256 of the embedding model's tokens, by the estimate of three bytes each that errs on the high side."""

COLUMNS = (
    "id, namespace, text, preservation, metadata, source, created_at, updated_at, last_used_at, use_count, expires_at,"
    " version, tokens, (SELECT json_group_array(tag) FROM item_tags WHERE item_id = items.id) AS tags"
)


@dataclass(frozen=True)
class Change:
    """Why an item is written again, for its history.

    operation: as in `HistoryEntry`
    successor: the item that it was merged into
    """

    operation: str
    at: datetime
    reason: str = ""
    by_person: bool = False
    successor: str | None = None


def as_item(row: sqlite3.Row) -> Item:
    """Return the item of a row of `SELECT {COLUMNS} FROM items`."""
    return Item(
        id=row["id"],
        namespace=row["namespace"],
        text=row["text"],
        preservation=row["preservation"],
        tags=tuple(sorted(json.loads(row["tags"]))),
        metadata=json.loads(row["metadata"]),
        source=row["source"],
        created_at=read_time(row["created_at"]),
        updated_at=read_time(row["updated_at"]),
        last_used_at=read_time(row["last_used_at"]),
        use_count=row["use_count"],
        expires_at=read_time(row["expires_at"]) if row["expires_at"] else None,
        version=row["version"],
        tokens=row["tokens"],
    )


def read_item(connection: sqlite3.Connection, item_id: str) -> Item | None:
    """Return an item, or None."""
    row = connection.execute(f"SELECT {COLUMNS} FROM items WHERE id = ?", (item_id,)).fetchone()
    return None if row is None else as_item(row)


def read_items(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, Item]:
    """Return those of the items that are there, by id."""
    found: dict[str, Item] = {}
    for start in range(0, len(ids), 500):
        some = ids[start : start + 500]
        marks = ", ".join("?" * len(some))
        rows = connection.execute(f"SELECT {COLUMNS} FROM items WHERE id IN ({marks})", some)
        found.update((row["id"], as_item(row)) for row in rows)
    return found


def same_texts(connection: sqlite3.Connection, namespace: str, text: str) -> list[Item]:
    """Return the items of a namespace with the same normalised text, those with the very same bytes first."""
    # No ORDER BY: it makes SQLite read the whole namespace, in order.
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM items WHERE fingerprint = ? AND namespace = ?", (fingerprint(text), namespace)
    )
    return sorted(map(as_item, rows), key=lambda item: (item.text != text, item.id))


def item_passages(text: str) -> list[Passage]:
    """Cut an item into passages that the embedding model reads whole; most items are one.

    Cuts are at the last line end or blank before PASSAGE_BYTES, or within a word that is longer.
    """
    passages = []
    rest = text
    while rest.strip():
        end = _cut(rest)
        if rest[:end].strip():
            passages.append(Passage(rest[:end].strip()))
        rest = rest[end:]
    return passages


def _cut(text: str) -> int:
    head = text[:PASSAGE_BYTES]
    fitting = len(head.encode("utf-8")[:PASSAGE_BYTES].decode("utf-8", "ignore"))
    if fitting == len(text):
        return fitting
    for mark in ("\n", " "):
        place = text.rfind(mark, fitting // 2, fitting)
        if place > 0:
            return place + 1
    return max(1, fitting)


def insert_item(connection: sqlite3.Connection, item: Item) -> None:
    """Write a new item with its tags and passages."""
    connection.execute(
        "INSERT INTO items (id, namespace, text, fingerprint, preservation, metadata, source, created_at, updated_at,"
        " last_used_at, use_count, expires_at, version, tokens) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            item.id,
            item.namespace,
            item.text,
            fingerprint(item.text),
            item.preservation,
            metadata_text(item.metadata),
            item.source,
            time_text(item.created_at),
            time_text(item.updated_at),
            time_text(item.last_used_at),
            item.use_count,
            time_text(item.expires_at) if item.expires_at else None,
            item.version,
            item.tokens,
        ),
    )
    _set_tags(connection, item.id, (), item.tags)
    replace_passages(connection, "memory", item.id, item.namespace, item_passages(item.text))


def rewrite_item(connection: sqlite3.Connection, old: Item, new: Item, change: Change) -> Item:
    """Write a new version of an item, the former one into its history; return it with its version and time.

    Only what a person asked for gets past the triggers that guard strict items.
    """
    add_history(connection, old, change)
    written = replace(new, version=old.version + 1, updated_at=change.at, tokens=estimated_tokens(new.text))
    with consent(connection, old.id, given=change.by_person):
        # The tags first: they are guarded from the moment on that the item is strict.
        _set_tags(connection, old.id, old.tags, written.tags)
        connection.execute(
            "UPDATE items SET text = ?, fingerprint = ?, preservation = ?, metadata = ?, source = ?, updated_at = ?,"
            " expires_at = ?, version = ?, tokens = ? WHERE id = ?",
            (
                written.text,
                fingerprint(written.text),
                written.preservation,
                metadata_text(written.metadata),
                written.source,
                time_text(written.updated_at),
                time_text(written.expires_at) if written.expires_at else None,
                written.version,
                written.tokens,
                old.id,
            ),
        )
    if written.text != old.text:
        replace_passages(connection, "memory", old.id, old.namespace, item_passages(written.text))
    return written


def erase_item(connection: sqlite3.Connection, item: Item, change: Change) -> None:
    """Delete an item with its links, passages and history, of the items merged into it too; one line stays, textless.

    A merged item (`change.successor`) keeps its history, its last text included.
    """
    if change.successor is not None:
        add_history(connection, item, change)
    with consent(connection, item.id, given=change.by_person):
        connection.execute("DELETE FROM items WHERE id = ?", (item.id,))
    delete_passages(connection, "memory", item.id)
    if change.successor is None:
        _erase_history(connection, item.id)
        add_history(connection, item, change, with_text=False)


def _erase_history(connection: sqlite3.Connection, item_id: str) -> None:
    waiting = [item_id]
    while waiting:
        one = waiting.pop()
        rows = connection.execute("SELECT DISTINCT item_id FROM history WHERE successor = ?", (one,))
        waiting += [row[0] for row in rows]
        connection.execute("DELETE FROM history WHERE item_id = ?", (one,))


@contextmanager
def consent(connection: sqlite3.Connection, item_id: str, *, given: bool) -> Iterator[None]:
    """Tell the triggers for the time of the block that a person allows a change of an item."""
    if not given:
        yield
        return
    connection.execute("INSERT OR IGNORE INTO consents VALUES (?)", (item_id,))
    yield
    connection.execute("DELETE FROM consents WHERE item_id = ?", (item_id,))


def _set_tags(connection: sqlite3.Connection, item_id: str, old: Iterable[str], new: Iterable[str]) -> None:
    before, after = set(old), set(new)
    gone = [(tag, item_id) for tag in sorted(before - after)]
    connection.executemany("DELETE FROM item_tags WHERE tag = ? AND item_id = ?", gone)
    connection.executemany("INSERT INTO item_tags VALUES (?, ?)", [(tag, item_id) for tag in sorted(after - before)])


def add_history(connection: sqlite3.Connection, item: Item, change: Change, *, with_text: bool = True) -> None:
    """Write a line of an item's history: the version as it was, and what ended it."""
    connection.execute(
        "INSERT INTO history (item_id, version, operation, at, by_person, reason, successor, namespace, text,"
        " preservation, tags, metadata, source, expires_at, updated_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            item.id,
            item.version,
            change.operation,
            time_text(change.at),
            int(change.by_person),
            change.reason,
            change.successor,
            item.namespace,
            item.text if with_text else None,
            item.preservation,
            json.dumps(item.tags if with_text else [], ensure_ascii=False),
            metadata_text(item.metadata) if with_text else "{}",
            item.source if with_text else None,
            time_text(item.expires_at) if item.expires_at else None,
            time_text(item.updated_at),
        ),
    )


def read_history(connection: sqlite3.Connection, item_id: str) -> list[HistoryEntry]:
    """Return what became of an item, newest first."""
    rows = connection.execute("SELECT * FROM history WHERE item_id = ? ORDER BY sequence DESC", (item_id,))
    return [as_history(row) for row in rows]


def as_history(row: sqlite3.Row) -> HistoryEntry:
    """Return the entry of a row of `history`."""
    return HistoryEntry(
        item_id=row["item_id"],
        version=row["version"],
        operation=row["operation"],
        at=read_time(row["at"]),
        by_person=bool(row["by_person"]),
        reason=row["reason"],
        successor=row["successor"],
        namespace=row["namespace"],
        text=row["text"] or "",
        preservation=row["preservation"],
        tags=tuple(json.loads(row["tags"])),
        metadata=json.loads(row["metadata"]),
        source=row["source"],
        expires_at=read_time(row["expires_at"]) if row["expires_at"] else None,
        updated_at=read_time(row["updated_at"]),
    )
