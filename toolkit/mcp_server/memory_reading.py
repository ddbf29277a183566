"""Reading the memory: nothing here changes an item, except that it counts as used."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime

from toolkit.errors import ToolkitError
from toolkit.mcp_server import item_links
from toolkit.mcp_server.context import Context, ContextRequest, Part, assemble
from toolkit.mcp_server.filters import Filters
from toolkit.mcp_server.item_lists import ListQuery, list_items
from toolkit.mcp_server.item_rows import read_history, read_items
from toolkit.mcp_server.item_state import present
from toolkit.mcp_server.items import HistoryEntry, Item, is_over
from toolkit.mcp_server.memory_results import Found, FoundItem, Page, Related
from toolkit.mcp_server.policy import Policy
from toolkit.mcp_server.search import Mode, Search
from toolkit.mcp_server.store import Store
from toolkit.mcp_server.uses import Uses, write_uses
from toolkit.preservation import Preservation


class MemoryReader:
    """The reading half of `Memory`."""

    def __init__(self, store: Store, policy: Policy, search: Search, now: Callable[[], datetime]) -> None:
        self._store = store
        self._policy = policy
        self._search = search
        self._now = now
        self._uses = Uses()

    @property
    def policy(self) -> Policy:
        """The policy that is asked."""
        return self._policy

    def now(self) -> datetime:
        """Return the time by the memory's clock."""
        return self._now()

    def get(self, item_id: str) -> Item:
        """Return an item; that counts as a use. Raises ToolkitError, with what became of it when it is gone."""
        with self._store.reading() as connection:
            item = self._present(connection, item_id)
        self._note_uses([item_id])
        return item

    def related(self, item_id: str, depth: int = 1) -> tuple[Related, ...]:
        """Return the links of an item in either direction and what they lead to, nearest first, at most 100."""
        if not 1 <= depth <= item_links.MAX_DEPTH:
            raise ToolkitError(f"depth is {depth}; it goes from 1 to {item_links.MAX_DEPTH}")
        with self._store.reading() as connection:
            self._present(connection, item_id)
            found = item_links.find_related(connection, item_id, depth)
        return tuple(one for one in found if not is_over(one.item, self._now()))

    def history(self, item_id: str) -> tuple[HistoryEntry, ...]:
        """Return an item's former versions and what ended each, newest first; of a gone item too."""
        with self._store.reading() as connection:
            entries = read_history(connection, item_id)
            if not entries:
                self._present(connection, item_id)
        return tuple(entries)

    def list(
        self,
        namespace: str | None = None,
        tags: Iterable[str] = (),
        preservation: Preservation | None = None,
        limit: int = 20,
        cursor: str | None = None,
    ) -> Page:
        """List items, newest first, at most `limit` (1 to 200). `next_cursor` goes on, whatever is written meanwhile.

        Raises ToolkitError: no such namespace, a limit out of range, a cursor that belongs to another list.
        """
        query = ListQuery(namespace, tuple(sorted(set(tags))), preservation)
        with self._store.reading() as connection:
            if namespace is not None:
                self._readable(connection, namespace)
            return list_items(connection, query, limit, cursor, self._now())

    def search(
        self,
        query: str,
        *,
        limit: int = 10,
        namespaces: Sequence[str] | None = None,
        tags: Iterable[str] = (),
        preservation: Preservation | None = None,
        kinds: Sequence[str] = ("memory",),
        mode: Mode = "hybrid",
        diversity: float | None = None,
    ) -> Found:
        """Find items, and documents with `kinds`, best first. Each item that is found counts as used."""
        filters = Filters(tuple(kinds), self._readable_all(namespaces), None, tuple(tags) or None)
        # More are asked for than wanted: an item may have several passages, another level, or be over.
        result = self._search.find(
            query, limit=min(1000, 3 * limit + 10), filters=filters, mode=mode, diversity=diversity
        )
        with self._store.reading() as connection:
            items = read_items(connection, list({hit.owner_id for hit in result.hits if hit.kind == "memory"}))
        found: list[FoundItem] = []
        shown: set[str] = set()
        for hit in result.hits:
            item = items.get(hit.owner_id) if hit.kind == "memory" else None
            if hit.kind == "memory" and (item is None or is_over(item, self._now()) or item.id in shown):
                continue
            if preservation is not None and (item is None or item.preservation != preservation):
                continue
            if item is not None:
                shown.add(item.id)
            found.append(FoundItem(hit, item))
        results = tuple(found[:limit])
        self._note_uses([one.item.id for one in results if one.item is not None])
        return Found(results, result.mode, result.notes)

    def assemble_context(
        self,
        query: str,
        token_budget: int,
        *,
        namespaces: Sequence[str] | None = None,
        kinds: Sequence[str] = ("memory", "document"),
        count_tokens: Callable[[str], int] | None = None,
        render: Callable[[Part], str] | None = None,
    ) -> Context:
        """Pack what matters for a task into `token_budget` tokens: strict items first, word for word.

        Which strict items belong in is the policy's to say (`context.strict_namespaces`). See `context.assemble`.
        """
        allowed = self._readable_all(namespaces)
        request = ContextRequest(
            query, token_budget, allowed, self._policy.strict_namespaces(allowed), tuple(kinds), self._now()
        )
        context = assemble(self._store, self._search, request, count_tokens, render)
        self._note_uses([part.item.id for part in context.parts if part.item is not None])
        return context

    def flush_uses(self) -> None:
        """Write down which items were used since the last write (reads only gather it, so that they never wait)."""
        if self._uses.waiting:
            with self._write():
                pass

    def _note_uses(self, ids: Iterable[str]) -> None:
        if self._uses.note(ids, self._now()):
            with suppress(ToolkitError):  # a file that can only be read is read all the same
                self.flush_uses()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._uses.taken() as uses, self._store.writing() as connection:
            write_uses(connection, uses)
            yield connection

    def _present(self, connection: sqlite3.Connection, item_id: str) -> Item:
        return present(connection, item_id, self._now())

    def _readable(self, connection: sqlite3.Connection, namespace: str) -> str:
        # What was stored under an earlier policy can still be read.
        row = connection.execute(
            "SELECT 1 FROM namespace_totals WHERE namespace = ? AND items > 0"
            " UNION ALL SELECT 1 FROM documents WHERE namespace = ? LIMIT 1",
            (namespace, namespace),
        ).fetchone()
        return namespace if row is not None else self._policy.namespace_for(namespace)

    def _readable_all(self, namespaces: Sequence[str] | None) -> tuple[str, ...] | None:
        if namespaces is None:
            return None
        with self._store.reading() as connection:
            return tuple(self._readable(connection, one) for one in dict.fromkeys(namespaces))
