"""Passages by their words: FTS5's BM25 over any of the query's terms, the rarest first, as many as are affordable.

What FTS5 must read grows with how often the terms occur, and frequent ones tell little: "of" alone made a query take
100 ms at 100,000 passages. So terms are taken from the rarest on until the passages that hold them reach `BUDGET`.

A query never reaches FTS5's own syntax: only letters and digits are taken from it, each term inside quotes.
"""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from toolkit.mcp_server.filters import Filters

BUDGET = 2_000
"""How many passages may hold the terms of a query, all counts added; the rarest term is taken whatever holds it."""
MAX_TERMS = 24
MAX_QUERY_CHARACTERS = 4_000
# A term that more than this share of all passages hold tells them apart too little to be asked for.
COMMON_SHARE = 0.2
TEXT_WEIGHT, HEADING_WEIGHT = 1.0, 0.5

_TOKEN = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class TextMatch:
    """A passage that holds terms of the query.

    score:    BM25, larger is better
    coverage: the score as a share of what a passage full of all the query's telling terms would have, 0 to 1; terms
              that no passage holds count too. It tells a found identifier from a question in other words.
    """

    passage_id: int
    score: float
    coverage: float


def query_terms(query: str) -> list[str]:
    """Return the query's terms as FTS5 phrases without quotes, each once, in order.

    A word of several parts (`max_seq_tokens`, `v2.3.0`) gives each part and the whole as a phrase: who types an
    identifier means that one.
    """
    terms: dict[str, None] = {}
    for word in query[:MAX_QUERY_CHARACTERS].lower().split():
        parts = _TOKEN.findall(word)
        terms.update(dict.fromkeys(parts))
        if len(parts) > 1:
            terms[" ".join(parts)] = None
    return list(terms)


def search_text(
    connection: sqlite3.Connection, query: str, limit: int, filters: Filters | None = None
) -> list[TextMatch]:
    """Return the passages that match best, best first (ties: the older first)."""
    filters = filters or Filters()
    terms = query_terms(query)
    counted = _counted(connection, terms)
    passages = _passages(connection)
    chosen = affordable_terms(counted, passages)
    if not chosen:
        return []
    condition, parameters = filters.sql()
    join = "" if filters.open else f"JOIN passages p ON p.id = f.rowid AND {condition}"
    rows = connection.execute(
        f"SELECT f.rowid, bm25(passages_fts, {TEXT_WEIGHT}, {HEADING_WEIGHT}) AS score FROM passages_fts f {join}"
        " WHERE passages_fts MATCH ? ORDER BY score, f.rowid LIMIT ?",
        (*parameters, " OR ".join(f'"{term}"' for term in chosen), limit),
    )
    best = _best_score(counted, passages)
    return [TextMatch(row[0], -row[1], min(1.0, -row[1] / best)) for row in rows]


def affordable_terms(counted: Mapping[str, int], passages: int) -> list[str]:
    """Return the terms to ask for, the rarest first. counted: term → how many passages hold it; of equals the first."""
    common = max(10.0, COMMON_SHARE * passages)
    chosen: list[str] = []
    spent = 0
    for term in sorted((term for term, holders in counted.items() if holders), key=lambda term: counted[term]):
        over = spent + counted[term] > BUDGET or counted[term] > common or len(chosen) == MAX_TERMS
        if over and chosen:
            break
        spent += counted[term]
        chosen.append(term)
    return chosen


def _counted(connection: sqlite3.Connection, terms: Sequence[str]) -> dict[str, int]:
    """Return how many passages hold each term, counted to BUDGET + 1 at most.

    Where all that occur reach this, the rarer come first, as far as their first holders tell.
    """
    statement = "SELECT count(*) FROM (SELECT 1 FROM passages_fts WHERE passages_fts MATCH ? LIMIT ?)"
    counted = {
        term: connection.execute(statement, (f'"{term}"', BUDGET + 1)).fetchone()[0] for term in terms[: 4 * MAX_TERMS]
    }
    if min((holders for holders in counted.values() if holders), default=0) <= BUDGET:
        return counted
    return {term: counted[term] for term in sorted(counted, key=lambda term: -_reach(connection, term))}


def _reach(connection: sqlite3.Connection, term: str) -> int:
    """Return the last of a term's first passages: FTS5 reads in their order, and a rare term's reach further."""
    statement = (
        "SELECT max(rowid) FROM (SELECT rowid FROM passages_fts WHERE passages_fts MATCH ? ORDER BY rowid LIMIT ?)"
    )
    return connection.execute(statement, (f'"{term}"', BUDGET + 1)).fetchone()[0] or 0


def _passages(connection: sqlite3.Connection) -> int:
    # The newest id instead of a count, which would read a whole index: ids count up, so it is hardly ever far off.
    return connection.execute("SELECT coalesce(max(id), 0) FROM passages").fetchone()[0]


def _best_score(counted: Mapping[str, int], passages: int) -> float:
    """Return the BM25 (k1 = 1.2, as FTS5 has it) of a passage that is full of every telling term."""
    telling = min(BUDGET, max(10.0, COMMON_SHARE * passages))
    weights = [
        max(0.0, math.log((passages - holders + 0.5) / (holders + 0.5)))
        for term, holders in counted.items()
        if " " not in term and holders <= telling
    ]
    return 2.2 * sum(weights) or 1.0
