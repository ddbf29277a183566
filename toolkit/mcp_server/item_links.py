"""Links between items, as rows."""

from __future__ import annotations

import sqlite3
from datetime import datetime

from toolkit.mcp_server.item_rows import read_items
from toolkit.mcp_server.items import Link, read_time, time_text
from toolkit.mcp_server.memory_results import Related

MAX_DEPTH = 5
MAX_RELATED = 100


def add_link(connection: sqlite3.Connection, source_id: str, relation: str, target_id: str, at: datetime) -> Link:
    """Link two items, or return the link that is there."""
    connection.execute(
        "INSERT OR IGNORE INTO links VALUES (?, ?, ?, ?)", (source_id, relation, target_id, time_text(at))
    )
    row = connection.execute(
        "SELECT * FROM links WHERE source_id = ? AND relation = ? AND target_id = ?", (source_id, relation, target_id)
    ).fetchone()
    return as_link(row)


def remove_link(connection: sqlite3.Connection, source_id: str, relation: str, target_id: str) -> bool:
    """Take a link away; say whether it was there."""
    gone = connection.execute(
        "DELETE FROM links WHERE source_id = ? AND relation = ? AND target_id = ?", (source_id, relation, target_id)
    )
    return gone.rowcount > 0


def move_links(connection: sqlite3.Connection, old_id: str, new_id: str) -> None:
    """Give the links of an item to another one; those between the two come to nothing."""
    connection.execute(
        "INSERT OR IGNORE INTO links SELECT ?, relation, target_id, created_at FROM links"
        " WHERE source_id = ? AND target_id <> ?",
        (new_id, old_id, new_id),
    )
    connection.execute(
        "INSERT OR IGNORE INTO links SELECT source_id, relation, ?, created_at FROM links"
        " WHERE target_id = ? AND source_id <> ?",
        (new_id, old_id, new_id),
    )
    connection.execute("DELETE FROM links WHERE source_id = ? OR target_id = ?", (old_id, old_id))


def find_related(connection: sqlite3.Connection, item_id: str, depth: int) -> tuple[Related, ...]:
    """Return the links up to `depth` steps away, nearest first, each with the item it leads to, at most MAX_RELATED."""
    reached, level = {item_id}, [item_id]
    steps: dict[Link, tuple[str, int]] = {}
    for distance in range(1, depth + 1):
        following = []
        for one in level:
            for link in _links_of(connection, one):
                other = link.target_id if link.source_id == one else link.source_id
                if link in steps or len(steps) == MAX_RELATED:
                    continue
                steps[link] = (other, distance)
                if other not in reached:
                    reached.add(other)
                    following.append(other)
        level = following
    items = read_items(connection, sorted(reached))
    return tuple(Related(link, items[other], distance) for link, (other, distance) in steps.items() if other in items)


def _links_of(connection: sqlite3.Connection, item_id: str) -> list[Link]:
    rows = connection.execute(
        "SELECT * FROM links WHERE source_id = ? UNION SELECT * FROM links WHERE target_id = ?"
        " ORDER BY created_at, source_id, relation, target_id LIMIT ?",
        (item_id, item_id, MAX_RELATED),
    )
    return [as_link(row) for row in rows]


def as_link(row: sqlite3.Row) -> Link:
    """Return the link of a row of `links`."""
    return Link(row["source_id"], row["relation"], row["target_id"], read_time(row["created_at"]))
