"""Runs the question set through the search and measures the answers: nDCG@10 and recall@10, with bootstrap intervals.

nDCG: Järvelin & Kekäläinen 2002 (ACM TOIS 20:422-446), with the grade itself as gain.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.mcp_server.embeddings import BackgroundEmbedder, Embedder
from toolkit.mcp_server.passages import Passage, replace_passages
from toolkit.mcp_server.search import Indexer, Mode, Search
from toolkit.mcp_server.store import Store

SET = Path(__file__).parent / "retrieval"
EMBEDDINGS = SET / "embeddings.npz"
DEPTH = 10
RESAMPLES = 10_000


def read_set() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the passages and the questions."""
    passages, questions = (
        [json.loads(line) for line in (SET / name).read_text("utf-8").splitlines()]
        for name in ("passages.jsonl", "questions.jsonl")
    )
    return passages, questions


class StoredEmbedder:
    """Knows the real model's vectors of the set, rounded to float16, and nothing else."""

    name, dimension, max_tokens = "all-MiniLM-L6-v2", 384, 256

    def __init__(self) -> None:
        passages, questions = read_set()
        with np.load(EMBEDDINGS) as stored:
            vectors = np.concatenate([stored["passages"], stored["questions"]]).astype(np.float32)
        texts = [embedded_text(passage) for passage in passages] + [question["question"] for question in questions]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        self._vectors = dict(zip(texts, vectors, strict=True))

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self._vectors[text] for text in texts])

    def count_tokens(self, text: str) -> int:
        return len(text.split())


def embedded_text(passage: Mapping[str, Any]) -> str:
    return Passage(passage["text"], passage["heading"]).embedded_text


def ndcg(relevant: Mapping[str, int], ranked: Sequence[str]) -> float:
    discounts = 1 / np.log2(np.arange(2, DEPTH + 2))
    gains = np.array([relevant.get(key, 0) for key in ranked[:DEPTH]], dtype=float)
    best = np.array(sorted(relevant.values(), reverse=True)[:DEPTH], dtype=float)
    return float((gains * discounts[: len(gains)]).sum() / (best * discounts[: len(best)]).sum())


def recall(relevant: Mapping[str, int], ranked: Sequence[str]) -> float:
    return len(set(relevant) & set(ranked[:DEPTH])) / len(relevant)


@dataclass(frozen=True)
class Interval:
    """A mean over questions with its 95 % interval by the percentile bootstrap."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def interval(values: Sequence[float], seed: int = 0) -> Interval:
    array = np.asarray(values, dtype=float)
    draw = np.random.default_rng(seed).integers(len(array), size=(RESAMPLES, len(array)))
    low, high = np.quantile(array[draw].mean(axis=1), [0.025, 0.975])
    return Interval(float(array.mean()), float(low), float(high))


def ranked_answers(folder: Path, embedder: Embedder, half: str) -> dict[Mode, dict[str, list[str]]]:
    """Fill a store in `folder` and return, by mode and question id, the ids of the passages found, best first."""
    passages, questions = read_set()
    store = Store(folder / "retrieval.sqlite3")
    background = BackgroundEmbedder(embedder=embedder)
    with store.writing() as connection:
        for passage in passages:
            cut = [Passage(passage["text"], passage["heading"])]
            replace_passages(connection, "document", passage["id"], "default", cut)
    Indexer(store, background).flush()
    search = Search(store, background)
    modes: tuple[Mode, ...] = ("text", "vector", "hybrid")
    answers: dict[Mode, dict[str, list[str]]] = {mode: {} for mode in modes}
    for question in questions:
        if question["half"] == half:
            for mode in modes:
                hits = search.find(question["question"], limit=DEPTH, mode=mode).hits
                answers[mode][question["id"]] = [hit.owner_id for hit in hits]
    search.close()
    store.close()
    return answers


def values(
    answers: Mapping[str, Sequence[str]], measure: Callable[[Mapping[str, int], Sequence[str]], float], kind: str = ""
) -> list[float]:
    """Measure every answer, in the order of the questions; of one kind of question only, if given."""
    questions = {question["id"]: question for question in read_set()[1]}
    return [
        measure(questions[key]["relevant"], ranked)
        for key, ranked in answers.items()
        if not kind or questions[key]["kind"] == kind
    ]
