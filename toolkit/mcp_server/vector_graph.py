"""An HNSW graph (usearch, float16) over a store's vectors, kept in a file beside it.

The file is an index, never the truth: it can be deleted at any time. It lies under a name of its own; a small JSON file
beside the store, written last, says which one counts, what is in it and its SHA-256. What is cut short, damaged, or
belongs to another state of the store is not loaded, but built again.

HNSW: Malkov & Yashunin 2018, arXiv:1603.09320.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from usearch.index import Index

from toolkit.atomic_files import flush_folder, flush_to_disk, write_atomic
from toolkit.checksums import file_sha256
from toolkit.mcp_server.indexer import stored_model
from toolkit.mcp_server.store import Store

# On the 100,000 vectors of benchmarks/memory.py recall@10 is 0.997 with these; with connectivity 16 and expansions of
# 128 it is 0.93, and the graph is built in a third of the time. On its million the same search finds 0.84, with 2,048
# candidates 0.975 and with 4,096 0.986, at 5 and 11 ms: so the candidates grow with the graph.
CONNECTIVITY = 32
EXPANSION_ADD = 256
EXPANSION_SEARCH = 256
EXPANSION_SEARCH_SIZE = 100_000
MOST_EXPANSION_SEARCH = 4_096
FORMAT = 1
BUILD_CHUNK = 5_000


@dataclass(frozen=True)
class GraphState:
    """Which state of the store a graph holds: every change up to `last_change`, of the model's `generation`."""

    model: str
    dimension: int
    generation: int
    last_change: int


class VectorGraph:
    """The graph in memory. Locked inside: usearch's searches and changes must not overlap in one process."""

    def __init__(self, state: GraphState, index: Index | None = None) -> None:
        self.state = state
        self.unsaved = 0
        self._lock = threading.Lock()
        self._index = index or Index(
            ndim=state.dimension,
            metric="ip",
            dtype="f16",
            connectivity=CONNECTIVITY,
            expansion_add=EXPANSION_ADD,
            expansion_search=EXPANSION_SEARCH,
        )
        self._removed = 0

    def __len__(self) -> int:
        return len(self._index)

    @property
    def worn(self) -> bool:
        """Whether so much was removed that it should be built again."""
        return self._removed > 1000 and self._removed * 4 > len(self)

    def add(self, ids: Sequence[int], vectors: NDArray[np.float32], *, threads: int = 1) -> None:
        """Add vectors (n, dimension); ids that are there stay as they are, since a vector never changes."""
        keys = np.asarray(ids, dtype=np.uint64)
        with self._lock:
            new = ~np.asarray(self._index.contains(keys)) if len(keys) else np.zeros(0, bool)
            if new.any():
                self._index.add(keys[new], vectors[new], threads=threads)
                self.unsaved += int(new.sum())

    def remove(self, ids: Sequence[int]) -> None:
        """Remove what is there of `ids`."""
        with self._lock:
            for key in ids:
                if key in self._index:
                    self._index.remove(key)
                    self._removed += 1
                    self.unsaved += 1

    def nearest(self, query: NDArray[np.float32], count: int) -> list[int]:
        """Return about the `count` nearest ids, nearest first."""
        with self._lock:
            if not len(self._index):
                return []
            self._index.expansion_search = search_expansion(len(self._index))
            return [int(key) for key in self._index.search(query, count, threads=1).keys]

    def ids(self) -> NDArray[np.int64]:
        """Return all ids that are in it."""
        with self._lock:
            return np.asarray(self._index.keys[:], dtype=np.int64)

    def vector(self, passage_id: int) -> NDArray[np.float32] | None:
        """Return the vector (dimension,) as it was stored, rounded to float16, or None."""
        with self._lock:
            found = self._index.get(passage_id)
        return None if found is None else np.asarray(found, dtype=np.float32).reshape(-1)

    def moved_to(self, last_change: int) -> None:
        """Note that it now holds every change up to `last_change`."""
        self.state = GraphState(self.state.model, self.state.dimension, self.state.generation, last_change)

    def save(self, store: Path) -> None:
        """Write it beside the store; the graph that counted before is deleted afterwards."""
        with self._lock:
            state = self.state
            name = f"{store.name}.vectors-{state.generation}-{state.last_change}.usearch"
            partial = store.with_name(f".{name}.partial")
            self._index.save(str(partial))
            self.unsaved = 0
        target = store.with_name(name)
        with partial.open("rb+") as file:
            flush_to_disk(file)
        partial.replace(target)
        flush_folder(target.parent)
        sums = {"size_bytes": target.stat().st_size, "sha256": file_sha256(target)}
        write_atomic(manifest_path(store), json.dumps({"format": FORMAT, "file": name, **asdict(state), **sums}) + "\n")
        for other in [*store.parent.glob(f"{store.name}.vectors-*.usearch"), *_leftovers(store)]:
            if other != target:
                with suppress(OSError):
                    other.unlink()


