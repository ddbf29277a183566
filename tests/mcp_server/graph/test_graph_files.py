"""A graph's files: what has not changed is not written, and what is not whole is not read."""

from __future__ import annotations

import json

import pytest

from tests.mcp_server.graph.shards import (
    DIMENSION,
    IDS,
    loaded,
    on_disk,
    reloaded,
    shard_files,
)
from tests.mcp_server.test_vectors import unit
from toolkit.errors import JobFailed
from toolkit.mcp_server import vector_graph_files
from toolkit.mcp_server.vector_graph_files import load_graph, manifest_path, save_graph


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
