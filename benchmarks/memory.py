"""How fast is the memory's search, cold and warm, from a thousand to a million passages, and how much does it find?

    python benchmarks/memory.py [--sizes 1000 10000 100000 1000000] [--queries 200] [--work FOLDER] [--peer-path FOLDER]

Real embeddings of a million texts would take days here, so vectors are mixtures: each is two embeddings of the question
set's passages and sentences (all-MiniLM-L6-v2), drawn at random, plus noise. Queries are the real embeddings of its
questions. Texts are forty words drawn as often as they occur there, with one rare word each in a hundred passages.
Recall@10 is against an exhaustive float32 search of the same vectors.

With `--peer-path` (a folder made by `pip install --target FOLDER lancedb`) LanceDB searches the same vectors for the
same queries in the same run, its HNSW widened until its recall is at least ours. Each size and each party has a process
of its own; one thread each. `cpu` is the processor's time, for machines that others use too. Nothing is embedded while
a search is timed: the embedding of a query has its own row.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SET = Path(__file__).parents[1] / "tests" / "mcp_server" / "retrieval"
BLOCK = 10_000
DIMENSION = 384
NEAREST = 10


class Known:
    """An embedder that knows the queries' vectors: what is timed is the search."""

    name, dimension, max_tokens = "all-MiniLM-L6-v2", DIMENSION, 256

    def __init__(self, texts: list[str], vectors: np.ndarray) -> None:
        self.vectors = dict(zip(texts, vectors, strict=True))

    def embed(self, texts: Any) -> np.ndarray:
        """Look the vectors up."""
        return np.stack([self.vectors[text] for text in texts])

    def count_tokens(self, text: str) -> int:
        """Count words."""
        return len(text.split())


def lines(name: str) -> list[dict[str, Any]]:
    """Read a file of the question set."""
    return [json.loads(line) for line in (SET / name).read_text("utf-8").splitlines()]


def prepare(work: Path) -> dict[str, float]:
    """Embed the set, keep the vectors in `work`, and time the embedder: a query, and chunks a second."""
    from toolkit.mcp_server.embeddings import load_embedder

    started = time.perf_counter()
    embedder = load_embedder(device="cpu")
    loading = time.perf_counter() - started
    passages = [passage["text"] for passage in lines("passages.jsonl")]
    sentences = [part.strip() for text in passages for part in text.split(". ") if len(part.split()) > 5]
    queries = [question["question"] for question in lines("questions.jsonl")]
    started = time.perf_counter()
    whole = embedder.embed(passages)
    rate = len(passages) / (time.perf_counter() - started)
    np.save(work / "base.npy", np.concatenate([whole, embedder.embed(sentences)]))
    asked, seconds = [], []
    for query in queries:
        started = time.perf_counter()
        asked.append(embedder.embed([query])[0])
        seconds.append(time.perf_counter() - started)
    np.save(work / "queries.npy", np.stack(asked))
    return {"model_load_s": loading, "chunks_per_s": rate, **spread("query_ms", seconds)}


def vectors(work: Path, size: int) -> Iterator[np.ndarray]:
    """Yield the same (BLOCK, 384) float32 vectors each time, of length 1."""
    base = np.load(work / "base.npy")
    for block in range(0, size, BLOCK):
        draw = np.random.default_rng([7, block])
        count = min(BLOCK, size - block)
        first, second = draw.integers(len(base), size=(2, count))
        share = draw.uniform(0.5, 1.0, size=(count, 1)).astype(np.float32)
        noise = draw.standard_normal((count, DIMENSION)).astype(np.float32) / np.sqrt(DIMENSION)
        mixed = share * base[first] + (1 - share) * base[second] + 0.35 * noise
        yield (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)


def texts(size: int) -> Iterator[str]:
    """Yield `size` texts of forty words in the set's frequencies."""
    words = " ".join(passage["text"] for passage in lines("passages.jsonl")).split()
    for block in range(0, size, BLOCK):
        draw = np.random.default_rng([8, block])
        picked = draw.integers(len(words), size=(min(BLOCK, size - block), 40))
        for number, row in enumerate(picked, block):
            yield " ".join(words[i] for i in row) + (f" rare{number % 1000}" if number % 100 == 0 else "")


