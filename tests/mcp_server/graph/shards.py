"""What the tests of the graph share."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from tests.mcp_server.test_vectors import unit
from toolkit.mcp_server.vector_graph import VectorGraph
from toolkit.mcp_server.vector_graph_files import load_graph, manifest_path

DIMENSION = 32
VECTORS = unit(350, dimension=DIMENSION)
IDS = list(range(1, 351))


def sizes(graph: VectorGraph) -> list[int]:
    return [len(shard) for shard in graph.shards()]


def loaded(path: Path) -> VectorGraph | None:
    return load_graph(path, "stand-in", DIMENSION, 1)


def reloaded(path: Path) -> VectorGraph:
    graph = loaded(path)
    assert graph is not None
    return graph


def shard_files(path: Path) -> list[Path]:
    """The files that the manifest lists, in its order."""
    return [path.with_name(entry["name"]) for entry in json.loads(manifest_path(path).read_text())["shards"]]


def on_disk(path: Path) -> dict[str, tuple[int, int]]:
    """Every shard's file by name, with what tells a rewritten one."""
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in path.parent.glob("*.usearch")}


class Meanwhile(threading.Event):
    """Somebody who changes the graph while it is built, at the second look at whether to close."""

    def __init__(self, change) -> None:
        super().__init__()
        self.changes = iter([lambda: None, change])

    def is_set(self) -> bool:
        next(self.changes, lambda: None)()
        return super().is_set()
