"""The question set is whole, and search is judged by it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

SET = Path(__file__).parent / "retrieval"
PASSAGES = [json.loads(line) for line in (SET / "passages.jsonl").read_text("utf-8").splitlines()]
QUESTIONS = [json.loads(line) for line in (SET / "questions.jsonl").read_text("utf-8").splitlines()]


def test_the_set_is_large_enough_and_its_judgements_point_at_its_passages():
    ids = [passage["id"] for passage in PASSAGES]
    assert len(set(ids)) == len(PASSAGES) >= 500
    assert len({question["question"] for question in QUESTIONS}) == len(QUESTIONS) >= 200
    for question in QUESTIONS:
        assert question["relevant"] and set(question["relevant"]) <= set(ids), question["id"]
        assert set(question["relevant"].values()) <= {1, 2} and 2 in question["relevant"].values(), question["id"]


def test_both_halves_have_the_same_mixture():
    counts = Counter((question["half"], question["kind"]) for question in QUESTIONS)
    for kind in ("paraphrase", "keyword", "several"):
        assert 0 <= counts["development", kind] - counts["test", kind] <= 1
