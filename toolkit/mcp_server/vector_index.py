"""The nearest vectors of a store: exactly from memory while there are few, through HNSW graphs from `GRAPH_FROM` on.

Both follow the store by its list of changes, whoever wrote: a search first asks whether the file's revision moved (some
microseconds) and then reads what changed, not what it has. Vectors found through the graph are compared again with the
float32 ones of the store, and rows that were deleted meanwhile drop out there.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from toolkit.errors import ToolkitError
from toolkit.mcp_server.filters import Filters
from toolkit.mcp_server.indexer import StoredModel, stored_model
from toolkit.mcp_server.store import Store
from toolkit.mcp_server.vector_comparison import Neighbour, allowed_ids, compared, id_list, scored
from toolkit.mcp_server.vector_graph import SHARD_SIZE, VectorGraph
from toolkit.mcp_server.vector_graph_building import belongs_to, build_graph, newest_change
from toolkit.mcp_server.vector_graph_files import load_graph, save_graph
from toolkit.mcp_server.vector_matrix import VectorMatrix, VectorRow

GRAPH_FROM = 20_000
"""From so many vectors on the graph answers (benchmarks/memory.py)."""
# A filter that leaves so few passages is answered by reading their vectors; more go through the graph.
FEW = 1_000
MOST_CANDIDATES = 10_000
CHUNK = 5_000

_log = logging.getLogger(__name__)
_ROWS = "SELECT p.id, p.kind, p.namespace, v.vector FROM vectors v JOIN passages p ON p.id = v.passage_id"

# By small indices: the vectors themselves fill many pages.
_EMBEDDED = "SELECT id FROM passages WHERE NOT EXISTS (SELECT 1 FROM unembedded u WHERE u.passage_id = id)"


class VectorIndex:
    """Safe to use from many threads; not inside `Store.writing()`, where what is read may yet be rolled back.

    graph_from: from how many vectors on the graph answers
    """

    def __init__(self, store: Store, *, graph_from: int = GRAPH_FROM) -> None:
        self._store = store
        self._graph_from = graph_from
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._builder: threading.Thread | None = None
        self._forget()

    def nearest(self, query: NDArray[np.float32], limit: int, filters: Filters | None = None) -> list[Neighbour]:
        """Return the nearest allowed passages, nearest first. query: (dimension,) float32 of length 1."""
        filters = filters or Filters()
        with self._lock:
            self.refresh()
            graph = self._graph
            view = self._matrix.view() if self._matrix is not None else None
        if graph is not None:
            return self._by_graph(graph, query, limit, filters)
        if view is None or len(query) != view.vectors.shape[1]:
            return []
        owned = self._owned(filters) if filters.by_owner else None
        ids, scores = view.nearest(query, limit, view.allowed(filters, owned))
        return [Neighbour(int(key), float(score)) for key, score in zip(ids, scores, strict=True)]

    def refresh(self) -> None:
        """Take over what was committed since the last call."""
        with self._lock:
            # The revision is asked first: a commit in between is then read twice, never missed.
            revision = self._store.revision()
            if revision == self._revision:
                return
            with self._store.reading() as connection:
                model = stored_model(connection)
                if model is None or (self._model is not None and model != self._model):
                    self._forget()
                if model is not None:
                    self._model = model
                    self._follow(connection, model)
            self._revision = revision
            self._maintain()

    def __len__(self) -> int:
        with self._lock:
            return len(self._graph) if self._graph is not None else len(self._matrix or ())

    @property
    def uses_graph(self) -> bool:
        """Whether the graph answers at present."""
        return self._graph is not None

    def wait_for_graph(self) -> None:
        """Wait until no graph is being built (benchmarks, tests)."""
        builder = self._builder
        if builder is not None:
            builder.join()

    def close(self) -> None:
        """End a build that is under way and keep what the graph has learnt."""
        self._closing.set()
        self.wait_for_graph()
        with self._lock:
            if self._graph is None or self._graph.unsaved <= 1000:
                return
            # Who holds the lock keeps a graph of its own; what this one has learnt is in the store.
            with suppress(Timeout, OSError), FileLock(f"{self._store.path}.vectors.lock", timeout=0):
                self._save(self._graph)

    # --- following the store -----------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._revision: int | None = None
        self._model: StoredModel | None = None
        self._matrix: VectorMatrix | None = None
        self._graph: VectorGraph | None = None
        self._seen = 0

    def _follow(self, connection: sqlite3.Connection, model: StoredModel) -> None:
        newest = newest_change(connection)
        if self._graph is None and self._matrix is None:
            self._open(connection, model)
        if self._graph is not None or self._seen < newest:
            self._catch_up(connection, newest)
        self._seen = newest
        if self._graph is not None:
            self._graph.moved_to(newest)

    def _open(self, connection: sqlite3.Connection, model: StoredModel) -> None:
        count = _count(connection)
        if count >= self._graph_from:
            graph = load_graph(self._store.path, model.name, model.dimension, model.generation)
            if graph is not None and belongs_to(connection, graph):
                self._graph, self._seen = graph, graph.state.last_change
                return
        self._matrix = VectorMatrix(model.dimension, max(1024, count + count // 8))
        self._matrix.put(_rows(connection.execute(_ROWS)))
        self._seen = newest_change(connection)

    def _catch_up(self, connection: sqlite3.Connection, newest: int) -> None:
        oldest = connection.execute("SELECT min(id) FROM vector_changes").fetchone()[0]
        if oldest is None or oldest > self._seen + 1:
            if newest > self._seen:
                self._compare_ids(connection)
            return
        changed = [
            row[0]
            for row in connection.execute("SELECT DISTINCT passage_id FROM vector_changes WHERE id > ?", (self._seen,))
        ]
        for start in range(0, len(changed), CHUNK):
            self._take(connection, changed[start : start + CHUNK])

    def _compare_ids(self, connection: sqlite3.Connection) -> None:
        """Catch up without the list of changes, of which the older part is gone."""
        if self._matrix is not None:
            self._matrix = VectorMatrix(self._matrix.dimension, max(1024, _count(connection)))
            self._matrix.put(_rows(connection.execute(_ROWS)))
        elif self._graph is not None:
            there = np.fromiter((row[0] for row in connection.execute(_EMBEDDED)), np.int64)
            different = np.setxor1d(there, self._graph.ids(), assume_unique=True).tolist()
            for start in range(0, len(different), CHUNK):
                self._take(connection, different[start : start + CHUNK])

    def _take(self, connection: sqlite3.Connection, changed: Sequence[int]) -> None:
        found = list(
            _rows(connection.execute(f"{_ROWS} WHERE p.id IN (SELECT value FROM json_each(?))", (id_list(changed),)))
        )
        gone = sorted(set(changed) - {row.passage_id for row in found})
        if self._matrix is not None:
            self._matrix.put(found)
            self._matrix.remove(gone)
        if self._graph is not None:
            if found:
                self._graph.add([row.passage_id for row in found], np.stack([row.vector for row in found]))
            self._graph.remove(gone)

    # --- the graph ---------------------------------------------------------------------------------------------------

    def _by_graph(
        self, graph: VectorGraph, query: NDArray[np.float32], limit: int, filters: Filters
    ) -> list[Neighbour]:
        condition, parameters = filters.sql()
        with self._store.reading() as connection:
            if not filters.open and self._leaves_few(connection, condition, parameters):
                return scored(connection, condition, parameters, query, limit)
            candidates = max(2 * limit, 32)
            while True:
                ids = graph.nearest(query, candidates)
                allowed = ids if filters.open else allowed_ids(connection, ids, condition, parameters)
                found = compared(connection, allowed[: 2 * limit], query)
                if len(found) >= limit or len(ids) < candidates:
                    return found[:limit]
                if candidates >= MOST_CANDIDATES:  # what is allowed lies far from the query: look at all of it
                    return scored(connection, condition, parameters, query, limit)
                wanted = candidates * max(2.0, 1.3 * limit / max(1, len(found)))
                candidates = min(MOST_CANDIDATES, int(wanted))

    def _leaves_few(self, connection: sqlite3.Connection, condition: str, parameters: list[str]) -> bool:
        counted = connection.execute(
            f"SELECT count(*) FROM (SELECT 1 FROM passages p WHERE {condition} LIMIT ?)", (*parameters, FEW + 1)
        )
        return counted.fetchone()[0] <= FEW

    def _owned(self, filters: Filters) -> NDArray[np.int64]:
        condition, parameters = filters.sql()
        with self._store.reading() as connection:
            rows = connection.execute(f"SELECT p.id FROM passages p WHERE {condition}", parameters)
            return np.fromiter((row[0] for row in rows), np.int64)

    def _maintain(self) -> None:
        """Begin to build a graph where one is due or worn, and keep one that has learnt a lot."""
        due = self._graph is None and self._matrix is not None and len(self._matrix) >= self._graph_from
        grown = self._graph is not None and self._graph.unsaved > max(5000, min(len(self._graph), SHARD_SIZE) // 10)
        worn = self._graph is not None and self._graph.worn
        idle = self._builder is None or not self._builder.is_alive()
        if (due or grown or worn) and idle and not self._closing.is_set():
            self._builder = threading.Thread(target=self._build, args=(due or worn,), name="vector graph", daemon=True)
            self._builder.start()

    def _build(self, anew: bool) -> None:
        lock = FileLock(f"{self._store.path}.vectors.lock")
        try:
            if not self._acquire(lock, patient=anew):
                return
            try:
                graph = build_graph(self._store, self._closing, self._graph) if anew else self._graph
                if graph is not None:
                    self._save(graph)
            finally:
                lock.release()
            with self._lock:
                if anew and graph and self._model is not None and graph.state.generation == self._model.generation:
                    self._graph, self._matrix, self._seen = graph, None, graph.state.last_change
                    self._revision = None
        except (ToolkitError, OSError, RuntimeError, sqlite3.Error) as error:  # search goes on in memory
            _log.warning("no vector graph was built: %s", error)

    def _acquire(self, lock: FileLock, *, patient: bool) -> bool:
        """Take the lock that one process holds while it builds or saves; another's build is waited for."""
        while not self._closing.is_set():
            try:
                lock.acquire(timeout=0.5 if patient else 0)
                return True
            except Timeout:
                if not patient:
                    return False
        return False

    def _save(self, graph: VectorGraph) -> None:
        try:
            save_graph(graph, self._store.path)
        except (ToolkitError, OSError, RuntimeError) as error:  # a full disk: the next start builds it again
            _log.warning("the vector graph was not kept: %s", error)


def _rows(rows: Iterable[sqlite3.Row]) -> Iterator[VectorRow]:
    for row in rows:
        yield VectorRow(row[0], row[1], row[2], np.frombuffer(row[3], "<f4"))


def _count(connection: sqlite3.Connection) -> int:
    # Both by small indices: counting the vectors themselves would read their pages.
    passages = connection.execute("SELECT count(*) FROM passages").fetchone()[0]
    return passages - connection.execute("SELECT count(*) FROM unembedded").fetchone()[0]
