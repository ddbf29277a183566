"""The vector index follows the store, whoever writes, and finds what an exhaustive search finds."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from tests.mcp_server.stand_in import StandInEmbedder
from toolkit.errors import ToolkitError
from toolkit.mcp_server import vector_index
from toolkit.mcp_server.embeddings import BackgroundEmbedder
from toolkit.mcp_server.filters import Filters
from toolkit.mcp_server.indexer import Indexer, reembed
from toolkit.mcp_server.passages import Passage, delete_passages, pending_count, replace_passages, set_vectors
from toolkit.mcp_server.store import Store
from toolkit.mcp_server.vector_graph_files import manifest_path
from toolkit.mcp_server.vector_index import VectorIndex
from toolkit.mcp_server.vector_matrix import VectorMatrix, VectorRow

OPENED: list[VectorIndex] = []


def unit(count: int, seed: int = 0, dimension: int = 384) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def store_of_vectors(folder: Path) -> Store:
    store = Store(folder / "memory.sqlite3")
    with store.writing() as connection:
        connection.execute("INSERT INTO embedding_model VALUES (1, 'stand-in', 384, 1)")
    return store


@pytest.fixture
def store(tmp_path):
    store = store_of_vectors(tmp_path)
    yield store
    while OPENED:  # their threads read the store
        OPENED.pop().close()
    store.close()


def fill(store: Store, vectors: np.ndarray, namespace: str = "default", prefix: str = "o") -> list[int]:
    with store.writing() as connection:
        ids = [
            replace_passages(connection, "document", f"{prefix}{i}", namespace, [Passage(f"text {i}")])[0]
            for i in range(len(vectors))
        ]
        set_vectors(connection, zip(ids, vectors, strict=True))
    return ids


def exact(vectors: np.ndarray, query: np.ndarray, ids: list[int], limit: int = 10) -> list[int]:
    order = np.argsort(-(vectors.astype(np.float64) @ query.astype(np.float64)), kind="stable")
    return [ids[i] for i in order[:limit]]


def found(index: VectorIndex, query: np.ndarray, limit: int = 10, filters: Filters | None = None) -> list[int]:
    return [neighbour.passage_id for neighbour in index.nearest(query, limit, filters)]


def reads(store: Store, action) -> list[str]:
    """The statements that an action makes this thread's connection run."""
    statements: list[str] = []
    with store.reading() as connection:
        connection.set_trace_callback(statements.append)
    action()
    with store.reading() as connection:
        connection.set_trace_callback(None)
    return statements


def test_the_nearest_are_those_of_an_exhaustive_search_with_their_cosine(store):
    vectors = unit(300)
    ids = fill(store, vectors)
    index = VectorIndex(store)
    for query in unit(5, seed=1):
        assert found(index, query) == exact(vectors, query, ids)
    best = index.nearest(vectors[7], 1)[0]
    assert best.passage_id == ids[7] and best.similarity == pytest.approx(1.0, abs=1e-5)


def test_filters_lose_nothing_and_let_nothing_through(store):
    vectors = unit(400)
    few = fill(store, vectors[:40], "few", "f")
    many = fill(store, vectors[40:], "many", "m")
    index = VectorIndex(store)
    query = unit(1, seed=2)[0]
    assert found(index, query, 10, Filters(namespaces=["few"])) == exact(vectors[:40], query, few)
    assert found(index, query, 10, Filters(namespaces=["many"], kinds=["document"])) == exact(vectors[40:], query, many)
    assert found(index, query, 10, Filters(owner_ids=["f3", "m5"])) == exact(vectors[[3, 45]], query, [few[3], many[5]])
    assert found(index, query, 10, Filters(kinds=["memory"])) == []
    assert found(index, query, 10, Filters(namespaces=[])) == []


