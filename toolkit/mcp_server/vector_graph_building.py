"""Building the graph of a store's vectors, and telling whether one that was kept still belongs to the store."""

from __future__ import annotations

import os
import sqlite3
import threading

import numpy as np

from toolkit.mcp_server.indexer import stored_model
from toolkit.mcp_server.store import Store
from toolkit.mcp_server.vector_graph import CHUNK, GraphState, VectorGraph
from toolkit.mcp_server.vector_graph_files import load_graph


def build_graph(store: Store, closing: threading.Event, worn: VectorGraph | None = None) -> VectorGraph | None:
    """Build the graph of all vectors, in short reads, so that writers are not held up. None when told to close.

    A graph that another process has built meanwhile is taken instead. Of a worn graph only the worn shards are built,
    unless few vectors are left for so many shards.
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
    threads = max(1, (os.cpu_count() or 2) // 2)
    if worn is not None and not worn.scattered:
        worn.renew(closing, threads=threads)
        return worn
    graph = VectorGraph(GraphState(model.name, model.dimension, model.generation, last_change))
    last_id = 0
    while not closing.is_set():
        with store.reading() as connection:
            rows = connection.execute(
                "SELECT passage_id, vector FROM vectors WHERE passage_id > ? ORDER BY passage_id LIMIT ?",
                (last_id, CHUNK),
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
