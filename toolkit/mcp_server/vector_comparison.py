"""Vectors as the store has them, compared with a query: the last word on what a graph proposes, and on small sets."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Vectors that are held in memory at a time.
CHUNK = 5_000


@dataclass(frozen=True)
class Neighbour:
    """A passage near a query. similarity: cosine, -1..1."""

    passage_id: int
    similarity: float


def allowed_ids(connection: sqlite3.Connection, ids: list[int], condition: str, parameters: list[str]) -> list[int]:
    """Return those of `ids` that the condition allows, in their order."""
    rows = connection.execute(
        f"SELECT p.id FROM passages p WHERE p.id IN (SELECT value FROM json_each(?)) AND {condition}",
        (id_list(ids), *parameters),
    )
    kept = {row[0] for row in rows}
    return [key for key in ids if key in kept]


def compared(connection: sqlite3.Connection, ids: list[int], query: NDArray[np.float32]) -> list[Neighbour]:
    """Compare the query with these passages' vectors as the store has them; those that are gone drop out."""
    rows = connection.execute(
        "SELECT passage_id, vector FROM vectors WHERE passage_id IN (SELECT value FROM json_each(?))", (id_list(ids),)
    ).fetchall()
    if not rows:
        return []
    vectors = np.frombuffer(b"".join(row[1] for row in rows), "<f4").reshape(len(rows), -1)
    found = [Neighbour(row[0], float(score)) for row, score in zip(rows, vectors @ query, strict=True)]
    return sorted(found, key=_nearest_first)


def _nearest_first(found: Neighbour) -> tuple[float, int]:
    return -found.similarity, found.passage_id


def scored(
    connection: sqlite3.Connection,
    condition: str,
    parameters: Sequence[str],
    query: NDArray[np.float32],
    limit: int,
) -> list[Neighbour]:
    """Compare the query with every passage that the condition allows, in pieces."""
    rows = connection.execute(
        f"SELECT p.id, v.vector FROM passages p JOIN vectors v ON v.passage_id = p.id WHERE {condition}", parameters
    )
    best: list[Neighbour] = []
    while piece := rows.fetchmany(CHUNK):
        vectors = np.frombuffer(b"".join(row[1] for row in piece), "<f4").reshape(len(piece), -1)
        best += [Neighbour(row[0], float(score)) for row, score in zip(piece, vectors @ query, strict=True)]
        best = sorted(best, key=_nearest_first)[:limit]
    return best


def id_list(ids: Iterable[int]) -> str:
    """Return ids as one SQL parameter, for `SELECT value FROM json_each(?)`."""
    return json.dumps(list(ids))
