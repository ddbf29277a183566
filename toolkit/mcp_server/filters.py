"""Which passages a search may return, as a value and as SQL with parameters."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Filters:
    """None allows everything, an empty collection nothing.

    kinds:      "memory", "document"
    namespaces: the passage's namespace is one of these
    owner_ids:  the item's or document's id is one of these
    tags:       the memory item has every one of these; documents have no tags
    """

    kinds: Collection[str] | None = None
    namespaces: Collection[str] | None = None
    owner_ids: Collection[str] | None = None
    tags: Collection[str] | None = None

    @property
    def open(self) -> bool:
        """Whether everything is allowed."""
        return self.kinds is None and self.namespaces is None and self.owner_ids is None and not self.tags

    @property
    def by_owner(self) -> bool:
        """Whether single owners are picked, by id or tags; kind and namespace alone do not."""
        return self.owner_ids is not None or bool(self.tags)

    def sql(self) -> tuple[str, list[str]]:
        """Return a condition on `passages p` and its parameters."""
        conditions, parameters = ["1"], []
        for column, allowed in (("kind", self.kinds), ("namespace", self.namespaces), ("owner_id", self.owner_ids)):
            if allowed is not None:
                conditions.append(f"p.{column} IN ({', '.join('?' * len(allowed))})")
                parameters += sorted(allowed)
        for tag in sorted(set(self.tags or ())):
            conditions.append(
                "p.kind = 'memory' AND EXISTS (SELECT 1 FROM item_tags t WHERE t.item_id = p.owner_id AND t.tag = ?)"
            )
            parameters.append(tag)
        return " AND ".join(conditions), parameters
