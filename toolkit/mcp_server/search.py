"""Search by words and by meaning at once: BM25 and vectors, joined by reciprocal rank fusion.

While the embedding model loads, or when there is none, full text answers, and the result says so.

Reciprocal rank fusion: Cormack, Clarke & Büttcher 2009 (SIGIR). Diversity: maximal marginal relevance, Carbonell &
Goldstein 1998 (SIGIR).
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import ToolkitError
from toolkit.mcp_server.embeddings import BackgroundEmbedder, Embedder
from toolkit.mcp_server.filters import Filters
from toolkit.mcp_server.full_text import TextMatch, search_text
from toolkit.mcp_server.indexer import Indexer, check_model
from toolkit.mcp_server.model_files import TokenCounter
from toolkit.mcp_server.passages import pending_count
from toolkit.mcp_server.store import Store
from toolkit.mcp_server.vector_index import VectorIndex

__all__ = ["Filters", "Hit", "Indexer", "Mode", "Search", "SearchResult", "fuse"]

Mode = Literal["hybrid", "text", "vector"]

MAX_LIMIT = 1000
RANK_CONSTANT = 60
# A place in the list by words counts by how much of the query the passage's words are, squared, and up to twice a place
# in the list by meaning: few words in common say little, an identifier says all. Chosen on the development half of
# tests/mcp_server/retrieval, where equal weights were worse than vectors alone (nDCG@10 0.55; vectors 0.76; this 0.77).
TEXT_WEIGHT = 2.0
COVERAGE_POWER = 2
POOL = 50
KEPT_QUERIES = 256


@dataclass(frozen=True)
class Hit:
    """A passage that was found.

    score:       what the hits are ordered by; it compares within one result only
    similarity:  cosine with the query, or None where full text alone found it
    text_rank:   its place in the full-text list, from 1, or None
    vector_rank: its place in the list by meaning, from 1, or None
    page:        of a PDF, from 1
    """

    passage_id: int
    kind: str
    owner_id: str
    namespace: str
    text: str
    heading: str
    start_line: int | None
    end_line: int | None
    score: float
    similarity: float | None = None
    text_rank: int | None = None
    vector_rank: int | None = None
    page: int | None = None


@dataclass(frozen=True)
class SearchResult:
    """mode: what answered, which is not always what was asked for; notes say why, in plain words."""

    hits: tuple[Hit, ...]
    mode: Mode
    notes: tuple[str, ...] = ()


class Search:
    """Finds passages. Safe to use from many threads."""

    def __init__(self, store: Store, background: BackgroundEmbedder, *, index: VectorIndex | None = None) -> None:
        self._store = store
        self._background = background
        self._index = index or VectorIndex(store)
        self._queries: OrderedDict[tuple[str, str], NDArray[np.float32]] = OrderedDict()
        self._queries_lock = threading.Lock()

    def warm(self) -> None:
        """Load the vectors, so that the first search need not."""
        self._index.refresh()

    def count_tokens(self) -> TokenCounter:
        """Return what counts the embedding model's tokens; it is here before the model is."""
        return self._background.count_tokens()

    def close(self) -> None:
        """End background work."""
        self._index.close()

    def find(
        self,
        query: str,
        *,
        limit: int = 10,
        filters: Filters | None = None,
        mode: Mode = "hybrid",
        diversity: float | None = None,
    ) -> SearchResult:
        """Return the best passages for a query, best first.

        limit:     1 to 1000
        diversity: 0 to 1: how much a hit that says what an earlier one said is put back; None: not at all

        Raises ToolkitError when a number is out of range.
        """
        _check(limit, diversity)
        filters = filters or Filters()
        pool = max(POOL, 2 * limit)
        vector, notes = (None, []) if mode == "text" else self._query_vector(query)
        similarities = {}
        if vector is not None:
            similarities = {found.passage_id: found.similarity for found in self._index.nearest(vector, pool, filters)}
        with self._store.reading() as connection:
            text = [] if vector is not None and mode == "vector" else search_text(connection, query, pool, filters)
            waiting = pending_count(connection) if vector is not None else 0
            if waiting:
                notes.append(f"{waiting:,} passages wait for their vectors: they were searched by their words alone")
            ranks = _Ranks([found.passage_id for found in text], list(similarities))
            unknown = _without_vector(connection, ranks.text) if waiting else set()
            scores = fuse(_weighted(text, unknown, alone=not similarities), [(key, 1.0) for key in similarities])
            if diversity:
                order = _diverse(connection, scores, limit, diversity)
            else:
                order = sorted(scores, key=lambda key: (-scores[key], key))
            hits = _hits(connection, order, limit)
        used: Mode = "text" if vector is None else mode
        return SearchResult(tuple(ranks.placed(hit, scores, similarities) for hit in hits), used, tuple(notes))

    def similar(self, text: str, *, namespace: str, limit: int = 5) -> list[Hit]:
        """Return the memory passages of a namespace that mean nearly the same, nearest first; [] without a model."""
        vector, _ = self._query_vector(text)
        if vector is None:
            return []
        found = self._index.nearest(vector, limit, Filters(kinds=("memory",), namespaces=(namespace,)))
        similarities = {entry.passage_id: entry.similarity for entry in found}
        with self._store.reading() as connection:
            hits = _hits(connection, list(similarities), limit)
        ranks = _Ranks([], list(similarities))
        return [ranks.placed(hit, similarities, similarities) for hit in hits]

    def _query_vector(self, query: str) -> tuple[NDArray[np.float32] | None, list[str]]:
        embedder = self._background.current
        if embedder is None:
            if self._background.error is not None:
                return None, [f"full text alone answered, there is no embedding model: {self._background.error}"]
            state = "still loading" if self._background.started else "switched off"
            return None, [f"full text alone answered: the embedding model is {state}"]
        if not query.strip():
            return None, ["the query is empty"]
        try:
            with self._store.reading() as connection:
                check_model(connection, embedder)
        except ToolkitError as error:
            return None, [f"full text alone answered: {error}"]
        try:
            return self._embedded(embedder, query), []
        except RuntimeError as error:  # a full GPU, for one
            return None, [f"full text alone answered, the embedding model failed: {str(error)[:200]}"]

    def _embedded(self, embedder: Embedder, query: str) -> NDArray[np.float32]:
        key = (embedder.name, query)
        with self._queries_lock:
            if key in self._queries:
                self._queries.move_to_end(key)
                return self._queries[key]
        vector = embedder.embed([query])[0]
        with self._queries_lock:
            self._queries[key] = vector
            while len(self._queries) > KEPT_QUERIES:
                self._queries.popitem(last=False)
        return vector


