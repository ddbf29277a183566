"""HNSW graphs over a store's vectors in memory: shards of at most `SHARD_SIZE`, all of them searched.

How well one graph is searched falls with its size, whatever it costs: over a million vectors it found 0.986 of the ten
nearest with 4,096 candidates in view and 0.988 with 6,144.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.mcp_server.vector_shard import Shard, ShardFile

SHARD_SIZE = 200_000
CHUNK = 5_000


@dataclass(frozen=True)
class GraphState:
    """Which state of the store a graph holds: every change up to `last_change`, of the model's `generation`."""

    model: str
    dimension: int
    generation: int
    last_change: int


class VectorGraph:
    """The graph in memory. Locked inside: usearch's searches and changes must not overlap in one process."""

    def __init__(self, state: GraphState, shards: Sequence[Shard] = ()) -> None:
        self.state = state
        self._lock = threading.Lock()
        self._shards = list(shards)

    def __len__(self) -> int:
        return sum(len(shard) for shard in self._shards)

    @property
    def unsaved(self) -> int:
        """How many changes the files have not seen."""
        return sum(shard.unsaved for shard in self._shards)

    @property
    def worn(self) -> bool:
        """Whether so much of a shard was removed that it should be built again."""
        return any(shard.worn for shard in self._shards)

    @property
    def scattered(self) -> bool:
        """Whether it has more than twice as many shards as its vectors need: each costs a search of its own."""
        return len(self._shards) > 2 * (1 + len(self) // SHARD_SIZE)

    def add(self, ids: Sequence[int], vectors: NDArray[np.float32], *, threads: int = 1) -> None:
        """Add vectors (n, dimension); ids that are there stay as they are, since a vector never changes."""
        keys = np.asarray(ids, dtype=np.uint64)
        with self._lock:
            for shard in self._shards:
                new = ~shard.holds(keys)
                keys, vectors = keys[new], vectors[new]
            while len(keys):
                shard = self._with_room()
                room = SHARD_SIZE - len(shard)
                shard.add(keys[:room], vectors[:room], threads)
                keys, vectors = keys[room:], vectors[room:]

    def remove(self, ids: Sequence[int]) -> None:
        """Remove what is there of `ids`."""
        with self._lock:
            for shard in self._shards:
                shard.remove(ids)

    def nearest(self, query: NDArray[np.float32], count: int) -> list[int]:
        """Return about the `count` nearest ids, nearest first."""
        with self._lock:
            found = [shard.nearest(query, count) for shard in self._shards if len(shard)]
        if not found:
            return []
        keys, distances = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return keys[np.argsort(distances, kind="stable")[:count]].tolist()

    def ids(self) -> NDArray[np.int64]:
        """Return all ids that are in it."""
        with self._lock:
            return np.concatenate([np.zeros(0, np.int64), *(shard.keys().astype(np.int64) for shard in self._shards)])

    def vector(self, passage_id: int) -> NDArray[np.float32] | None:
        """Return the vector (dimension,) as it was stored, rounded to float16, or None."""
        key = np.asarray([passage_id], dtype=np.uint64)
        with self._lock:
            for shard in self._shards:
                if shard.holds(key).all():
                    return shard.vectors(key)[0]
        return None

    def moved_to(self, last_change: int) -> None:
        """Note that it now holds every change up to `last_change`."""
        self.state = GraphState(self.state.model, self.state.dimension, self.state.generation, last_change)

    def renew(self, closing: threading.Event, *, threads: int = 1) -> None:
        """Build the worn shards again, or leave them when told to close. Searches and changes go on meanwhile."""
        for shard in self.shards():
            if shard.worn:
                self._renew(shard, closing, threads)

    # --- for the files -----------------------------------------------------------------------------------------------

    def shards(self) -> list[Shard]:
        """Return the shards, for their files' sake: they are searched and changed through the graph alone."""
        with self._lock:
            return list(self._shards)

    def write(self, shard: Shard, path: Path) -> int:
        """Write a shard to a file and return how many of its changes that holds."""
        with self._lock:
            shard.write(path)
            return shard.changes

    def saved(self, shard: Shard, file: ShardFile, changes: int) -> None:
        """Note which file counts for a shard, and how many of its changes that holds."""
        with self._lock:
            shard.saved(file, changes)

    # --- changes -----------------------------------------------------------------------------------------------------

    def _with_room(self) -> Shard:
        """Return the last shard; once it is full, one that has lost a lot (it becomes the last), else a new one."""
        if not self._shards or len(self._shards[-1]) >= SHARD_SIZE:
            last = min(self._shards, key=len, default=None)
            if last is None or len(last) * 4 > SHARD_SIZE * 3:
                last = Shard(self.state.dimension)
            self._shards = [*(shard for shard in self._shards if shard is not last), last]
        return self._shards[-1]

    def _renew(self, old: Shard, closing: threading.Event, threads: int) -> None:
        new = Shard(self.state.dimension)
        with self._lock:
            keys = old.keys()
        for start in range(0, len(keys), CHUNK):
            if closing.is_set():
                return
            with self._lock:
                there = keys[start : start + CHUNK]
                there = there[old.holds(there)]
                vectors = old.vectors(there)
            new.add(there, vectors, threads)
        with self._lock:  # what changed meanwhile
            new.remove(np.setdiff1d(new.keys(), old.keys()))
            there = np.setdiff1d(old.keys(), new.keys())
            new.add(there, old.vectors(there), threads)
            renewed = [new if shard is old else shard for shard in self._shards]
            self._shards = [shard for shard in renewed if len(shard)]
