"""Several small graphs that answer as one."""

from __future__ import annotations

import threading

import numpy as np

from tests.mcp_server.graph.shards import (
    DIMENSION,
    IDS,
    VECTORS,
    Meanwhile,
    reloaded,
    sizes,
)
from tests.mcp_server.test_vectors import exact, unit
from toolkit.mcp_server import vector_graph
from toolkit.mcp_server.vector_graph import GraphState, VectorGraph
from toolkit.mcp_server.vector_graph_files import save_graph
from toolkit.mcp_server.vector_shard import search_expansion


def test_several_shards_find_what_an_exhaustive_search_finds_nearest_first(graph):
    assert sizes(graph) == [100, 100, 100, 50]
    for query in unit(20, seed=1, dimension=DIMENSION):
        nearest = graph.nearest(query, 10)
        assert set(nearest) == set(exact(VECTORS, query, IDS))
        similarities = VECTORS[np.array(nearest) - 1] @ query
        assert (np.diff(similarities) < 1e-3).all()


def test_more_are_found_than_one_shard_holds(graph):
    nearest = graph.nearest(VECTORS[0], 300)
    assert len(nearest) == len(set(nearest)) == 300


def test_an_empty_graph_finds_nothing_and_is_kept(path):
    graph = VectorGraph(GraphState("stand-in", DIMENSION, 1, 0))
    save_graph(graph, path)
    again = reloaded(path)
    assert again.nearest(VECTORS[0], 3) == [] and again.ids().tolist() == [] and again.vector(1) is None


def test_every_shard_gives_its_vectors_back(graph):
    for key in (1, 150, 250, 350):
        assert np.allclose(graph.vector(key), VECTORS[key - 1], atol=1e-3)
    assert graph.vector(351) is None
    assert sorted(graph.ids().tolist()) == IDS


def test_vectors_are_removed_from_whichever_shard_has_them(graph):
    graph.remove([1, 150, 350, 999])
    assert sizes(graph) == [99, 99, 100, 49] and len(graph) == 347
    for key in (1, 150, 350):
        assert key not in graph.nearest(VECTORS[key - 1], 50) and graph.vector(key) is None


def test_an_id_that_another_shard_has_is_not_added_again(graph):
    graph.add([5, 150, 351], unit(3, seed=9, dimension=DIMENSION))
    assert sizes(graph) == [100, 100, 100, 51]
    assert np.allclose(graph.vector(5), VECTORS[4], atol=1e-3)


def test_new_vectors_fill_the_last_shard_and_then_begin_another(graph, path):
    save_graph(graph, path)
    again = reloaded(path)
    again.add(range(351, 441), unit(90, seed=2, dimension=DIMENSION))
    assert sizes(again) == [100, 100, 100, 100, 40]
    assert again.nearest(unit(90, seed=2, dimension=DIMENSION)[89], 1) == [440]


def test_a_shard_that_has_lost_a_lot_is_filled_before_another_is_begun(graph):
    graph.remove(range(1, 51))
    graph.add(range(351, 441), unit(90, seed=2, dimension=DIMENSION))
    assert sizes(graph) == [100, 100, 100, 90]
    assert graph.nearest(unit(90, seed=2, dimension=DIMENSION)[89], 1) == [440]


def test_a_larger_shard_is_searched_with_more_candidates():
    assert [search_expansion(size) for size in (0, 100_000, 125_000, 200_000)] == [256, 256, 320, 384]


def test_only_the_worn_shard_is_built_again_and_what_changes_meanwhile_is_kept(graph, monkeypatch):
    monkeypatch.setattr(vector_graph, "CHUNK", 10)
    graph.remove(range(301, 326))
    before = graph.shards()
    assert graph.worn and [shard.worn for shard in before] == [False, False, False, True]

    def change() -> None:
        graph.remove([326, 350])
        graph.add([360], unit(1, seed=4, dimension=DIMENSION))

    graph.renew(Meanwhile(change))
    after = graph.shards()
    assert after[:3] == before[:3] and after[3] is not before[3]
    assert not graph.worn and sorted(after[3].keys().tolist()) == [*range(327, 350), 360]
    assert graph.nearest(VECTORS[339], 1) == [340] and graph.nearest(unit(1, seed=4, dimension=DIMENSION)[0], 1) == [
        360
    ]


def test_a_shard_that_lost_everything_is_gone_after_it_was_built_again(graph):
    graph.remove(range(101, 201))
    assert sorted(set(graph.nearest(VECTORS[120], 300)) & set(range(101, 201))) == []
    graph.renew(threading.Event())
    assert sizes(graph) == [100, 100, 50]


def test_a_worn_shard_stays_as_it_is_when_told_to_close(graph):
    graph.remove(range(301, 326))
    before, closing = graph.shards(), threading.Event()
    closing.set()
    graph.renew(closing)
    assert graph.shards() == before and len(graph) == 325


def test_a_shard_is_worn_after_it_was_loaded_too(graph, path):
    graph.remove(range(301, 326))
    save_graph(graph, path)
    assert reloaded(path).worn
