"""Shards behind the index of a store."""

from __future__ import annotations

import json

import pytest
from filelock import FileLock

from tests.mcp_server.graph.shards import on_disk, shard_files
from tests.mcp_server.test_vectors import exact, fill, found, store_of_vectors, unit
from toolkit.mcp_server.store import Store
from toolkit.mcp_server.vector_graph_files import manifest_path
from toolkit.mcp_server.vector_index import VectorIndex


@pytest.fixture
def store(tmp_path):
    store = store_of_vectors(tmp_path)
    yield store
    store.close()


def built(store: Store) -> VectorIndex:
    index = VectorIndex(store, graph_from=200)
    index.refresh()
    index.wait_for_graph()
    index.refresh()
    assert index.uses_graph
    return index


def test_a_store_of_several_shards_is_searched_exactly_as_it_is_without_a_graph(store):
    vectors = unit(350)
    ids = fill(store, vectors)
    index = built(store)
    assert len(shard_files(store.path)) == 4
    for query in unit(10, seed=3):
        assert found(index, query) == exact(vectors, query, ids)
    index.close()


def test_a_graph_in_the_format_of_an_earlier_version_is_built_again_and_deleted(store):
    fill(store, unit(250))
    old = store.path.with_name(f"{store.path.name}.vectors-1-250.usearch")
    old.write_bytes(b"one graph")
    state = {"model": "stand-in", "dimension": 384, "generation": 1, "last_change": 250}
    manifest_path(store.path).write_text(
        json.dumps({"format": 1, "file": old.name, **state, "size_bytes": 9, "sha256": "0" * 64})
    )
    built(store).close()
    assert not old.exists() and len(shard_files(store.path)) == 3
    assert json.loads(manifest_path(store.path).read_text())["format"] == 2


def test_a_worn_graph_is_renewed_in_the_background_and_kept(store):
    vectors = unit(250)
    ids = fill(store, vectors)
    index = built(store)
    first = shard_files(store.path)
    with store.writing() as connection:
        connection.execute("DELETE FROM passages WHERE id <= ?", (ids[49],))
    index.refresh()
    index.wait_for_graph()
    index.refresh()
    assert found(index, vectors[60], 1) == [ids[60]] and ids[10] not in found(index, vectors[10], 50)
    assert index._graph is not None and not index._graph.worn and len(index) == 200
    assert shard_files(store.path)[1:] == first[1:] and shard_files(store.path)[0] != first[0]
    index.close()


def test_the_few_vectors_that_many_shards_have_left_are_built_into_fewer(store):
    vectors = unit(250)
    ids = fill(store, vectors)
    index = built(store)
    with store.writing() as connection:
        connection.execute("DELETE FROM passages WHERE id % 5")
    index.refresh()
    index.wait_for_graph()
    index.refresh()
    assert len(index) == 50 and len(shard_files(store.path)) == len(on_disk(store.path)) == 1
    left = [key for key in ids if key % 5 == 0]
    assert found(index, vectors[60]) == exact(vectors[[ids.index(key) for key in left]], vectors[60], left)
    index.close()


def test_closing_keeps_what_was_learnt_unless_another_process_is_at_it(store):
    fill(store, unit(250))
    index, other = built(store), VectorIndex(store, graph_from=200)
    other.refresh()
    first = on_disk(store.path)
    fill(store, unit(1001, seed=8), prefix="n")
    for each in (index, other):
        each.refresh()
    with FileLock(f"{store.path}.vectors.lock"):
        other.close()
        assert on_disk(store.path) == first
    index.close()
    assert len(on_disk(store.path)) == 13