def build(work: Path, size: int) -> dict[str, float]:
    """Fill a store through the product's own functions and find the true neighbours. Times are without embedding."""
    from toolkit.mcp_server.passages import Passage, replace_passages, set_vectors
    from toolkit.mcp_server.store import Store
    from toolkit.mcp_server.vector_index import VectorIndex

    store = Store(work / f"{size}.sqlite3")
    with store.writing() as connection:
        connection.execute("INSERT INTO embedding_model VALUES (1, ?, ?, 1)", (Known.name, DIMENSION))
    queries = np.load(work / "queries.npy")
    best = np.full((len(queries), NEAREST), -2.0, np.float32)
    best_ids = np.zeros((len(queries), NEAREST), np.int64)
    text, seconds = texts(size), 0.0
    for block in vectors(work, size):
        started = time.perf_counter()
        with store.writing() as connection:
            ids = []
            for place in range(len(block)):
                namespace = "tenth" if place % 10 == 0 else "default"
                passage = Passage(next(text))
                ids += replace_passages(
                    connection, "document", f"d{place % 500}-{block[0, 0]}-{place}", namespace, [passage]
                )
            set_vectors(connection, zip(ids, block, strict=True))
        seconds += time.perf_counter() - started
        scores = np.concatenate([best, queries @ block.T], axis=1)
        all_ids = np.concatenate([best_ids, np.tile(np.array(ids), (len(queries), 1))], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :NEAREST]
        best, best_ids = np.take_along_axis(scores, order, 1), np.take_along_axis(all_ids, order, 1)
    np.save(work / f"{size}-truth.npy", best_ids)
    started = time.perf_counter()
    index = VectorIndex(store)
    index.refresh()
    index.wait_for_graph()
    graph = time.perf_counter() - started
    index.close()
    store.close()
    return {
        "stored_per_s": size / seconds,
        "graph_s": graph,
        "file_mb": (work / f"{size}.sqlite3").stat().st_size / 1e6,
    }


def ours(work: Path, size: int, count: int) -> dict[str, float]:
    """Open the store anew and search."""
    import psutil

    from toolkit.mcp_server.embeddings import BackgroundEmbedder
    from toolkit.mcp_server.search import Filters, Search
    from toolkit.mcp_server.store import Store

    asked = [question["question"] for question in lines("questions.jsonl")]
    known = np.load(work / "queries.npy")
    truth = np.load(work / f"{size}-truth.npy")
    store = Store(work / f"{size}.sqlite3")
    started = time.perf_counter()
    search = Search(store, BackgroundEmbedder(embedder=Known(asked, known)))
    search.find(asked[-1])
    figures: dict[str, float] = {"cold_ms": 1000 * (time.perf_counter() - started)}
    chosen = asked[:count]
    found = {}
    for name, options in (
        ("vector", {"mode": "vector"}),
        ("text", {"mode": "text"}),
        ("hybrid", {}),
        ("filtered", {"filters": Filters(namespaces=["tenth"])}),
    ):
        seconds, busy = [], time.process_time()
        for query in chosen:
            started = time.perf_counter()
            result = search.find(query, limit=NEAREST, **options)  # type: ignore[arg-type]
            seconds.append(time.perf_counter() - started)
            found[name, query] = [hit.passage_id for hit in result.hits]
        figures |= spread(f"{name}_ms", seconds)
        figures[f"{name}_cpu_ms"] = 1000 * (time.process_time() - busy) / len(chosen)
    hits = [len(set(found["vector", query]) & set(truth[i].tolist())) for i, query in enumerate(chosen)]
    figures["recall"] = sum(hits) / (NEAREST * len(chosen))
    figures["rss_mb"] = psutil.Process().memory_info().rss / 1e6
    search.close()
    store.close()
    return figures


