"""Which items were used: gathered in memory by reads, so that they never wait, and written with the next write.

What a killed process had gathered is lost: at worst an item looks unused for a little longer than it was.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from threading import Lock

from toolkit.mcp_server.items import time_text

MOST_WAITING = 256


@dataclass(frozen=True)
class Use:
    """How often an item was used, and when last."""

    count: int
    last: datetime

    def plus(self, other: Use | None) -> Use:
        """Add another one's."""
        return self if other is None else Use(self.count + other.count, max(self.last, other.last))


class Uses:
    """The uses that wait to be written. Safe to use from many threads."""

    def __init__(self) -> None:
        self._waiting: dict[str, Use] = {}
        self._lock = Lock()

    @property
    def waiting(self) -> bool:
        """Whether there are any."""
        return bool(self._waiting)

    def note(self, ids: Iterable[str], now: datetime) -> bool:
        """Count a use of each item; say whether it is time to write them down."""
        with self._lock:
            for item_id in ids:
                self._waiting[item_id] = Use(1, now).plus(self._waiting.get(item_id))
            return len(self._waiting) >= MOST_WAITING

    @contextmanager
    def taken(self) -> Iterator[Mapping[str, Use]]:
        """Hand out what waits; when the block fails it waits again, unless there is too much of it."""
        with self._lock:
            taken, self._waiting = self._waiting, {}
        try:
            yield taken
        except BaseException:
            with self._lock:
                if len(self._waiting) + len(taken) < 4 * MOST_WAITING:
                    for item_id, use in taken.items():
                        self._waiting[item_id] = use.plus(self._waiting.get(item_id))
            raise


def write_uses(connection: sqlite3.Connection, uses: Mapping[str, Use]) -> None:
    """Write uses down; items that are gone are passed over."""
    connection.executemany(
        "UPDATE items SET use_count = use_count + ?, last_used_at = max(last_used_at, ?) WHERE id = ?",
        [(use.count, time_text(use.last), item_id) for item_id, use in sorted(uses.items())],
    )