def test_what_another_connection_writes_moves_or_deletes_is_seen_at_the_next_search(store):
    vectors = unit(50)
    ids = fill(store, vectors)
    index = VectorIndex(store)
    assert found(index, vectors[3], 1) == [ids[3]]
    other = Store(store.path)
    with other.writing() as connection:
        delete_passages(connection, "document", "o3")
        replace_passages(connection, "document", "o4", "elsewhere", [Passage("text 4")])
    new = fill(other, unit(2, seed=5), prefix="n")
    other.close()
    assert ids[3] not in found(index, vectors[3], 50)
    assert found(index, unit(2, seed=5)[1], 1) == [new[1]]
    assert found(index, vectors[4], 1, Filters(namespaces=["elsewhere"])) == [ids[4]]


def test_one_new_item_does_not_make_the_others_be_read_again(store):
    fill(store, unit(100))
    index = VectorIndex(store)
    index.refresh()
    assert not [text for text in reads(store, index.refresh) if "vector" in text]
    (new,) = fill(store, unit(1, seed=9), prefix="n")
    statements = [text for text in reads(store, index.refresh) if "v.vector" in text]
    assert len(statements) == 1 and f"[{new}]" in statements[0]


def test_a_reader_that_is_behind_the_list_of_changes_reads_everything(store):
    vectors = unit(30)
    ids = fill(store, vectors[:20])
    index = VectorIndex(store)
    index.refresh()
    ids += fill(store, vectors[20:], prefix="n")
    with store.writing() as connection:
        connection.execute("DELETE FROM vector_changes WHERE id < (SELECT max(id) FROM vector_changes)")
    assert sorted(found(index, vectors[0], 100)) == sorted(ids)


def test_many_removals_and_growth_leave_the_matrix_right():
    matrix, vectors = VectorMatrix(384, capacity=8), unit(5000)
    matrix.put(VectorRow(i, "memory", f"n{i % 3}", vectors[i]) for i in range(5000))
    before = matrix.view()
    matrix.remove(range(0, 5000, 2))
    matrix.put([VectorRow(1, "memory", "moved", vectors[1])])
    view = matrix.view()
    assert len(matrix) == 2500 and len(view.ids) < 5000
    ids, _ = view.nearest(vectors[777], 3, view.allowed(Filters(), None))
    assert ids[0] == 777 and not set(ids.tolist()) & set(range(0, 5000, 2))
    assert view.ids[view.allowed(Filters(namespaces=["moved"]), None)].tolist() == [1]
    assert np.array_equal(before.vectors[4998], vectors[4998])


# --- the graph -------------------------------------------------------------------------------------------------------


@pytest.fixture
def graph(store, monkeypatch):
    """600 vectors, searched through a graph that was built."""
    monkeypatch.setattr(vector_index, "FEW", 20)
    vectors = unit(600)
    ids = fill(store, vectors)
    index = VectorIndex(store, graph_from=500)
    index.refresh()
    index.wait_for_graph()
    index.refresh()
    assert index.uses_graph
    yield index, vectors, ids
    index.close()


def opened(store: Store) -> VectorIndex:
    index = VectorIndex(store, graph_from=500)
    OPENED.append(index)
    index.refresh()
    return index


def test_the_graph_finds_what_the_exhaustive_search_finds(graph):
    index, vectors, ids = graph
    queries = unit(20, seed=3)
    same = [len(set(found(index, query)) & set(exact(vectors, query, ids))) for query in queries]
    assert sum(same) >= 0.99 * 200


def test_the_graph_is_kept_beside_the_store_and_loaded_by_the_next(graph, store):
    _, vectors, ids = graph
    again = opened(store)
    assert again.uses_graph
    assert found(again, vectors[17], 1) == [ids[17]]


def test_the_graph_learns_what_was_added_and_forgets_what_was_deleted(graph, store):
    index, vectors, ids = graph
    new = fill(store, unit(3, seed=8), prefix="n")
    with store.writing() as connection:
        delete_passages(connection, "document", "o5")
    for reader in (index, opened(store)):
        assert reader.uses_graph
        assert found(reader, unit(3, seed=8)[2], 1) == [new[2]]
        assert ids[5] not in found(reader, vectors[5], 50)


