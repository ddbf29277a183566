"""Keeping a text: as a new item, joined with one that says the same, merged into or linked with one like it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from toolkit.errors import ToolkitError
from toolkit.mcp_server import duplicates, item_links
from toolkit.mcp_server.duplicates import Offer
from toolkit.mcp_server.item_rows import Change, add_history, insert_item, read_items, rewrite_item, same_texts
from toolkit.mcp_server.items import Draft, Item, estimated_tokens, is_over, metadata_text, time_text
from toolkit.mcp_server.memory_results import Similar, Stored
from toolkit.mcp_server.policy import Policy
from toolkit.mcp_server.search import Search
from toolkit.preservation import Preservation

MAX_SIMILAR = 5
SIMILAR = "similar_to"
"""The relation that links texts which say nearly the same."""


class Keeper:
    """Decides what becomes of a text. `keep` runs inside the caller's transaction, `nearly_same` before it."""

    def __init__(
        self,
        policy: Policy,
        search: Search,
        now: Callable[[], datetime],
        new_id: Callable[[datetime], str],
    ) -> None:
        self._policy = policy
        self._search = search
        self._now = now
        self._new_id = new_id

    def offer(
        self, draft: Draft, namespace: str | None, preservation: Preservation | None, expires_at: datetime | None
    ) -> Offer:
        """Return what the policy makes of a draft. Raises ToolkitError when it refuses."""
        chosen = self._policy.namespace_for(namespace)
        decision = self._policy.preservation_for(chosen, draft.tags, preservation)
        if not decision.allowed:
            raise ToolkitError(decision.reason)
        self.check_expiry(expires_at, decision.level, decision.reason)
        return Offer(draft, chosen, decision.level, expires_at, decision.reason)

    def check_expiry(self, expires_at: datetime | None, level: Preservation, reason: str) -> None:
        """Raise ToolkitError when an item of a level cannot expire then. `reason`: why it has that level."""
        if expires_at is None:
            return
        if level != "flexible":
            hint = "Leave expires_at out, or ask for preservation flexible"
            raise ToolkitError(f"only flexible items expire, and this one is {level}: {reason}", hint=hint)
        if time_text(expires_at) <= time_text(self._now()):
            raise ToolkitError(f"expires_at {expires_at.isoformat()} is in the past")

    def same(self, connection: sqlite3.Connection, offer: Offer) -> Item | None:
        """Return the item that the offer is the same as, or None."""
        found = same_texts(connection, offer.namespace, offer.draft.text)
        return next(
            (item for item in found if duplicates.is_same(item, offer) and not is_over(item, self._now())), None
        )

    def already(self, item: Item | None, offer: Offer) -> Stored | None:
        """Return the answer when an item holds all that is offered, so that nothing has to be written."""
        if item is None or duplicates.with_offer(self._policy, item, offer) != item:
            return None
        if not duplicates.is_contained(offer, item):
            return None
        return Stored(item, "exists", (Similar(item.id, 1.0),), "the same text is there already")

    def nearly_same(self, offer: Offer) -> tuple[list[Similar], str]:
        """Return what means nearly the same, and a note when that could not be found out. Asks the model: slow."""
        if not duplicates.fits_one_passage(offer.draft.text):
            return [], ""
        try:
            hits = self._search.similar(offer.draft.text, namespace=offer.namespace, limit=MAX_SIMILAR)
        except ToolkitError as error:  # a text is kept even when it cannot be compared
            return [], f"; it was not compared with others: {error.problems[0].what}"
        threshold = self._policy.duplicates.threshold
        near: dict[str, float] = {}
        for hit in hits:
            if hit.similarity is not None and hit.similarity >= threshold:
                near[hit.owner_id] = max(hit.similarity, near.get(hit.owner_id, 0.0))
        return [Similar(item_id, similarity) for item_id, similarity in near.items()], ""

    def keep(self, connection: sqlite3.Connection, offer: Offer, near: Sequence[Similar]) -> Stored:
        """Write an offer down. `near` may be out of date: what is written is decided on what is there now."""
        same = self.same(connection, offer)
        if same is not None:
            return self._again(connection, same, offer)
        spelt_otherwise = same_texts(connection, offer.namespace, offer.draft.text)
        near = [Similar(item.id, 1.0) for item in spelt_otherwise] + list(near)
        items = read_items(connection, [one.id for one in near])
        near = [
            one
            for one in near
            if one.id in items
            and not is_over(items[one.id], self._now())
            and duplicates.fits_one_passage(items[one.id].text)
        ][:MAX_SIMILAR]
        if near and self._merges(items[near[0].id], offer):
            return self._merged_in(connection, items[near[0].id], offer, near)
        now = self._now()
        item = self._new_item(offer, now)
        insert_item(connection, item)
        for one in near:
            item_links.add_link(connection, item.id, SIMILAR, one.id, now)
        outcome = "linked" if near else "stored"
        reason = f"{offer.reason}; linked with what says nearly the same" if near else offer.reason
        return Stored(item, outcome, tuple(near), reason)

    def _new_item(self, offer: Offer, now: datetime) -> Item:
        draft = offer.draft
        return Item(
            id=self._new_id(now),
            namespace=offer.namespace,
            text=draft.text,
            preservation=offer.level,
            tags=draft.tags,
            metadata=draft.metadata,
            source=draft.source,
            created_at=now,
            updated_at=now,
            last_used_at=now,
            use_count=0,
            expires_at=offer.expires_at,
            version=1,
            tokens=estimated_tokens(draft.text),
        )

    def _again(self, connection: sqlite3.Connection, item: Item, offer: Offer) -> Stored:
        wanted = duplicates.with_offer(self._policy, item, offer)
        reason = "the same text is there already"
        if wanted != item:
            written = rewrite_item(connection, item, wanted, Change("update", self._now(), "stored again"))
            reason += "; tags, metadata, level and time of expiry were joined"
        else:
            written = item
        if not duplicates.is_contained(offer, written):
            self._remember_offer(connection, written, offer)
            reason += "; what differs is in its history"
        return Stored(written, "exists", (Similar(item.id, 1.0),), reason)

    def _merges(self, item: Item, offer: Offer) -> bool:
        levels = {item.preservation, offer.level}
        if "strict" in levels or not self._policy.may("merge", item).allowed:
            return False
        rules = self._policy.duplicates
        wanted = rules.moderate if "moderate" in levels else rules.flexible
        return wanted == "merge" and duplicates.fits_one_passage(duplicates.joined_texts(item.text, offer.draft.text))

    def _merged_in(self, connection: sqlite3.Connection, item: Item, offer: Offer, near: Sequence[Similar]) -> Stored:
        text = duplicates.joined_texts(item.text, offer.draft.text)
        wanted = duplicates.with_offer(self._policy, item, offer, text)
        written = item
        if wanted != item:
            change = Change("merge", self._now(), f"a text that says nearly the same ({near[0].similarity:.2f})")
            written = rewrite_item(connection, item, wanted, change)
        if not duplicates.is_contained(offer, written):
            self._remember_offer(connection, written, offer)
        reason = "merged into an item that says nearly the same; its original is in its history"
        return Stored(written, "merged", tuple(near), reason)

    def _remember_offer(self, connection: sqlite3.Connection, item: Item, offer: Offer) -> None:
        draft = offer.draft
        there = connection.execute(
            "SELECT 1 FROM history WHERE item_id = ? AND operation = 'duplicate' AND text = ? AND metadata = ?"
            " AND source IS ?",
            (item.id, draft.text, metadata_text(draft.metadata), draft.source),
        ).fetchone()
        if there is None:  # a client that repeats itself does not fill the history
            offered = replace(item, text=draft.text, tags=draft.tags, metadata=draft.metadata, source=draft.source)
            add_history(connection, offered, Change("duplicate", self._now(), "offered again, as it was offered"))