def search_expansion(size: int) -> int:
    """Return how many candidates a search of a graph of `size` vectors keeps in view."""
    return min(MOST_EXPANSION_SEARCH, EXPANSION_SEARCH * max(size, EXPANSION_SEARCH_SIZE) // EXPANSION_SEARCH_SIZE)


def manifest_path(store: Path) -> Path:
    """Return where the JSON file lies that says which graph counts."""
    return store.with_name(store.name + ".vectors.json")


def load_graph(store: Path, model: str, dimension: int, generation: int) -> VectorGraph | None:
    """Return the graph beside the store, or None when there is none that is whole and of this model and generation."""
    try:
        manifest = json.loads(manifest_path(store).read_text("utf-8"))
        state = GraphState(**{key: manifest[key] for key in ("model", "dimension", "generation", "last_change")})
        name = str(manifest["file"])
        if manifest["format"] != FORMAT or (state.model, state.dimension, state.generation) != (
            model,
            dimension,
            generation,
        ):
            return None
        path = store.with_name(name)
        if name != Path(name).name or path.is_symlink() or path.stat().st_size != manifest["size_bytes"]:
            return None
        # usearch trusts what it loads: a file with one wrong byte can end the process.
        if file_sha256(path) != manifest["sha256"]:
            return None
        index = Index.restore(str(path), expansion_search=EXPANSION_SEARCH, expansion_add=EXPANSION_ADD)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None
    return None if index is None or index.ndim != dimension else VectorGraph(state, index)


def build_graph(store: Store, closing: threading.Event) -> VectorGraph | None:
    """Build the graph of all vectors, in short reads, so that writers are not held up. None when told to close.

    A graph that another process has built meanwhile is taken instead.
    """
    with store.reading() as connection:
        model, last_change = stored_model(connection), newest_change(connection)
        if model is None:
            return None
        graph = load_graph(store.path, model.name, model.dimension, model.generation)
        if (
            graph is not None
            and belongs_to(connection, graph)
            and not graph.worn
            and graph.state.last_change == last_change
        ):
            return graph
    graph = VectorGraph(GraphState(model.name, model.dimension, model.generation, last_change))
    last_id, threads = 0, max(1, (os.cpu_count() or 2) // 2)
    while not closing.is_set():
        with store.reading() as connection:
            rows = connection.execute(
                "SELECT passage_id, vector FROM vectors WHERE passage_id > ? ORDER BY passage_id LIMIT ?",
                (last_id, BUILD_CHUNK),
            ).fetchall()
        if not rows:
            return graph
        ids = [row[0] for row in rows]
        graph.add(ids, np.frombuffer(b"".join(row[1] for row in rows), "<f4").reshape(len(rows), -1), threads=threads)
        last_id = ids[-1]
    return None


def belongs_to(connection: sqlite3.Connection, graph: VectorGraph) -> bool:
    """Say whether a graph belongs to this file: not to one that a backup has since taken the place of.

    Its last change must have happened here, and the newest passages that it could know must have the same vectors.
    """
    if graph.state.last_change > newest_change(connection):
        return False
    for row in connection.execute(
        "SELECT passage_id, vector FROM vectors ORDER BY passage_id DESC LIMIT 64"
    ).fetchall():
        known = graph.vector(row[0])
        if known is not None and float(known @ np.frombuffer(row[1], "<f4")) < 0.99:
            return False
    return True


def newest_change(connection: sqlite3.Connection) -> int:
    """Return the number of the last change of a vector, 0 before the first."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'vector_changes'").fetchone()
    return 0 if row is None else row[0]


def _leftovers(store: Path) -> list[Path]:
    return list(store.parent.glob(f".{store.name}.vectors-*.partial"))
