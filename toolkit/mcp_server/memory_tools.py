"""The tools of the memory: thin functions over `memory.py`, which asks the policy about every write.

Annotations here are values, not text (no `from __future__ import annotations`): the SDK reads them, and some hold what
is known only when the tools are made.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import anyio.to_thread
from mcp.server.mcpserver.resolve import ElicitationResult, Resolve
from mcp.server.mcpserver.tools import Tool
from pydantic import Field

from toolkit.errors import ToolkitError
from toolkit.mcp_server.answers import (
    MAX_ANSWER_CHARACTERS,
    MAX_LISTED_CHARACTERS,
    ChangedAnswer,
    HistoryAnswer,
    HistoryView,
    ItemAnswer,
    LinkView,
    ListAnswer,
    NewNonce,
    RelatedAnswer,
    RelatedView,
    SimilarView,
    StoredAnswer,
    item_answer,
    number_of,
    view_item,
    views,
    within,
)
from toolkit.mcp_server.consent import DeleteConsent, Unasked, delete_question, is_consent, was_asked
from toolkit.mcp_server.fences import Fence, random_nonce
from toolkit.mcp_server.items import MAX_METADATA_BYTES, Item
from toolkit.mcp_server.settings import Services
from toolkit.mcp_server.tools import (
    MAX_LISTED,
    Cursor,
    ItemId,
    ItemText,
    Level,
    Name,
    Namespace,
    Offset,
    Tags,
    make_tool,
)

Metadata = Annotated[dict[str, Any], Field(description=f"Anything in JSON, up to {MAX_METADATA_BYTES:,} bytes.")]
Moment = Annotated[datetime | None, Field(description="ISO 8601 with a time zone; null: none.")]
Relation = Annotated[Name, Field(description="How they belong together, e.g. `supports`, `replaces`, `about`.")]


def memory_tools(services: Callable[[], Services], new_nonce: NewNonce = random_nonce) -> list[Tool]:
    """Return the tools that read and write items."""
    return [
        *_keeping(services),
        *_shortening(services),
        *_deleting(services),
        *_reading(services, new_nonce),
        *_linking(services, new_nonce),
    ]


def _keeping(services: Callable[[], Services]) -> list[Tool]:
    def memory_store(
        text: ItemText,
        namespace: Namespace = None,
        tags: Annotated[Tags, Field(description="Short labels to filter by.")] = [],  # noqa: B006
        metadata: Metadata = {},  # noqa: B006
        preservation: Level = None,
        source: Annotated[str | None, Field(description="Where it is from.", max_length=500)] = None,
        expires_at: Moment = None,
    ) -> StoredAnswer:
        """Keep a text in the memory.

        Say one thing in each item, so that it is found by what it says. A text that is there already is not kept twice;
        one that says nearly the same is merged or linked, as the policy has it.
        """
        stored = services().memory.store(
            text,
            namespace=namespace,
            tags=tuple(tags),
            metadata=metadata,
            preservation=preservation,
            source=source,
            expires_at=_aware(expires_at),
        )
        item = stored.item
        return StoredAnswer(
            outcome=stored.outcome,
            reason=stored.reason,
            id=item.id,
            namespace=item.namespace,
            preservation=item.preservation,
            version=item.version,
            similar=[SimilarView(id=one.id, similarity=one.similarity) for one in stored.similar],
            evicted=list(stored.evicted),
        )

    def memory_update(
        id: ItemId,
        text: Annotated[ItemText | None, Field(description="A new text, or null to leave it.")] = None,
        tags: Annotated[Tags | None, Field(description="All tags from now on, or null to leave them.")] = None,
        metadata: Annotated[Metadata | None, Field(description="All metadata from now on, or null.")] = None,
        preservation: Level = None,
        expires_at: Moment = None,
        never_expires: Annotated[bool, Field(description="Take away the time at which it expires.")] = False,
        expected_version: Annotated[
            int | None, Field(description="Refuse when the item has another version by now.", ge=1)
        ] = None,
    ) -> ChangedAnswer:
        """Change an item; its earlier state stays in its history.

        The text of a strict item cannot be changed: store a new item and link it instead.
        """
        changes: dict[str, Any] = {"text": text, "metadata": metadata, "preservation": preservation}
        changes["tags"] = tuple(tags) if tags is not None else None
        changes["expected_version"] = expected_version
        if never_expires or expires_at is not None:
            changes["expires_at"] = None if never_expires else _aware(expires_at)
        return _changed(services().memory.update(id, **changes), "updated")

    return [
        make_tool(memory_store, title="Remember", repeats=True),
        make_tool(memory_update, title="Change a memory", destroys=True, repeats=True),
    ]


def _shortening(services: Callable[[], Services]) -> list[Tool]:
    def memory_condense(id: ItemId, text: ItemText) -> ChangedAnswer:
        """Put a shorter text in the place of an item's own.

        The original stays in its history. Strict items are refused.
        """
        return _changed(services().memory.condense(id, text), "condensed; the original is in its history")

    def memory_merge(
        ids: Annotated[list[Name], Field(description="The one to keep first.", min_length=2, max_length=20)],
        text: Annotated[ItemText | None, Field(description="The merged text; null: all texts, joined.")] = None,
    ) -> ChangedAnswer:
        """Merge items that say the same into one.

        The originals stay in its history. Strict items are refused.
        """
        return _changed(services().memory.merge(tuple(ids), text), f"{len(ids)} items merged into this one")

    return [
        make_tool(memory_condense, title="Shorten a memory", destroys=True, repeats=True),
        make_tool(memory_merge, title="Merge memories", destroys=True),
    ]


def _deleting(services: Callable[[], Services]) -> list[Tool]:
    async def memory_delete(
        id: ItemId,
        consent: Annotated[ElicitationResult[DeleteConsent | Unasked], Resolve(delete_question(services))],
    ) -> ChangedAnswer:
        """Delete an item for good, with its history.

        For a strict item a person is asked; no argument can stand for their consent.
        """
        if was_asked(consent) and not is_consent(consent):
            raise ToolkitError("the person who was asked did not agree; nothing was deleted", where=f"item {id}")
        by_person = is_consent(consent)
        deleted = await anyio.to_thread.run_sync(lambda: services().memory.delete(id, by_person=by_person))
        return _changed(deleted, "deleted, as a person agreed" if by_person else "deleted")

    return [make_tool(memory_delete, title="Delete a memory", destroys=True)]


def _reading(services: Callable[[], Services], new_nonce: NewNonce) -> list[Tool]:
    def memory_get(id: ItemId, offset: Offset = 0) -> ItemAnswer:
        """Read one item in full; a very long text comes in pieces, `offset` goes on."""
        return item_answer(services().memory.get(id), offset, new_nonce)

    def memory_list(
        namespace: Namespace = None,
        tags: Annotated[Tags, Field(description="Items that have all of these tags.")] = [],  # noqa: B006
        preservation: Annotated[Level, Field(description="Items of this level.")] = None,
        limit: Annotated[int, Field(description="How many items at most.", ge=1, le=MAX_LISTED)] = 20,
        cursor: Cursor = None,
    ) -> ListAnswer:
        """List items, newest first.

        The answer is bounded: `next_cursor` goes on. Long texts are cut at the end: memory_get reads them in full.
        """
        chosen = {"namespace": namespace, "tags": tuple(tags), "preservation": preservation, "cursor": cursor}
        page = services().memory.list(limit=limit, **chosen)
        shown = _fitting(page.items)
        if shown < len(page.items):  # the cursor has to point behind what is shown
            page = services().memory.list(limit=shown, **chosen)
        fence = Fence((item.text for item in page.items), new_nonce)
        return ListAnswer(fence=fence.nonce, items=views(page.items, fence), next_cursor=page.next_cursor)

    def memory_history(id: ItemId, cursor: Cursor = None) -> HistoryAnswer:
        """Show what an item was before: its former texts, newest first, and what ended each."""
        entries = list(services().memory.history(id))
        start = number_of(cursor, len(entries))
        shown = entries[start : start + within(entry.text for entry in entries[start:])]
        fence = Fence((entry.text for entry in shown), new_nonce)
        after = start + len(shown)
        return HistoryAnswer(
            fence=fence.nonce,
            id=id,
            versions=[
                HistoryView(
                    version=entry.version,
                    ended_by=entry.operation,
                    at=entry.at,
                    by_person=entry.by_person,
                    reason=entry.reason,
                    successor=entry.successor,
                    text=fence.around(entry.text[:MAX_ANSWER_CHARACTERS], f"memory item {id}, version {entry.version}"),
                    complete=len(entry.text) <= MAX_ANSWER_CHARACTERS,
                )
                for entry in shown
            ],
            next_cursor=str(after) if after < len(entries) else None,
        )

    return [
        make_tool(memory_get, title="Read a memory", reads=True),
        make_tool(memory_list, title="List memories", reads=True),
        make_tool(memory_history, title="History of a memory", reads=True),
    ]


def _linking(services: Callable[[], Services], new_nonce: NewNonce) -> list[Tool]:
    def memory_link(source_id: ItemId, target_id: ItemId, relation: Relation = "related") -> LinkView:
        """Link two items, so that memory_related shows one with the other."""
        services().memory.link(source_id, target_id, relation)
        return LinkView(source_id=source_id, relation=relation, target_id=target_id, done="linked")

    def memory_unlink(source_id: ItemId, target_id: ItemId, relation: Relation = "related") -> LinkView:
        """Take a link away; the items stay."""
        was_there = services().memory.unlink(source_id, target_id, relation)
        done = "unlinked" if was_there else "there was no such link"
        return LinkView(source_id=source_id, relation=relation, target_id=target_id, done=done)

    def memory_related(
        id: ItemId, depth: Annotated[int, Field(description="Links away.", ge=1, le=3)] = 1
    ) -> RelatedAnswer:
        """Show what an item is linked with, nearest first, up to `depth` links away."""
        related = services().memory.related(id, depth=depth)
        shown = related[: min(MAX_LISTED, _fitting([one.item for one in related]))]
        fence = Fence((one.item.text for one in shown), new_nonce)
        return RelatedAnswer(
            fence=fence.nonce,
            id=id,
            related=[
                RelatedView(
                    source_id=one.link.source_id,
                    relation=one.link.relation,
                    target_id=one.link.target_id,
                    depth=one.depth,
                    item=view_item(one.item, fence, limit=MAX_LISTED_CHARACTERS),
                )
                for one in shown
            ],
            left_out=len(related) - len(shown),
        )

    return [
        make_tool(memory_link, title="Link memories", repeats=True),
        make_tool(memory_unlink, title="Unlink memories", destroys=True, repeats=True),
        make_tool(memory_related, title="Linked memories", reads=True),
    ]


def _changed(item: Item, done: str) -> ChangedAnswer:
    return ChangedAnswer(
        id=item.id, namespace=item.namespace, preservation=item.preservation, version=item.version, done=done
    )


def _fitting(items: Sequence[Item]) -> int:
    fence = Fence([])
    shown = (view_item(item, fence, limit=MAX_LISTED_CHARACTERS).model_dump_json() for item in items)
    return within(shown) if items else 0


def _aware(moment: datetime | None) -> datetime | None:
    if moment is None or moment.tzinfo is not None:
        return moment
    return moment.replace(tzinfo=UTC)
