"""Gives passages their vectors: in the background while others work, and at once on `flush`.

A vector that was computed before, for the same text by the same model, is taken from the store's cache. A store knows
one model: vectors of two models cannot be compared, so another one is refused until everything is embedded again.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import ToolkitError
from toolkit.mcp_server.embeddings import BackgroundEmbedder, Embedder
from toolkit.mcp_server.passages import pending, pending_count, set_vectors
from toolkit.mcp_server.store import Store

REEMBED_COMMAND = "toolkit mcp reembed"
BATCH = 64
CACHE_ENTRIES = 20_000
# A reader that is further behind than this reads all vectors anew.
KEPT_CHANGES = 100_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredModel:
    """The model whose vectors a store holds. generation counts up with each change of model."""

    name: str
    dimension: int
    generation: int


def stored_model(connection: sqlite3.Connection) -> StoredModel | None:
    """Return the model of the store's vectors, or None while there is none."""
    row = connection.execute("SELECT name, dimension, generation FROM embedding_model").fetchone()
    return None if row is None else StoredModel(row[0], row[1], row[2])


def check_model(connection: sqlite3.Connection, embedder: Embedder) -> None:
    """Raise ToolkitError when the store's vectors come from another model than `embedder`."""
    stored = stored_model(connection)
    if stored is not None and (stored.name, stored.dimension) != (embedder.name, embedder.dimension):
        raise ToolkitError(
            f"this store holds vectors of {stored.name} ({stored.dimension} numbers), the model here is "
            f"{embedder.name} ({embedder.dimension} numbers); they cannot be compared",
            hint=f"Use that model, or embed everything with this one: {REEMBED_COMMAND}",
        )


def reembed(store: Store, embedder: Embedder) -> int:
    """Forget all vectors and make `embedder` the store's model; return how many passages wait for a vector now.

    Nothing but vectors is lost, whatever happens: a passage without one is found by its words.
    """
    with store.writing() as connection:
        before = stored_model(connection)
        connection.execute("DELETE FROM embedding_model")
        connection.execute("DELETE FROM vectors")
        connection.execute("INSERT OR IGNORE INTO unembedded (passage_id) SELECT id FROM passages")
        _adopt(connection, embedder, before.generation + 1 if before else 1)
        return pending_count(connection)


class Indexer:
    """Embeds what waits for a vector.

    notify:   call it after new passages were committed; the background thread then works until nothing waits
    flush:    the same at once, in the caller's thread
    """

    def __init__(self, store: Store, background: BackgroundEmbedder) -> None:
        self._store = store
        self._background = background
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._working = threading.Lock()
        self._thread: threading.Thread | None = None
        self.error: str | None = None

    def start(self) -> None:
        """Begin to work in the background, once; what waits already is embedded as soon as the model is here."""
        if self._thread is None:
            self._wake.set()
            self._thread = threading.Thread(target=self._run, name="indexer", daemon=True)
            self._thread.start()

    def notify(self) -> None:
        """Say that there may be new passages."""
        self._wake.set()

    def flush(
        self,
        *,
        progress: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> int:
        """Embed everything that waits, in this thread; return how many were embedded (0 while no model is here).

        progress: is told (embedded, in all)
        Raises ToolkitError when the store's vectors come from another model.
        """
        embedder = self._background.current
        done = 0
        while embedder is not None and not cancelled() and not self._closing.is_set():
            with self._working:
                taken = self._embed_some(embedder)
            if not taken:
                break
            done += taken
            if progress is not None:
                with self._store.reading() as connection:
                    progress(done, done + pending_count(connection))
        return done

    def close(self) -> None:
        """End the background thread after the batch that it is at."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._wake.clear()
            while self._background.wait(0.2) is None:
                if self._closing.is_set() or self._background.error is not None:
                    return
            try:
                self.flush()
                self.error = None
            except (ToolkitError, RuntimeError, MemoryError) as error:  # another model, a full disk, a full GPU
                self.error = str(error)
                _log.warning("%s", error)

    def _embed_some(self, embedder: Embedder) -> int:
        with self._store.reading() as connection:
            check_model(connection, embedder)
            waiting = pending(connection, BATCH)
            if not waiting:
                return 0
            known = _cached(connection, _cache_name(embedder), [entry.text for entry in waiting])
        missing = list(dict.fromkeys(entry.text for entry in waiting if entry.text not in known))
        fresh = dict(zip(missing, embedder.embed(missing), strict=True)) if missing else {}
        with self._store.writing() as connection:
            check_model(connection, embedder)
            if stored_model(connection) is None:
                _adopt(connection, embedder, 1)
            set_vectors(connection, [(entry.passage_id, (fresh | known)[entry.text]) for entry in waiting])
            _remember(connection, _cache_name(embedder), fresh)
            _prune(connection)
        return len(waiting)


def _adopt(connection: sqlite3.Connection, embedder: Embedder, generation: int) -> None:
    connection.execute(
        "INSERT INTO embedding_model (only, name, dimension, generation) VALUES (1, ?, ?, ?)",
        (embedder.name, embedder.dimension, generation),
    )


def _cached(connection: sqlite3.Connection, model: str, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    found = {}
    for text in texts:
        row = connection.execute(
            "SELECT vector FROM embedding_cache WHERE model = ? AND text_sha256 = ?", (model, _sha256(text))
        ).fetchone()
        if row is not None:
            found[text] = np.frombuffer(row[0], dtype="<f4")
    return found


def _remember(connection: sqlite3.Connection, model: str, vectors: dict[str, NDArray[np.float32]]) -> None:
    connection.executemany(
        "INSERT OR IGNORE INTO embedding_cache (model, text_sha256, vector) VALUES (?, ?, ?)",
        [(model, _sha256(text), np.asarray(vector, "<f4").tobytes()) for text, vector in vectors.items()],
    )


def _prune(connection: sqlite3.Connection) -> None:
    connection.execute(
        "DELETE FROM embedding_cache WHERE id <= (SELECT max(id) FROM embedding_cache) - ?", (CACHE_ENTRIES,)
    )
    connection.execute(
        "DELETE FROM vector_changes WHERE id <= (SELECT max(id) FROM vector_changes) - ?", (KEPT_CHANGES,)
    )


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).digest()


def _cache_name(embedder: Embedder) -> str:
    return f"{embedder.name}/{embedder.dimension}"