class _Ranks:
    """The places of passages in both lists."""

    def __init__(self, text: Sequence[int], vector: Sequence[int]) -> None:
        self.text = text
        self._text = {key: place for place, key in enumerate(text, 1)}
        self._vector = {key: place for place, key in enumerate(vector, 1)}

    def placed(self, hit: Hit, scores: Mapping[int, float], similarities: Mapping[int, float]) -> Hit:
        key = hit.passage_id
        return replace(
            hit,
            score=scores[key],
            similarity=similarities.get(key),
            text_rank=self._text.get(key),
            vector_rank=self._vector.get(key),
        )


def _weighted(text: Sequence[TextMatch], unknown: set[int], *, alone: bool) -> list[tuple[int, float]]:
    """Return (id, weight) of the list by words. unknown: those without a vector, which meaning could not find."""
    if alone:
        return [(found.passage_id, 1.0) for found in text]
    weighted = []
    for found in text:
        weight = TEXT_WEIGHT * found.coverage**COVERAGE_POWER
        # What was stored a moment ago must not stand behind everything that has a vector already.
        weight += min(1.0, 2 * found.coverage) if found.passage_id in unknown else 0.0
        weighted.append((found.passage_id, weight))
    return weighted


def _without_vector(connection: sqlite3.Connection, ids: Sequence[int]) -> set[int]:
    rows = connection.execute(
        "SELECT passage_id FROM unembedded WHERE passage_id IN (SELECT value FROM json_each(?))", (json.dumps(ids),)
    )
    return {row[0] for row in rows}


def fuse(*lists: Sequence[tuple[int, float]], constant: float = RANK_CONSTANT) -> dict[int, float]:
    """Return the fused score of every id: the sum over the lists of weight / (constant + place from 1).

    lists: (id, its weight in this list), best first
    """
    scores: dict[int, float] = {}
    for ranked in lists:
        for place, (key, weight) in enumerate(ranked, 1):
            scores[key] = scores.get(key, 0.0) + weight / (constant + place)
    return scores


def _diverse(connection: sqlite3.Connection, scores: Mapping[int, float], limit: int, diversity: float) -> list[int]:
    """Order by maximal marginal relevance: (1 - d) · relevance - d · the greatest similarity to what is chosen already.

    Relevance is the score on a scale from 0 to 1; a passage without a vector is similar to none.
    """
    ids = sorted(scores, key=lambda key: (-scores[key], key))
    if not ids:
        return []
    rows = connection.execute(
        "SELECT passage_id, vector FROM vectors WHERE passage_id IN (SELECT value FROM json_each(?))",
        (json.dumps(ids),),
    )
    vectors = {row[0]: np.frombuffer(row[1], "<f4") for row in rows}
    size = len(next(iter(vectors.values()))) if vectors else 1
    matrix = np.stack([vectors.get(key, np.zeros(size, np.float32)) for key in ids])
    relevance = np.array([scores[key] for key in ids]) / scores[ids[0]]
    nearest = np.zeros(len(ids))
    left = np.ones(len(ids), dtype=bool)
    order = []
    for _ in range(min(limit, len(ids))):
        value = np.where(left, (1 - diversity) * relevance - diversity * nearest, -np.inf)
        best = int(np.argmax(value))
        order.append(ids[best])
        left[best] = False
        nearest = np.maximum(nearest, matrix @ matrix[best])
    return order


def _hits(connection: sqlite3.Connection, order: Sequence[int], limit: int) -> list[Hit]:
    """Read the first passages of this order; those that were deleted meanwhile are passed over."""
    hits: list[Hit] = []
    for start in range(0, len(order), limit):
        wanted = order[start : start + limit]
        rows = connection.execute(
            "SELECT id, kind, owner_id, namespace, text, heading, start_line, end_line, page FROM passages"
            " WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(wanted),),
        )
        found = {row[0]: Hit(*row[:8], score=0.0, page=row[8]) for row in map(tuple, rows)}
        hits += [found[key] for key in wanted if key in found]
        if len(hits) >= limit:
            break
    return hits[:limit]


def _check(limit: int, diversity: float | None) -> None:
    if not 1 <= limit <= MAX_LIMIT:
        raise ToolkitError(f"limit is {limit}, but must be 1 to {MAX_LIMIT}", where="limit")
    if diversity is not None and not 0 <= diversity <= 1:
        raise ToolkitError(f"diversity is {diversity:g}, but must be 0 to 1", where="diversity")
