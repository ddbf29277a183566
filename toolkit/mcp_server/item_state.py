"""Whether an item is there, at which version, and what a change of it amounts to."""

from __future__ import annotations

import sqlite3
from datetime import datetime

from toolkit.errors import ToolkitError
from toolkit.mcp_server.item_rows import read_history, read_item
from toolkit.mcp_server.items import Item, is_over
from toolkit.mcp_server.policy_file import Operation

_ABSENT = object()


def present(connection: sqlite3.Connection, item_id: str, now: datetime) -> Item:
    """Return an item. Raises ToolkitError when it is not there, with what became of it."""
    item = read_item(connection, item_id) if isinstance(item_id, str) and item_id.isascii() else None
    if item is not None and not is_over(item, now):
        return item
    raise ToolkitError(_what_became(connection, item_id, item), hint="memory_list and memory_search show what there is")


def _what_became(connection: sqlite3.Connection, item_id: str, item: Item | None) -> str:
    if item is not None and item.expires_at is not None:
        return f"item {item_id} expired at {item.expires_at.isoformat()}"
    entries = read_history(connection, item_id) if isinstance(item_id, str) and item_id.isascii() else []
    if not entries:
        return f"there is no item {item_id!a}"
    last = entries[0]
    if last.successor is not None:
        return f"item {item_id} was merged into {last.successor} at {last.at.isoformat()}"
    why = f" ({last.reason})" if last.reason else ""
    return f"item {item_id} is gone: {last.operation} at {last.at.isoformat()}{why}"


def check_version(item: Item, expected: int | None) -> None:
    """Raise ToolkitError when an item has another version than the caller has seen."""
    if expected is not None and expected != item.version:
        what = f"the item is at version {item.version}, not {expected}: somebody changed it meanwhile"
        raise ToolkitError(what, where=f"item {item.id}", hint="Read it again and repeat the change")


def kind_of_change(item: Item, wanted: Item) -> Operation:
    """Say what the policy has to be asked: adding tags and metadata is less than changing what is there."""
    taken_away = set(item.tags) - set(wanted.tags)
    changed = any(wanted.metadata.get(key, _ABSENT) != value for key, value in item.metadata.items())
    return "update" if item.text != wanted.text or taken_away or changed else "annotate"