def peer(work: Path, size: int, count: int, least: float) -> dict[str, float]:
    """Let LanceDB search the same vectors: exactly, and by HNSW at a recall of at least `least`."""
    import lancedb
    import pyarrow as pa

    known, truth = np.load(work / "queries.npy")[:count], np.load(work / f"{size}-truth.npy")

    def blocks() -> Iterator[pa.RecordBatch]:
        number = 1
        for block in vectors(work, size):
            flat = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), DIMENSION)
            yield pa.record_batch(
                [pa.array(range(number, number + len(block)), pa.int64()), flat], names=["id", "vector"]
            )
            number += len(block)

    first = next(blocks())
    started = time.perf_counter()
    database = lancedb.connect(str(work / f"{size}.lance"))
    table = database.create_table("t", data=pa.RecordBatchReader.from_batches(first.schema, blocks()))
    stored = size / (time.perf_counter() - started)
    figures: dict[str, float] = {"stored_per_s": stored}

    def measure(name: str, ef: int | None) -> float:
        seconds, hits, busy = [], 0, time.process_time()
        for query, ids in zip(known, truth, strict=False):
            started = time.perf_counter()
            wanted = table.search(query).metric("cosine").limit(NEAREST).select(["id"])
            if ef is not None:
                wanted = wanted.ef(ef).nprobes(20).refine_factor(3)
            got = wanted.to_arrow()["id"].to_pylist()
            seconds.append(time.perf_counter() - started)
            hits += len(set(got) & set(ids.tolist()))
        figures.update(spread(f"{name}_ms", seconds))
        figures[f"{name}_cpu_ms"] = 1000 * (time.process_time() - busy) / len(known)
        return hits / (NEAREST * len(known))

    if size <= 100_000:
        figures["exact_recall"] = measure("exact", None)
    if size >= 10_000:
        started = time.perf_counter()
        table.create_index(metric="cosine", index_type="IVF_HNSW_SQ", num_partitions=max(1, size // 1_000_000))
        figures["graph_s"] = time.perf_counter() - started
        for ef in (32, 64, 128, 256, 512):
            figures["hnsw_ef"], figures["hnsw_recall"] = ef, measure("hnsw", ef)
            if figures["hnsw_recall"] >= least:
                break
    return figures


def spread(name: str, seconds: list[float]) -> dict[str, float]:
    """Return the median and the 95th percentile in milliseconds."""
    return {f"{name}_p50": 1000 * float(np.median(seconds)), f"{name}_p95": 1000 * float(np.quantile(seconds, 0.95))}


def in_a_process(arguments: list[str], path: str | None = None) -> dict[str, float]:
    """Run one step of this script in a process of its own, on one thread, and return its figures."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "LANCE_CPU_THREADS": "1",
        "LANCE_LOG": "error",
    }
    environment["PYTHONPATH"] = os.pathsep.join([*([path] if path else []), str(Path(__file__).parents[1])])
    done = subprocess.run([sys.executable, __file__, *arguments], env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"failed: {' '.join(arguments)}")
    return json.loads(done.stdout.splitlines()[-1])


def shown(figures: dict[str, float]) -> str:
    """Write figures in one line."""
    return "  ".join(
        f"{name} {value:,.3f}" if value < 10 else f"{name} {value:,.0f}" for name, value in figures.items()
    )


def main() -> None:
    """Run everything, or one step when this is a child."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--work", type=Path, help="a folder to keep; else a temporary one")
    parser.add_argument("--peer-path", help="where LanceDB is installed")
    parser.add_argument("--peer-up-to", type=int, default=100_000, help="its index takes long to build")
    parser.add_argument("--step", choices=["prepare", "build", "ours", "peer"])
    parser.add_argument("--least", type=float, default=0.99)
    options = parser.parse_args()
    if options.step:
        work, size = options.work, options.sizes[0]
        steps = {
            "prepare": lambda: prepare(work),
            "build": lambda: build(work, size),
            "ours": lambda: ours(work, size, options.queries),
            "peer": lambda: peer(work, size, options.queries, options.least),
        }
        print(json.dumps(steps[options.step]()))
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        base = ["--work", str(work), "--queries", str(options.queries)]
        print("embedding:", shown(in_a_process(["--step", "prepare", *base])), flush=True)
        for size in options.sizes:
            sized = [*base, "--sizes", str(size)]
            print(f"{size:,} stored:", shown(in_a_process(["--step", "build", *sized])), flush=True)
            figures = in_a_process(["--step", "ours", *sized])
            print(f"{size:,} ours:", shown(figures), flush=True)
            if options.peer_path and size <= options.peer_up_to:
                least = min(0.99, figures["recall"])
                print(
                    f"{size:,} LanceDB:",
                    shown(in_a_process(["--step", "peer", "--least", str(least), *sized], options.peer_path)),
                    flush=True,
                )


if __name__ == "__main__":
    main()