def test_a_graph_that_is_behind_the_list_of_changes_is_brought_up_by_comparing_ids(graph, store):
    _, vectors, ids = graph
    new = fill(store, unit(3, seed=8), prefix="n")
    with store.writing() as connection:
        delete_passages(connection, "document", "o5")
        connection.execute("DELETE FROM vector_changes WHERE id < (SELECT max(id) FROM vector_changes)")
    reader = opened(store)
    assert reader.uses_graph and len(reader) == 602
    assert found(reader, unit(3, seed=8)[2], 1) == [new[2]]


def test_a_filter_whose_passages_lie_far_from_the_query_still_finds_them_all(graph, store, monkeypatch):
    index, vectors, _ = graph
    monkeypatch.setattr(vector_index, "MOST_CANDIDATES", 64)
    query = vectors[0]
    far = -query + 0.3 * unit(30, seed=4)
    far /= np.linalg.norm(far, axis=1, keepdims=True)
    ids = fill(store, far, "far", "far")
    assert found(index, query, 10, Filters(namespaces=["far"])) == exact(far, query, ids)
    monkeypatch.setattr(vector_index, "FEW", 1000)
    assert found(index, query, 10, Filters(namespaces=["far"])) == exact(far, query, ids)


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "manifest", "other model"])
def test_a_graph_file_that_cannot_be_trusted_is_built_again(graph, store, damage):
    _, vectors, ids = graph
    manifest = json.loads(manifest_path(store.path).read_text())
    path = store.path.with_name(manifest["shards"][0]["name"])
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:1000])
    elif damage == "missing":
        path.unlink()
    elif damage == "manifest":
        manifest_path(store.path).write_text("{")
    else:
        manifest_path(store.path).write_text(json.dumps(manifest | {"generation": 2}))
    reader = opened(store)
    assert not reader.uses_graph
    assert found(reader, vectors[17], 1) == [ids[17]]
    reader.wait_for_graph()
    assert found(reader, vectors[17], 1) == [ids[17]]
    assert reader.uses_graph and opened(store).uses_graph


def test_the_graph_of_a_store_that_a_backup_took_the_place_of_is_not_used(graph, store):
    with store.writing() as connection:
        newest = connection.execute("SELECT max(passage_id) FROM vectors").fetchone()[0]
        connection.execute(
            "UPDATE vectors SET vector = ? WHERE passage_id = ?", (unit(1, seed=77)[0].tobytes(), newest)
        )
    assert not opened(store).uses_graph


def test_closing_does_not_wait_for_another_process_that_builds(store):
    fill(store, unit(600))
    with FileLock(f"{store.path}.vectors.lock"):
        index = opened(store)
        index.close()
    assert not index.uses_graph


def test_only_one_graph_file_is_left_beside_the_store(graph, store):
    index, *_ = graph
    fill(store, unit(3, seed=8), prefix="n")
    index.refresh()
    index._save(index._graph)
    assert len(list(store.path.parent.glob("*.usearch"))) == 1
    assert not list(store.path.parent.glob(".*.partial"))


# --- the indexer -----------------------------------------------------------------------------------------------------


@pytest.fixture
def empty(tmp_path):
    store = Store(tmp_path / "empty.sqlite3")
    yield store
    store.close()


def put(store: Store, *texts: str) -> None:
    with store.writing() as connection:
        for text in texts:
            replace_passages(connection, "memory", text, "default", [Passage(text)])


def stored(store: Store) -> dict[str, np.ndarray]:
    with store.reading() as connection:
        rows = connection.execute("SELECT p.text, v.vector FROM vectors v JOIN passages p ON p.id = v.passage_id")
        return {row[0]: np.frombuffer(row[1], "<f4") for row in rows}


