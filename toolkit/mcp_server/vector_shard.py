"""One HNSW graph (usearch, float16): a part of the vectors of a store, small enough to be searched well.

HNSW: Malkov & Yashunin 2018, arXiv:1603.09320.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from usearch.index import Index

# On the 100,000 vectors of benchmarks/memory.py recall@10 is 0.993 to 0.997 with these; with connectivity 16 and
# expansions of 128 it is 0.93, and the graph is built in a third of the time. On its million, in five shards, 256
# candidates in each find 0.983 in 7 ms, 384 find 0.994 in 11 and 512 find 0.997 in 14.
CONNECTIVITY = 32
EXPANSION_ADD = 256
EXPANSION_SEARCH = 256
EXPANSION_SEARCH_SIZE = 100_000
MOST_EXPANSION_SEARCH = 384
# So many removals never make a shard worth building again.
WORN_FROM = 1_000


@dataclass(frozen=True)
class ShardFile:
    """The file that holds a shard. name: in the folder of the store."""

    name: str
    size_bytes: int
    sha256: str


class Shard:
    """Not locked: the graph that it belongs to sees to it that a search and a change never overlap.

    changes: how many there were in this process
    """

    def __init__(self, dimension: int, index: Index | None = None, file: ShardFile | None = None) -> None:
        self._index = index or Index(
            ndim=dimension,
            metric="ip",
            dtype="f16",
            connectivity=CONNECTIVITY,
            expansion_add=EXPANSION_ADD,
            expansion_search=EXPANSION_SEARCH,
        )
        self.file = file
        self.changes = self._saved_changes = 0
        # What is removed keeps its place in usearch's graph, in its file too, until a new vector takes it.
        self._dead = int(self._index.stats.nodes) - len(self._index)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def unsaved(self) -> int:
        """How many changes its file has not seen."""
        return self.changes - self._saved_changes

    @property
    def worn(self) -> bool:
        """Whether so much was removed that it should be built again."""
        return self._dead > WORN_FROM and self._dead * 4 > len(self)

    def add(self, keys: NDArray[np.uint64], vectors: NDArray[np.float32], threads: int) -> None:
        """Add vectors (n, dimension) under keys that are not there."""
        if not len(keys):
            return
        self._index.add(keys, vectors, threads=threads)
        self._dead = max(0, self._dead - len(keys))
        self.changes += len(keys)

    def remove(self, keys: Sequence[int] | NDArray[np.uint64]) -> None:
        """Remove what is there of `keys`."""
        wanted = np.asarray(keys, dtype=np.uint64)
        gone = wanted[self.holds(wanted)]
        for key in gone.tolist():
            self._index.remove(key)
        self._dead += len(gone)
        self.changes += len(gone)

    def holds(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Say of each key whether it is there."""
        return np.asarray(self._index.contains(keys), dtype=bool) if len(keys) else np.zeros(0, bool)

    def keys(self) -> NDArray[np.uint64]:
        """Return the keys of all vectors in it."""
        return np.asarray(self._index.keys[:], dtype=np.uint64)

    def vectors(self, keys: NDArray[np.uint64]) -> NDArray[np.float32]:
        """Return vectors (n, dimension), rounded to float16, of keys that are there."""
        found = self._index.get(keys) if len(keys) else []
        return np.asarray(found, dtype=np.float32).reshape(len(keys), self._index.ndim)

    def nearest(self, query: NDArray[np.float32], count: int) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        """Return the keys of about the `count` nearest and their distances, nearest first."""
        self._index.expansion_search = search_expansion(len(self._index))
        found = self._index.search(query, count, threads=1)
        return found.keys, found.distances

    def write(self, path: Path) -> None:
        """Write it to a file."""
        self._index.save(str(path))

    def saved(self, file: ShardFile, changes: int) -> None:
        """Note that `file` counts, and holds the first `changes` changes."""
        self.file, self._saved_changes = file, changes


def load_shard(path: Path, dimension: int, file: ShardFile) -> Shard | None:
    """Load a shard from a file that was checked: usearch trusts what it reads. None when it is of another dimension."""
    index = Index.restore(str(path), expansion_search=EXPANSION_SEARCH, expansion_add=EXPANSION_ADD)
    return Shard(dimension, index, file) if index is not None and index.ndim == dimension else None


def search_expansion(size: int) -> int:
    """Return how many candidates a search of a shard of `size` vectors keeps in view."""
    return min(MOST_EXPANSION_SEARCH, EXPANSION_SEARCH * max(size, EXPANSION_SEARCH_SIZE) // EXPANSION_SEARCH_SIZE)
