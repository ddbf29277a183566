"""Vectors in memory, searched exactly: one product of a matrix with the query.

Rows are added at the end and struck out in place; the arrays are swapped for new ones when they must grow or when a
tenth of the rows is struck out. So a search that has taken a `view` goes on undisturbed in another thread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.mcp_server.filters import Filters


@dataclass(frozen=True)
class VectorRow:
    """A passage's vector (dimension,) float32, and what it is filtered by."""

    passage_id: int
    kind: str
    namespace: str
    vector: NDArray[np.float32]


@dataclass(frozen=True)
class MatrixView:
    """The rows as they were when it was taken: ids (n,), vectors (n, dimension), codes (n,) and liveness (n,)."""

    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    kinds: NDArray[np.int32]
    namespaces: NDArray[np.int32]
    alive: NDArray[np.bool_]
    codes: dict[str, int]

    def allowed(self, filters: Filters, owned: NDArray[np.int64] | None) -> NDArray[np.bool_]:
        """Return which rows may be found. `owned`: the passages of the owners that the filter picks, if it does."""
        mask = self.alive.copy()
        for column, names in ((self.kinds, filters.kinds), (self.namespaces, filters.namespaces)):
            if names is not None:
                mask &= np.isin(column, self._known(names))
        if owned is not None:
            mask &= np.isin(self.ids, owned)
        return mask

    def nearest(
        self, query: NDArray[np.float32], limit: int, mask: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the ids of the nearest allowed rows, nearest first (ties: the older first), and their similarities."""
        if mask.all():
            rows, scores = None, self.vectors @ query
        elif int(mask.sum()) * 4 < len(mask):  # few: their rows alone are multiplied
            rows = np.flatnonzero(mask)
            scores = self.vectors[rows] @ query
        else:
            rows = None
            scores = np.where(mask, self.vectors @ query, np.float32(-np.inf))
        count = min(limit, int(mask.sum()))
        best = np.argpartition(scores, len(scores) - count)[len(scores) - count :] if count else np.zeros(0, np.int64)
        chosen = best if rows is None else rows[best]
        order = np.lexsort((self.ids[chosen], -scores[best]))
        return self.ids[chosen][order], scores[best][order]

    def _known(self, names: Collection[str]) -> list[int]:
        return [self.codes[name] for name in sorted(names) if name in self.codes]


class VectorMatrix:
    """The vectors of a store in memory. Not locked: one thread changes it at a time, `view` may be used by many."""

    def __init__(self, dimension: int, capacity: int = 1024) -> None:
        self.dimension = dimension
        self._codes: dict[str, int] = {}
        self._rows: dict[int, int] = {}
        self._dead = 0
        self._used = 0
        self._allocate(capacity)

    def __len__(self) -> int:
        return len(self._rows)

    def view(self) -> MatrixView:
        """Return the rows as they are now."""
        used = self._used
        return MatrixView(
            self._ids[:used],
            self._vectors[:used],
            self._kinds[:used],
            self._namespaces[:used],
            self._alive[:used],
            self._codes,
        )

    def put(self, rows: Iterable[VectorRow]) -> None:
        """Add rows, or bring those up to date that are there."""
        for row in rows:
            place = self._rows.get(row.passage_id)
            if place is None:
                if self._used == len(self._ids):
                    self._rebuild(2 * self._used)
                place = self._used
                self._vectors[place] = row.vector
                self._ids[place] = row.passage_id
            self._kinds[place] = self._code(row.kind)
            self._namespaces[place] = self._code(row.namespace)
            self._alive[place] = True
            if place == self._used:
                self._rows[row.passage_id] = place
                self._used += 1

    def remove(self, passage_ids: Iterable[int]) -> None:
        """Strike rows out; ids that are not there are passed over."""
        for passage_id in passage_ids:
            place = self._rows.pop(passage_id, None)
            if place is not None:
                self._alive[place] = False
                self._dead += 1
        if self._dead > 1000 and self._dead * 10 > self._used:
            self._rebuild(max(1024, len(self._ids)))

    def _code(self, name: str) -> int:
        return self._codes.setdefault(name, len(self._codes))

    def _allocate(self, capacity: int) -> None:
        self._ids = np.zeros(capacity, np.int64)
        self._vectors = np.zeros((capacity, self.dimension), np.float32)
        self._kinds = np.zeros(capacity, np.int32)
        self._namespaces = np.zeros(capacity, np.int32)
        self._alive = np.zeros(capacity, np.bool_)

    def _rebuild(self, capacity: int) -> None:
        old = self.view()
        kept = np.flatnonzero(old.alive)
        self._allocate(max(capacity, len(kept) + 1024))
        self._used, self._dead = len(kept), 0
        self._ids[: self._used] = old.ids[kept]
        self._vectors[: self._used] = old.vectors[kept]
        self._kinds[: self._used] = old.kinds[kept]
        self._namespaces[: self._used] = old.namespaces[kept]
        self._alive[: self._used] = True
        self._rows = {int(passage_id): place for place, passage_id in enumerate(self._ids[: self._used])}
