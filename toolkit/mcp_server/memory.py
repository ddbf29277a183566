"""The memory: every operation on items, each asking the policy first, each one transaction.

A write is acknowledged (the method returns) when it is on the disk. Former versions go into the history in the same
transaction. Models are slow, so what needs embeddings is computed before the transaction and checked again inside it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from toolkit.errors import ToolkitError
from toolkit.mcp_server import duplicates, forgetting, item_links
from toolkit.mcp_server.duplicates import Offer
from toolkit.mcp_server.indexer import Indexer
from toolkit.mcp_server.item_rows import Change, erase_item, rewrite_item, same_texts
from toolkit.mcp_server.item_state import check_version, kind_of_change
from toolkit.mcp_server.items import (
    Draft,
    Item,
    Link,
    checked_draft,
    checked_relation,
    new_item_id,
)
from toolkit.mcp_server.keeping import SIMILAR, Keeper
from toolkit.mcp_server.memory_reading import MemoryReader
from toolkit.mcp_server.memory_results import Forgotten, Stored
from toolkit.mcp_server.policy import Policy, stricter
from toolkit.mcp_server.search import Search
from toolkit.mcp_server.store import Store
from toolkit.preservation import Preservation

NOT_GIVEN: Any = object()
"""The default of an argument whose None means something."""


def utc_now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


class Memory(MemoryReader):
    """All that is done with items. Safe to use from many threads and processes at once.

    now:     the clock (aware)
    new_id:  makes an id from the time; ids must sort as they are made
    indexer: told when there are new passages to embed
    """

    def __init__(
        self,
        store: Store,
        policy: Policy,
        search: Search,
        *,
        now: Callable[[], datetime] = utc_now,
        new_id: Callable[[datetime], str] = new_item_id,
        indexer: Indexer | None = None,
    ) -> None:
        super().__init__(store, policy, search, now)
        self._keeper = Keeper(policy, search, now, new_id)
        self._indexer = indexer

    def notify(self) -> None:
        """Say that there may be new passages to embed."""
        if self._indexer is not None:
            self._indexer.notify()

    # --- keeping -----------------------------------------------------------------------------------------------------

    def store(
        self,
        text: str,
        *,
        namespace: str | None = None,
        tags: Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
        preservation: Preservation | None = None,
        source: str | None = None,
        expires_at: datetime | None = None,
    ) -> Stored:
        """Keep a text, once: the same text is joined with what is there, one that says nearly the same by the policy.

        Raises ToolkitError: the text cannot be kept, the namespace is not known, the level does not expire.
        """
        draft = checked_draft(text, tags, metadata, source)
        offer = self._keeper.offer(draft, namespace, preservation, expires_at)
        with self._store.reading() as connection:
            same = self._keeper.same(connection, offer)
        if (known := self._keeper.already(same, offer)) is not None:
            self._note_uses([known.item.id])
            return known
        near, note = ([], "") if same is not None else self._keeper.nearly_same(offer)
        with self._write() as connection:
            stored = self._keeper.keep(connection, offer, near)
            evicted = forgetting.evict_for(connection, self._policy, stored.item, self._now())
        if stored.outcome in ("exists", "merged"):
            self._note_uses([stored.item.id])
        self.notify()
        more = f"; {len(evicted)} flexible items were evicted, by the namespace's budget" if evicted else ""
        return replace(stored, reason=stored.reason + more + note, evicted=tuple(gone.id for gone in evicted))

    # --- changing ----------------------------------------------------------------------------------------------------

    def update(
        self,
        item_id: str,
        *,
        text: str | None = None,
        tags: Iterable[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        preservation: Preservation | None = None,
        expires_at: datetime | None = NOT_GIVEN,
        expected_version: int | None = None,
        by_person: bool = False,
    ) -> Item:
        """Change an item; the former version goes into its history. What is not given stays, `metadata` is given whole.

        Raises ToolkitError: there is no such item, it has another version than the expected one, the policy forbids it
        (NeedsPerson where a person could do it).
        """
        with self._write() as connection:
            item = self._present(connection, item_id)
            check_version(item, expected_version)
            draft = checked_draft(
                item.text if text is None else text,
                item.tags if tags is None else tags,
                item.metadata if metadata is None else metadata,
                item.source,
            )
            level = self._level_after(item, draft.tags, preservation, by_person)
            ends = item.expires_at if expires_at is NOT_GIVEN else expires_at
            if expires_at is not NOT_GIVEN:
                self._keeper.check_expiry(ends, level, "see explain_policy")
            wanted = replace(
                item,
                text=draft.text,
                tags=draft.tags,
                metadata=draft.metadata,
                preservation=level,
                expires_at=ends if level == "flexible" else None,
            )
            self._policy.require(kind_of_change(item, wanted), item, by_person=by_person)
            if wanted == item:
                return item
            written = rewrite_item(connection, item, wanted, Change("update", self._now(), by_person=by_person))
            self._link_same(connection, item, written)
        self.notify()
        return written

    def _level_after(
        self, item: Item, tags: Sequence[str], asked: Preservation | None, by_person: bool
    ) -> Preservation:
        decision = self._policy.preservation_for(
            item.namespace, tags, asked or item.preservation, by_person=by_person, known=True
        )
        if asked is None:
            return decision.level if stricter(decision.level, item.preservation) else item.preservation
        if stricter(item.preservation, asked):
            self._policy.require("lower", item, by_person=by_person)
        if decision.level != asked:
            raise ToolkitError(f"the item cannot be {asked}: {decision.reason}", where=f"item {item.id}")
        return asked

    def _link_same(self, connection: sqlite3.Connection, old: Item, new: Item) -> None:
        if old.text != new.text:
            for other in same_texts(connection, new.namespace, new.text):
                if other.id != new.id:
                    item_links.add_link(connection, new.id, SIMILAR, other.id, self._now())

    def condense(
        self, item_id: str, text: str, *, expected_version: int | None = None, by_person: bool = False
    ) -> Item:
        """Put a shorter text in the place of an item's own; the original goes into its history.

        Raises ToolkitError: as `update`, and when the text is not shorter.
        """
        with self._write() as connection:
            item = self._present(connection, item_id)
            check_version(item, expected_version)
            self._policy.require("condense", item, by_person=by_person)
            draft = checked_draft(text)
            if len(draft.text) >= len(item.text):
                what = f"{len(draft.text)} characters are not shorter than {len(item.text)}"
                raise ToolkitError(what, where=f"item {item.id}", hint="To change the text, update the item")
            change = Change("condense", self._now(), by_person=by_person)
            written = rewrite_item(connection, item, replace(item, text=draft.text), change)
        self.notify()
        return written

    def merge(self, ids: Iterable[str], text: str | None = None, *, by_person: bool = False) -> Item:
        """Merge items into the first one: all tags, metadata and links, the strictest level, the longest life.

        text: the merged text; None: all texts, below each other. All originals stay in history.

        Raises ToolkitError: fewer than two items, several namespaces, the policy forbids it for one of them.
        """
        chosen = list(dict.fromkeys(ids))
        if len(chosen) < 2:
            raise ToolkitError("a merge needs two different items or more")
        with self._write() as connection:
            items = [self._present(connection, one) for one in chosen]
            first, *others = items
            if len({item.namespace for item in items}) > 1:
                raise ToolkitError("items of different namespaces are not merged", hint="Link them instead")
            for item in items:
                self._policy.require("merge", item, by_person=by_person)
            wanted = first
            for other in others:
                draft = Draft(other.text, other.tags, {**other.metadata, **wanted.metadata}, other.source)
                offer = Offer(draft, other.namespace, other.preservation, other.expires_at)
                joined = duplicates.joined_texts(wanted.text, other.text)
                wanted = duplicates.with_offer(self._policy, wanted, offer, joined)
            if text is not None:
                wanted = replace(wanted, text=text)
            checked_draft(wanted.text, wanted.tags, wanted.metadata, wanted.source)
            now = self._now()
            change = Change("merge", now, f"merged with {', '.join(chosen[1:])}", by_person)
            written = rewrite_item(connection, first, wanted, change)
            for other in others:
                item_links.move_links(connection, other.id, first.id)
                erase_item(connection, other, Change("merge", now, f"merged into {first.id}", by_person, first.id))
        self.notify()
        return written

    def delete(self, item_id: str, *, by_person: bool = False) -> Item:
        """Delete an item for good, with its history and links; only the line that it was there stays.

        Raises NeedsPerson for a strict item unless a person asked for it; ToolkitError when there is no such item.
        """
        with self._write() as connection:
            item = self._present(connection, item_id)
            self._policy.require("delete", item, by_person=by_person)
            erase_item(connection, item, Change("delete", self._now(), by_person=by_person))
        return item

    def link(self, source_id: str, target_id: str, relation: str = "related") -> Link:
        """Link two items (read: source, relation, target). A link that is there stays as it is."""
        name = checked_relation(relation)
        if source_id == target_id:
            raise ToolkitError("an item is not linked with itself", where=f"item {source_id}")
        with self._write() as connection:
            for one in (source_id, target_id):
                self._policy.require("annotate", self._present(connection, one))
            return item_links.add_link(connection, source_id, name, target_id, self._now())

    def unlink(self, source_id: str, target_id: str, relation: str = "related") -> bool:
        """Take a link away; say whether it was there."""
        with self._write() as connection:
            return item_links.remove_link(connection, source_id, checked_relation(relation), target_id)

    # --- forgetting --------------------------------------------------------------------------------------------------

    def forget(
        self,
        *,
        older_than: timedelta | None = None,
        unused: timedelta | None = None,
        namespace: str | None = None,
        dry_run: bool,
    ) -> Forgotten:
        """Forget flexible items that are older, and that were unused for longer (both, where both are given).

        Raises ToolkitError when neither is given, or there is no such namespace.
        """
        if older_than is None and unused is None:
            raise ToolkitError("say what to forget", hint="For example: --older-than 90d, or --unused 30d")
        with self._write() as connection:
            if namespace is not None:
                self._readable(connection, namespace)
        rule = forgetting.Age(older_than, unused)
        return forgetting.forget(self._store, self._policy, rule, namespace, self._now(), dry_run=dry_run)

    def enforce_budgets(self, dry_run: bool = False) -> Forgotten:
        """Forget flexible items whose time has come, that are too old or unused, or too many for their namespace."""
        self.flush_uses()
        return forgetting.enforce_budgets(self._store, self._policy, self._now(), dry_run=dry_run)
