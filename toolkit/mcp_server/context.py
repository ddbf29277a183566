"""A context for a task: strict items first, word for word, then what is most relevant, within a number of tokens.

Strict items are never cut: each is in whole, or named among what was left out. Of other items and of documents the
passage that was found stands in when the whole does not fit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from toolkit.errors import ToolkitError
from toolkit.mcp_server.filters import Filters
from toolkit.mcp_server.item_rows import read_items
from toolkit.mcp_server.items import Item, estimated_tokens, is_over
from toolkit.mcp_server.search import Hit, Search, SearchResult
from toolkit.mcp_server.store import Store
from toolkit.preservation import Preservation

MOST_HITS = 100
MOST_LEFT_OUT = 50
MAX_BUDGET = 10_000_000
SEPARATOR = "\n\n"
_BATCH = 200


@dataclass(frozen=True)
class ContextRequest:
    """What a context is asked for.

    namespaces:        what the task is about; None for all
    strict_namespaces: whose strict items belong in; None for all
    kinds:             memory, document
    """

    query: str
    token_budget: int
    namespaces: tuple[str, ...] | None
    strict_namespaces: tuple[str, ...] | None
    kinds: tuple[str, ...]
    now: datetime


@dataclass(frozen=True)
class Part:
    """A piece of a context.

    text:   an item's whole text (a strict one's always), or the passage that was found
    source: what to cite: `memory ID`, or `PATH:FIRST-LAST` of a document
    tokens: how many it takes, its heading included
    """

    kind: str
    id: str
    preservation: Preservation | None
    text: str
    source: str
    tokens: int
    item: Item | None
    hit: Hit | None


@dataclass(frozen=True)
class LeftOut:
    """Something that belongs into the context and is not in it."""

    kind: str
    id: str
    reason: str
    tokens: int


@dataclass(frozen=True)
class Context:
    """A context: the rendered parts, an empty line between two.

    left_out: the first 50 of `left_out_count`, strict ones first
    tokens:   of `text`, by the given count
    notes:    what the search had to say (that the model is still loading)
    """

    text: str
    parts: tuple[Part, ...]
    left_out: tuple[LeftOut, ...]
    left_out_count: int
    tokens: int
    notes: tuple[str, ...]


def assemble(
    store: Store,
    search: Search,
    request: ContextRequest,
    count_tokens: Callable[[str], int] | None = None,
    render: Callable[[Part], str] | None = None,
) -> Context:
    """Pack a context.

    count_tokens: tokens of a text; default: `estimated_tokens`, which errs on the high side
    render:       writes a part down, its text word for word; default: a line in brackets, then the text

    Raises ToolkitError for a budget out of range.
    """
    if not 1 <= request.token_budget <= MAX_BUDGET:
        raise ToolkitError(f"token_budget is {request.token_budget}; it goes from 1 to {MAX_BUDGET:,}")
    packing = _Packing(request.token_budget, count_tokens or estimated_tokens, render or rendered)
    result = _found(search, request)
    with store.reading() as connection:
        ranked = list(dict.fromkeys(hit.owner_id for hit in result.hits if hit.kind == "memory"))
        if "memory" in request.kinds:
            for item in _strict_items(connection, request, ranked, packing):
                packing.add(_item_part(item))
        found = read_items(connection, ranked)
        paths = _paths(connection, [hit.owner_id for hit in result.hits if hit.kind == "document"])
    for hit in result.hits:
        if hit.kind == "document":
            packing.add(_document_part(hit, paths.get(hit.owner_id, hit.owner_id)))
            continue
        item = found.get(hit.owner_id)
        if item is not None and item.preservation != "strict" and not is_over(item, request.now):
            packing.add(replace(_item_part(item), hit=hit), _excerpt(item, hit))
    return packing.context(result.notes)


def rendered(part: Part) -> str:
    """Write a part down: what it is in a line of its own, then its text, word for word."""
    level = f"{part.preservation} " if part.preservation else ""
    return f"[{level}{part.source}]\n{part.text}"


class _Packing:
    """Parts that are in, and what is left out, while a context is packed."""

    def __init__(self, budget: int, count: Callable[[str], int], render: Callable[[Part], str]) -> None:
        self.budget = budget
        self.count = count
        self.render = render
        self.room = budget
        self.parts: list[Part] = []
        self.left_out: list[LeftOut] = []
        self.left_out_count = 0
        self._seen: set[tuple[str, str, int | None]] = set()

    def may_fit(self, estimate: int) -> bool:
        """Say whether to read a text of so many tokens (by the estimate, which says nothing of another count)."""
        return self.room >= (estimate if self.count is estimated_tokens else 1)

    def add(self, part: Part, shorter: Part | None = None) -> None:
        """Take a part, or a shorter form of it, if there is room; an item is taken once, a document by passages."""
        key = (part.kind, part.id, part.hit.passage_id if part.kind == "document" and part.hit else None)
        if key in self._seen:
            return
        self._seen.add(key)
        tokens = 0
        for form in (part, shorter):
            if form is None:
                continue
            tokens = self.count((SEPARATOR if self.parts else "") + self.render(form))
            if tokens <= self.room:
                self.parts.append(replace(form, tokens=tokens))
                self.room -= tokens
                return
        self.leave_out(part.kind, part.id, tokens)

    def leave_out(self, kind: str, item_id: str, tokens: int) -> None:
        """Note that there was no room."""
        self.left_out_count += 1
        if len(self.left_out) < MOST_LEFT_OUT:
            reason = f"no room: it takes {tokens} tokens, and {self.room} are left"
            self.left_out.append(LeftOut(kind, item_id, reason, tokens))

    def context(self, notes: tuple[str, ...]) -> Context:
        """Return what was packed. A count that is more for the whole than for the parts drops parts from the end."""
        while True:
            text = SEPARATOR.join(self.render(part) for part in self.parts)
            tokens = self.count(text) if self.parts else 0
            if tokens <= self.budget:
                break
            dropped = self.parts.pop()
            self.leave_out(dropped.kind, dropped.id, dropped.tokens)
        return Context(text, tuple(self.parts), tuple(self.left_out), self.left_out_count, tokens, notes)


def _found(search: Search, request: ContextRequest) -> SearchResult:
    if not request.query.strip():
        return SearchResult((), "text", ("the query is empty, so nothing was searched for",))
    filters = Filters(request.kinds, request.namespaces)
    try:
        return search.find(request.query, limit=MOST_HITS, filters=filters)
    except ToolkitError as error:  # strict items are there without a search
        return SearchResult((), "text", (f"nothing was searched for: {error.problems[0].what}",))


def _strict_items(
    connection: sqlite3.Connection, request: ContextRequest, ranked: Sequence[str], packing: _Packing
) -> Iterator[Item]:
    """Yield strict items that may fit, the most relevant first, then the newest; note the others as left out."""
    condition, values = "", ()
    if request.strict_namespaces is not None:
        marks = ", ".join("?" * len(request.strict_namespaces))
        condition, values = f" AND namespace IN ({marks})", request.strict_namespaces
    rows = connection.execute(
        f"SELECT id, tokens FROM items WHERE preservation = 'strict'{condition} ORDER BY id DESC", values
    ).fetchall()
    sizes: dict[str, int] = {row[0]: row[1] for row in rows}
    order = [item_id for item_id in ranked if item_id in sizes]
    first = set(order)
    order += [item_id for item_id in sizes if item_id not in first]
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        items = read_items(connection, [item_id for item_id in batch if packing.may_fit(sizes[item_id])])
        for item_id in batch:
            if item_id in items and packing.may_fit(sizes[item_id]):
                yield items[item_id]
            else:
                packing.leave_out("memory", item_id, sizes[item_id])


def _item_part(item: Item) -> Part:
    return Part("memory", item.id, item.preservation, item.text, f"memory {item.id}", 0, item, None)


def _excerpt(item: Item, hit: Hit) -> Part:
    source = f"memory {item.id}, an excerpt"
    return Part("memory", item.id, item.preservation, hit.text, source, 0, item, hit)


def _document_part(hit: Hit, path: str) -> Part:
    place = path
    if hit.page is not None:
        place += f", page {hit.page}"
    elif hit.start_line is not None:
        place += f":{hit.start_line}-{hit.end_line}"
    return Part("document", hit.owner_id, None, hit.text, place, 0, None, hit)


def _paths(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, str]:
    chosen = sorted(set(ids))
    marks = ", ".join("?" * len(chosen))
    return dict(connection.execute(f"SELECT id, path FROM documents WHERE id IN ({marks})", chosen).fetchall())
