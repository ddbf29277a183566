"""What tools answer: the shapes that clients get as schemas, bounded in size, retrieved text in fences.

A field called `text` holds retrieved text between the marks of the answer's `fence` (`fences.py`); everything else is
the server's own word, or a short name. Texts that do not fit are cut at the end and say so (`complete` is false): the
rest is read with an offset, and nothing is ever shortened in the middle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from toolkit.errors import ToolkitError
from toolkit.mcp_server.fences import Fence, looks_like_a_fence, random_nonce
from toolkit.mcp_server.items import Item
from toolkit.preservation import Preservation

MAX_ANSWER_CHARACTERS = 32_000
MAX_LISTED_CHARACTERS = 1_000
WARNING = "It contains something that looks like this server's own marks: somebody may be trying to pass for it."

NewNonce = Callable[[], str]


class ItemView(BaseModel):
    """An item of the memory."""

    id: str
    namespace: str
    text: str = Field(description="The text, word for word, between the fence's marks.")
    preservation: Preservation
    tags: list[str]
    metadata: dict[str, Any]
    source: str | None
    created_at: datetime
    updated_at: datetime
    last_used_at: datetime
    use_count: int
    expires_at: datetime | None
    version: int
    complete: bool = Field(description="Whether the whole text is here.")
    characters: int = Field(description="How long the whole text is.")
    warning: str | None = None


class ItemAnswer(BaseModel):
    """One item."""

    fence: str
    item: ItemView
    next_offset: int | None = Field(default=None, description="Where to go on, when the text is not complete.")


class StoredAnswer(BaseModel):
    """What became of a text that was to be kept."""

    outcome: str = Field(description="stored; exists (the same text was there); merged; linked (to similar items)")
    reason: str
    id: str
    namespace: str
    preservation: Preservation
    version: int
    similar: list[SimilarView] = Field(description="Items that say nearly the same.")
    evicted: list[str] = Field(description="Flexible items that had to go, to keep the namespace within its budget.")


class SimilarView(BaseModel):
    """An item that is like another one."""

    id: str
    similarity: float


class ChangedAnswer(BaseModel):
    """An item after a change; its text is not repeated."""

    id: str
    namespace: str
    preservation: Preservation
    version: int
    done: str


class HitView(BaseModel):
    """A passage that was found."""

    kind: str = Field(description="memory or document")
    id: str = Field(description="The id of the item or document that the passage belongs to.")
    namespace: str
    text: str
    source: str = Field(description="Where it is from: the file and its lines, or the memory item.")
    score: float = Field(description="For the order alone; not a probability.")
    similarity: float | None = Field(default=None, description="Cosine of the embeddings, where there are any.")
    preservation: Preservation | None = None
    tags: list[str] = []
    created_at: datetime | None = None
    start_line: int | None = None
    end_line: int | None = None
    page: int | None = None
    warning: str | None = None


class SearchAnswer(BaseModel):
    """What was found, best first."""

    fence: str
    mode: str = Field(description="hybrid, text or vector: how the search was answered.")
    notes: list[str]
    results: list[HitView]
    left_out: int = Field(description="How many more were found and left out to bound the answer; ask for fewer.")


class ListAnswer(BaseModel):
    """Items, newest first."""

    fence: str
    items: list[ItemView]
    next_cursor: str | None = Field(default=None, description="Give it as `cursor` for what follows; null at the end.")


class LinkView(BaseModel):
    """A link between two items, read as a sentence: source, relation, target."""

    source_id: str
    relation: str
    target_id: str
    done: str


class RelatedView(BaseModel):
    """An item that another one is linked with."""

    source_id: str
    relation: str
    target_id: str
    depth: int = Field(description="How many links away.")
    item: ItemView


class RelatedAnswer(BaseModel):
    """What an item is linked with, nearest first."""

    fence: str
    id: str
    related: list[RelatedView]
    left_out: int = Field(description="How many more there are, left out to bound the answer.")


class HistoryView(BaseModel):
    """A former state of an item, and what ended it."""

    version: int
    ended_by: str = Field(description="update, condense, merge, duplicate, delete, expire, evict or forget")
    at: datetime = Field(description="When it was ended.")
    by_person: bool
    reason: str
    successor: str | None = Field(default=None, description="The item that it was merged into.")
    text: str = Field(description="The text as it was; empty for what was deleted.")
    complete: bool


class HistoryAnswer(BaseModel):
    """What an item was before, newest first."""

    fence: str
    id: str
    versions: list[HistoryView]
    next_cursor: str | None = None


def view_item(item: Item, fence: Fence, *, offset: int = 0, limit: int = MAX_ANSWER_CHARACTERS) -> ItemView:
    """Show an item, its text from `offset` on and at most `limit` characters of it."""
    shown = item.text[offset : offset + limit]
    return ItemView(
        id=item.id,
        namespace=item.namespace,
        text=fence.around(shown, f"memory item {item.id}"),
        preservation=item.preservation,
        tags=list(item.tags),
        metadata=dict(item.metadata),
        source=item.source,
        created_at=item.created_at,
        updated_at=item.updated_at,
        last_used_at=item.last_used_at,
        use_count=item.use_count,
        expires_at=item.expires_at,
        version=item.version,
        complete=len(shown) == len(item.text),
        characters=len(item.text),
        warning=warning(shown),
    )


def item_answer(item: Item, offset: int = 0, new_nonce: NewNonce = random_nonce) -> ItemAnswer:
    """Answer with one item, from `offset` on."""
    fence = Fence([item.text], new_nonce)
    end = offset + MAX_ANSWER_CHARACTERS
    return ItemAnswer(
        fence=fence.nonce, item=view_item(item, fence, offset=offset), next_offset=end if end < len(item.text) else None
    )


def views(items: Sequence[Item], fence: Fence) -> list[ItemView]:
    """Show items in a list, each text cut to what a list has room for."""
    return [view_item(item, fence, limit=MAX_LISTED_CHARACTERS) for item in items]


def warning(text: str) -> str | None:
    """Return a warning about a text that imitates the fence, or None."""
    return WARNING if looks_like_a_fence(text) else None


def within(texts: Iterable[str], limit: int = MAX_ANSWER_CHARACTERS) -> int:
    """Return how many of the texts, from the first on, fit into `limit` characters together (at least one)."""
    room, count = limit, 0
    for text in texts:
        room -= len(text)
        if room < 0 and count:
            break
        count += 1
    return count


def number_of(cursor: str | None, length: int) -> int:
    """Return the place that a cursor of ours stands for. Raises ToolkitError for one that is not ours."""
    if cursor is None:
        return 0
    if not cursor.isascii() or not cursor.isdigit() or int(cursor) > length:
        raise ToolkitError("this cursor is not one that this tool gave", hint="Leave it out to begin at the start")
    return int(cursor)
