"""The shards of a vector graph answer as one, and their files beside the store count only when all are whole."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from tests.mcp_server.test_vectors import exact, fill, found, unit
from toolkit.errors import JobFailed
from toolkit.mcp_server import vector_graph, vector_graph_files, vector_shard
from toolkit.mcp_server.store import Store
from toolkit.mcp_server.vector_graph import GraphState, VectorGraph
from toolkit.mcp_server.vector_graph_files import load_graph, manifest_path, save_graph
from toolkit.mcp_server.vector_index import VectorIndex
from toolkit.mcp_server.vector_shard import search_expansion

DIMENSION = 32
VECTORS = unit(350, dimension=DIMENSION)
IDS = list(range(1, 351))


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


# --- as one ----------------------------------------------------------------------------------------------------------


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


# --- worn shards -----------------------------------------------------------------------------------------------------


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


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_shard_that_has_not_changed_keeps_its_file(graph, path):
    save_graph(graph, path)
    first, listed = on_disk(path), shard_files(path)
    assert len(first) == 4 and graph.unsaved == 0
    again = reloaded(path)
    again.add([351], unit(1, seed=2, dimension=DIMENSION))
    again.remove([150])
    again.moved_to(9)
    assert again.unsaved == 2
    save_graph(again, path)
    second, kept = on_disk(path), shard_files(path)
    assert [file.name for file in kept if first.get(file.name) == second[file.name]] == [listed[0].name, listed[2].name]
    assert set(second) == {file.name for file in kept} and not set(second) & {listed[1].name, listed[3].name}
    last = reloaded(path)
    assert last.state.last_change == 9 and sorted(last.ids().tolist()) == sorted({*IDS, 351} - {150})


def test_a_kept_file_that_somebody_deleted_is_written_again(graph, path):
    save_graph(graph, path)
    shard_files(path)[1].unlink()
    assert loaded(path) is None
    save_graph(graph, path)
    assert sorted(reloaded(path).ids().tolist()) == IDS


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "swapped", "link", "another shard's"])
def test_one_file_that_is_not_what_the_manifest_says_makes_the_whole_graph_be_built_again(graph, path, damage):
    save_graph(graph, path)
    _, second, third, _ = shard_files(path)
    content = bytearray(second.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
        second.write_bytes(content)
    elif damage == "cut":
        second.write_bytes(content[:1000])
    elif damage == "missing":
        second.unlink()
    elif damage == "swapped":
        second.write_bytes(third.read_bytes())
        third.write_bytes(content)
    elif damage == "link":
        second.rename(path.with_name("elsewhere"))
        second.symlink_to(path.with_name("elsewhere"))
    else:
        second.write_bytes(third.read_bytes())
    assert loaded(path) is None


@pytest.mark.parametrize("name", ["twice", "outside", "above", "foreign", "a number", "one more key"])
def test_a_manifest_that_lists_what_it_must_not_is_refused(graph, path, name):
    save_graph(graph, path)
    manifest = json.loads(manifest_path(path).read_text())
    second = manifest["shards"][1]
    if name == "twice":
        manifest["shards"].append(second)
    elif name == "outside":
        (path.parent / "sub").mkdir()
        path.with_name(second["name"]).rename(path.parent / "sub" / second["name"])
        second["name"] = f"sub/{second['name']}"
    elif name == "above":
        second["name"] = f"../{path.parent.name}/{second['name']}"
    elif name == "foreign":
        path.with_name(second["name"]).rename(path.with_name("foreign.bin"))
        second["name"] = "foreign.bin"
    elif name == "a number":
        second["name"] = 1
    else:
        second["more"] = 1
    manifest_path(path).write_text(json.dumps(manifest))
    assert loaded(path) is None


@pytest.mark.parametrize("other", [("another", DIMENSION, 1), ("stand-in", 16, 1), ("stand-in", DIMENSION, 2)])
def test_the_graph_of_another_model_or_generation_is_not_loaded(graph, path, other):
    save_graph(graph, path)
    assert load_graph(path, *other) is None


def test_leftovers_are_deleted_and_what_belongs_to_other_stores_is_not(graph, path):
    leftovers = {f"{path.name}.vectors-1-350.usearch", f".{path.name}.vectors-9.partial"}
    others = {f"another-{path.name}.vectors-1-350.usearch", f"{path.name}.backup"}
    for name in leftovers | others:
        path.with_name(name).write_bytes(b"left")
    save_graph(graph, path)
    left = {file.name for file in path.parent.iterdir()}
    assert others <= left and not leftovers & left


@pytest.mark.parametrize("refused", ["write_atomic", "flush_to_disk"])
def test_a_full_disk_leaves_the_graph_that_counted_and_nothing_else(graph, path, monkeypatch, refused):
    save_graph(graph, path)
    before = on_disk(path)
    graph.add([351], unit(1, seed=2, dimension=DIMENSION))
    with monkeypatch.context() as patched:

        def refuse(*_):
            raise JobFailed("the disk is full, nothing was written")

        patched.setattr(vector_graph_files, refused, refuse)
        with pytest.raises(JobFailed):
            save_graph(graph, path)
    assert on_disk(path) == before and not list(path.parent.glob(".*.partial")) and graph.unsaved == 1
    assert sorted(reloaded(path).ids().tolist()) == IDS
    save_graph(graph, path)
    assert len(reloaded(path)) == 351


# --- in the index ----------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "memory.sqlite3")
    with store.writing() as connection:
        connection.execute("INSERT INTO embedding_model VALUES (1, 'stand-in', 384, 1)")
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
