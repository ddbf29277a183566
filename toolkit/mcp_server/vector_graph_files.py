"""A graph's files beside its store: one for each shard, and a small JSON file, written last, that says which count.

They are an index, never the truth: they can be deleted at any time. What is cut short, damaged, or belongs to another
state of the store is not loaded, but built again. A shard's file is named by what is in it, so that one that has not
changed keeps its file, whichever process wrote it.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toolkit.atomic_files import flush_folder, flush_to_disk, write_atomic
from toolkit.checksums import file_sha256
from toolkit.mcp_server.vector_graph import GraphState, VectorGraph
from toolkit.mcp_server.vector_shard import Shard, ShardFile, load_shard

FORMAT = 2  # 1 was a single graph in one file


def manifest_path(store: Path) -> Path:
    """Return where the JSON file lies that says which files count."""
    return store.with_name(store.name + ".vectors.json")


def save_graph(graph: VectorGraph, store: Path) -> None:
    """Write what changed beside the store; files that no longer count are deleted afterwards.

    One process at a time (VectorIndex holds a lock): what another has written but not yet listed would be deleted.
    """
    # The state is read first: a shard that has seen later changes already only hears of them again after it is loaded.
    state, shards = graph.state, graph.shards()
    files: list[ShardFile] = []
    written: list[tuple[Shard, ShardFile, int]] = []
    try:
        for shard in shards:
            file = shard.file
            if file is None or shard.unsaved or not _is_there(store, file):
                file, changes = _write_shard(graph, shard, store)
                written.append((shard, file, changes))
            files.append(file)
        flush_folder(store.parent)
        manifest = {"format": FORMAT, **asdict(state), "shards": [asdict(file) for file in files]}
        write_atomic(manifest_path(store), json.dumps(manifest) + "\n")
    except BaseException:
        _delete(store, {file.name for _, file, _ in written} - _counting(store))
        raise
    for shard, file, changes in written:
        graph.saved(shard, file, changes)
    names = {path.name for path in _matching(store, f"{store.name}.vectors-", ".usearch")}
    names |= {path.name for path in _matching(store, f".{store.name}.vectors-", ".partial")}
    _delete(store, names - {file.name for file in files})


def load_graph(store: Path, model: str, dimension: int, generation: int) -> VectorGraph | None:
    """Return the graph beside the store, or None when there is none that is whole and of this model and generation."""
    try:
        manifest = json.loads(manifest_path(store).read_text("utf-8"))
        if manifest["format"] != FORMAT:
            return None
        state = GraphState(**{key: manifest[key] for key in ("model", "dimension", "generation", "last_change")})
        files = [ShardFile(**entry) for entry in manifest["shards"]]
        if (state.model, state.dimension, state.generation) != (model, dimension, generation):
            return None
        if len({file.name for file in files}) != len(files) or not all(_is_there(store, file) for file in files):
            return None
        shards: list[Shard] = []
        for file in files:
            path = store.with_name(file.name)
            # usearch trusts what it loads: a file with one wrong byte can end the process.
            shard = load_shard(path, dimension, file) if file_sha256(path) == file.sha256 else None
            if shard is None:
                return None
            shards.append(shard)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):
        return None
    return VectorGraph(state, shards)


def _write_shard(graph: VectorGraph, shard: Shard, store: Path) -> tuple[ShardFile, int]:
    partial = store.with_name(f".{store.name}.vectors-{os.getpid()}.partial")
    try:
        changes = graph.write(shard, partial)
        with partial.open("rb+") as opened:
            flush_to_disk(opened)
        sha256 = file_sha256(partial)
        file = ShardFile(f"{store.name}.vectors-{sha256[:32]}.usearch", partial.stat().st_size, sha256)
        partial.replace(store.with_name(file.name))
    except BaseException:
        _delete(store, [partial.name])
        raise
    return file, changes


def _is_there(store: Path, file: ShardFile) -> bool:
    """Say whether the file is one of ours, in the store's folder and of the size that it should have."""
    if not file.name.startswith(f"{store.name}.vectors-") or not file.name.endswith(".usearch"):
        return False
    path = store.with_name(file.name)  # a ValueError where the name leads into another folder
    return path.is_file() and not path.is_symlink() and path.stat().st_size == file.size_bytes


def _matching(store: Path, start: str, end: str) -> list[Path]:
    return list(store.parent.glob(f"{glob.escape(start)}*{glob.escape(end)}"))


def _counting(store: Path) -> set[str]:
    """Return the names of the files that count at present."""
    try:
        manifest: Any = json.loads(manifest_path(store).read_text("utf-8"))
        return {str(entry["name"]) for entry in manifest["shards"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _delete(store: Path, names: Iterable[str]) -> None:
    for name in names:
        with suppress(OSError):
            store.with_name(name).unlink()
