"""Export and import: the memory as JSON lines that a person can read, and that another toolkit can take in.

The first line says what the file is; then one object a line: `item`, `history`, `link`. Documents are not in it: they
are read again from their files (`toolkit mcp ingest`).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit import __version__
from toolkit.atomic_files import open_atomic
from toolkit.mcp_server.item_links import as_link
from toolkit.mcp_server.item_rows import COLUMNS, as_history, as_item
from toolkit.mcp_server.items import HistoryEntry, Item, Link, time_text
from toolkit.mcp_server.store import Store

FORMAT = "toolkit-memory"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Exported:
    """What was written."""

    items: int
    history: int
    links: int

    @property
    def summary(self) -> str:
        """The same in words."""
        return f"{self.items:,} items, {self.history:,} lines of history, {self.links:,} links"


def export_jsonl(store: Store, path: Path) -> Exported:
    """Write the memory to a file, as it is at one moment, while others go on writing.

    The file takes its name when it is whole. Raises JobFailed when the system refuses.
    """
    counts = {"item": 0, "history": 0, "link": 0}
    with store.reading() as connection, open_atomic(path) as file:
        header = {"kind": "header", "format": FORMAT, "version": FORMAT_VERSION, "toolkit": __version__}
        file.write(_line(header))
        for kind, content in _contents(connection):
            file.write(_line({"kind": kind, **content}))
            counts[kind] += 1
    return Exported(counts["item"], counts["history"], counts["link"])


def _contents(connection: sqlite3.Connection) -> Iterator[tuple[str, dict[str, Any]]]:
    for row in connection.execute(f"SELECT {COLUMNS} FROM items ORDER BY id"):
        yield "item", item_content(as_item(row))
    for row in connection.execute("SELECT * FROM history ORDER BY sequence"):
        yield "history", history_content(as_history(row))
    for row in connection.execute("SELECT * FROM links ORDER BY source_id, relation, target_id"):
        yield "link", link_content(as_link(row))


def item_content(item: Item) -> dict[str, Any]:
    """Return an item as the file has it."""
    return {
        "id": item.id,
        "namespace": item.namespace,
        "text": item.text,
        "preservation": item.preservation,
        "tags": list(item.tags),
        "metadata": dict(item.metadata),
        "source": item.source,
        "created_at": time_text(item.created_at),
        "updated_at": time_text(item.updated_at),
        "last_used_at": time_text(item.last_used_at),
        "use_count": item.use_count,
        "expires_at": time_text(item.expires_at) if item.expires_at else None,
        "version": item.version,
    }


def history_content(entry: HistoryEntry) -> dict[str, Any]:
    """Return a line of history as the file has it."""
    return {
        "item_id": entry.item_id,
        "version": entry.version,
        "operation": entry.operation,
        "at": time_text(entry.at),
        "by_person": entry.by_person,
        "reason": entry.reason,
        "successor": entry.successor,
        "namespace": entry.namespace,
        "text": entry.text,
        "preservation": entry.preservation,
        "tags": list(entry.tags),
        "metadata": dict(entry.metadata),
        "source": entry.source,
        "expires_at": time_text(entry.expires_at) if entry.expires_at else None,
        "updated_at": time_text(entry.updated_at),
    }


def link_content(link: Link) -> dict[str, Any]:
    """Return a link as the file has it."""
    return {
        "source_id": link.source_id,
        "relation": link.relation,
        "target_id": link.target_id,
        "created_at": time_text(link.created_at),
    }


def _line(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")