def test_flush_embeds_what_waits_and_says_how_far_it_is(empty):
    embedder, told = StandInEmbedder(), []
    put(empty, *(f"text {i}" for i in range(130)))
    indexer = Indexer(empty, BackgroundEmbedder(embedder=embedder))
    assert indexer.flush(progress=lambda done, of: told.append((done, of))) == 130
    assert told == [(64, 130), (128, 130), (130, 130)]
    assert np.array_equal(stored(empty)["text 7"], embedder.embed(["text 7"])[0])


def test_flush_stops_when_it_is_cancelled_and_goes_on_later(empty):
    put(empty, *(f"text {i}" for i in range(130)))
    indexer = Indexer(empty, BackgroundEmbedder(embedder=StandInEmbedder()))
    answers = iter([False, True])
    assert indexer.flush(cancelled=lambda: next(answers)) == 64
    assert indexer.flush() == 66


def test_a_text_is_embedded_once_whatever_becomes_of_its_passage(empty):
    embedder = StandInEmbedder()
    indexer = Indexer(empty, BackgroundEmbedder(embedder=embedder))
    put(empty, "one", "two")
    indexer.flush()
    with empty.writing() as connection:
        delete_passages(connection, "memory", "one")
    put(empty, "one", "three")
    indexer.flush()
    assert embedder.calls == [["one", "two"], ["three"]]
    assert np.array_equal(stored(empty)["one"], StandInEmbedder().embed(["one"])[0])


def test_the_background_thread_embeds_new_passages_once_the_model_is_here(empty):
    background = BackgroundEmbedder(load=StandInEmbedder)
    indexer = Indexer(empty, background)
    put(empty, "before")
    indexer.start()
    background.start()
    for text in ("before", "after"):
        for _ in range(500):
            if text in stored(empty):
                break
            indexer._closing.wait(0.01)
        assert text in stored(empty)
        put(empty, "after")
        indexer.notify()
    indexer.close()


@pytest.mark.parametrize("other", [StandInEmbedder("another"), StandInEmbedder(dimension=128)])
def test_a_store_refuses_another_model_and_names_the_command_that_embeds_anew(empty, other):
    put(empty, "one")
    Indexer(empty, BackgroundEmbedder(embedder=StandInEmbedder())).flush()
    put(empty, "two")
    with pytest.raises(ToolkitError, match="cannot be compared.*toolkit mcp reembed"):
        Indexer(empty, BackgroundEmbedder(embedder=other)).flush()

    assert reembed(empty, other) == 2
    index = VectorIndex(empty)
    assert Indexer(empty, BackgroundEmbedder(embedder=other)).flush() == 2
    assert {len(vector) for vector in stored(empty).values()} == {other.dimension}
    assert len(index.nearest(other.embed(["one"])[0], 5)) == 2


def test_an_open_index_follows_a_change_of_model(empty):
    put(empty, "one")
    Indexer(empty, BackgroundEmbedder(embedder=StandInEmbedder())).flush()
    index, other = VectorIndex(empty), StandInEmbedder("another", 128)
    assert len(index.nearest(StandInEmbedder().embed(["one"])[0], 5)) == 1
    reembed(empty, other)
    Indexer(empty, BackgroundEmbedder(embedder=other)).flush()
    assert len(index.nearest(other.embed(["one"])[0], 5)) == 1
    with empty.reading() as connection:
        assert pending_count(connection) == 0


def test_the_cache_and_the_list_of_changes_do_not_grow_without_end(empty, monkeypatch):
    from toolkit.mcp_server import indexer as module

    monkeypatch.setattr(module, "CACHE_ENTRIES", 10)
    monkeypatch.setattr(module, "KEPT_CHANGES", 5)
    put(empty, *(f"text {i}" for i in range(80)))
    Indexer(empty, BackgroundEmbedder(embedder=StandInEmbedder())).flush()
    connection = sqlite3.connect(Path(empty.path))
    assert connection.execute("SELECT count(*) FROM embedding_cache").fetchone() == (10,)
    assert connection.execute("SELECT count(*) FROM vector_changes").fetchone() == (5,)
    connection.close()
