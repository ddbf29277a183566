"""What the memory answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolkit.mcp_server.items import Item, Link
from toolkit.mcp_server.search import Hit, Mode
from toolkit.preservation import Preservation

Outcome = Literal["stored", "exists", "merged", "linked"]


@dataclass(frozen=True)
class Similar:
    """An item that says nearly the same; `similarity` is the cosine of the embeddings (1.0: the same text)."""

    id: str
    similarity: float


@dataclass(frozen=True)
class Stored:
    """What became of a text that was to be kept.

    outcome: stored · exists (the same text was there; tags and metadata were joined) · merged (into `item`) · linked
             (stored, and linked with `similar`)
    evicted: flexible items that had to go for it, by the budget of the namespace
    """

    item: Item
    outcome: Outcome
    similar: tuple[Similar, ...]
    reason: str
    evicted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """A part of a list; `next_cursor` asks for what follows, None at the end."""

    items: tuple[Item, ...]
    next_cursor: str | None


@dataclass(frozen=True)
class Related:
    """A linked item: the link that leads to it, and how many links away it is."""

    link: Link
    item: Item
    depth: int


@dataclass(frozen=True)
class FoundItem:
    """A passage that was found, and the item that it belongs to (None for a document's)."""

    hit: Hit
    item: Item | None


@dataclass(frozen=True)
class Found:
    """What was found, best first; `mode` and `notes` as in `SearchResult`."""

    results: tuple[FoundItem, ...]
    mode: Mode
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Gone:
    """An item that was forgotten (or would be), and why."""

    id: str
    namespace: str
    operation: str
    reason: str
    tokens: int


@dataclass(frozen=True)
class Forgotten:
    """What was forgotten, or would be in a dry run.

    items:  the first 100 of them; `count` and `tokens` are of all
    kept:   items that were old enough too, but are kept, by level
    """

    dry_run: bool
    items: tuple[Gone, ...]
    count: int
    tokens: int
    kept: dict[Preservation, int]
