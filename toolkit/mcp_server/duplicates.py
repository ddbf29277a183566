"""A text that is there already, or nearly: what is joined, what is linked. Nothing that was offered is dropped.

What does not fit into the item that stays (another value of the same metadata key, another source) goes into the item's
history as a line of its own, `duplicate`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from toolkit.mcp_server.item_rows import item_passages
from toolkit.mcp_server.items import Draft, Item
from toolkit.mcp_server.policy import Policy, stricter
from toolkit.preservation import Preservation


@dataclass(frozen=True)
class Offer:
    """A checked text that is to be kept, with the level that the policy gave it."""

    draft: Draft
    namespace: str
    level: Preservation
    expires_at: datetime | None
    reason: str = ""


def is_same(item: Item, offer: Offer) -> bool:
    """Say whether an item with the same normalised text stands for the offer: for strict ones every byte counts."""
    return item.text == offer.draft.text or "strict" not in (item.preservation, offer.level)


def with_offer(policy: Policy, item: Item, offer: Offer, text: str | None = None) -> Item:
    """Join an offer with the item that stays: all tags, all metadata, the stricter level, the longer life.

    Where both name the same metadata key the newer value stays, unless the policy lets nobody change the item.
    """
    fixed = not policy.may("update", item).allowed
    ours, theirs = dict(item.metadata), dict(offer.draft.metadata)
    tags = tuple(sorted({*item.tags, *offer.draft.tags}))
    level = offer.level if stricter(offer.level, item.preservation) else item.preservation
    level = policy.preservation_for(item.namespace, tags, level, known=True).level
    return replace(
        item,
        text=item.text if text is None else text,
        tags=tags,
        metadata={**theirs, **ours} if fixed else {**ours, **theirs},
        source=item.source if fixed else item.source or offer.draft.source,
        preservation=level,
        expires_at=longer_life(item.expires_at, offer.expires_at) if level == "flexible" else None,
    )


def is_contained(offer: Offer, item: Item) -> bool:
    """Say whether an item holds all that was offered."""
    draft = offer.draft
    holds_metadata = all(item.metadata.get(key, ...) == value for key, value in draft.metadata.items())
    return draft.text in item.text and holds_metadata and draft.source in (None, item.source)


def longer_life(one: datetime | None, other: datetime | None) -> datetime | None:
    """Return the later of two times at which something expires; None is never."""
    return None if one is None or other is None else max(one, other)


def joined_texts(first: str, second: str) -> str:
    """Put two texts that say nearly the same below each other; one that differs in case or its full stop only is left.

    Nothing cleverer: “use tabs” is part of “do not use tabs”, and −5 has the same words as 5.
    """
    return first if _plain(first) == _plain(second) else f"{first.rstrip()}\n{second.lstrip()}"


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".!")


def fits_one_passage(text: str) -> bool:
    """Say whether a text is short enough to be searched as one passage, hence to be compared as a whole."""
    return len(item_passages(text)) == 1
