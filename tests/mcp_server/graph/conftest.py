"""A graph of small shards, and where its files go."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mcp_server.graph.shards import DIMENSION, IDS, VECTORS
from toolkit.mcp_server import vector_graph, vector_shard
from toolkit.mcp_server.vector_graph import GraphState, VectorGraph


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(vector_graph, "SHARD_SIZE", 100)
    monkeypatch.setattr(vector_shard, "WORN_FROM", 10)


@pytest.fixture
def graph() -> VectorGraph:
    """350 vectors in shards of 100, 100, 100 and 50."""
    graph = VectorGraph(GraphState("stand-in", DIMENSION, 1, 7))
    graph.add(IDS, VECTORS)
    return graph


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "memory.sqlite3"
