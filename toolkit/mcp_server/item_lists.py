"""Lists of items: newest first, in pages of bounded size, with cursors that stay right while others write.

Ids sort as they were made, so a cursor is the last id that was shown: what is stored or deleted meanwhile neither
repeats an item nor skips one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import sqlite3
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from toolkit.errors import ToolkitError
from toolkit.mcp_server.item_rows import COLUMNS, as_item
from toolkit.mcp_server.items import time_text
from toolkit.mcp_server.memory_results import Page
from toolkit.preservation import PRESERVATION_LEVELS, Preservation

MAX_LIMIT = 200


@dataclass(frozen=True)
class ListQuery:
    """Which items: of a namespace, with all of the tags, of a level; None and () allow all."""

    namespace: str | None = None
    tags: tuple[str, ...] = ()
    preservation: Preservation | None = None

    def key(self) -> str:
        """Return what a cursor of this list is known by."""
        content = json.dumps([self.namespace, self.tags, self.preservation]).encode()
        return hashlib.sha256(content).hexdigest()[:12]


def list_items(connection: sqlite3.Connection, query: ListQuery, limit: int, cursor: str | None, now: datetime) -> Page:
    """Return a page of items. Raises ToolkitError for a limit out of range or a cursor of another list."""
    if not 1 <= limit <= MAX_LIMIT:
        raise ToolkitError(f"limit is {limit}; it goes from 1 to {MAX_LIMIT}")
    if query.preservation is not None and query.preservation not in PRESERVATION_LEVELS:
        raise ToolkitError(
            f"there is no level {query.preservation!r}", hint=f"Levels: {', '.join(PRESERVATION_LEVELS)}"
        )
    conditions, values = _conditions(query)
    conditions.append("(expires_at IS NULL OR expires_at > ?)")
    values.append(time_text(now))
    if cursor is not None:
        conditions.append("id < ?")
        values.append(_read_cursor(cursor, query))
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM items WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?", (*values, limit + 1)
    ).fetchall()
    items = tuple(as_item(row) for row in rows[:limit])
    return Page(items, _write_cursor(items[-1].id, query) if len(rows) > limit else None)


def _conditions(query: ListQuery) -> tuple[list[str], list[Any]]:
    conditions: list[str] = []
    values: list[Any] = []
    if query.namespace is not None:
        conditions.append("namespace = ?")
        values.append(query.namespace)
    if query.preservation is not None:
        conditions.append("preservation = ?")
        values.append(query.preservation)
    for tag in query.tags:
        conditions.append("id IN (SELECT item_id FROM item_tags WHERE tag = ?)")
        values.append(tag)
    return conditions, values


def _write_cursor(last_id: str, query: ListQuery) -> str:
    return base64.urlsafe_b64encode(json.dumps([query.key(), last_id]).encode()).decode().rstrip("=")


def _read_cursor(cursor: str, query: ListQuery) -> str:
    try:
        content = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        key, last_id = json.loads(content)
    except (binascii.Error, ValueError, TypeError, UnicodeError) as error:
        raise ToolkitError("this cursor is not one that a list gave", hint="Leave it out to begin anew") from error
    if not isinstance(last_id, str) or not last_id.isascii():
        raise ToolkitError("this cursor is not one that a list gave", hint="Leave it out to begin anew")
    if key != query.key():
        hint = "Repeat the list's namespace, tags and level, or leave the cursor out"
        raise ToolkitError("this cursor belongs to another list", hint=hint)
    return last_id
