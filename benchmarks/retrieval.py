"""Does hybrid search find more than vectors alone or BM25 alone?

    python benchmarks/retrieval.py [--half test|development] [--store-embeddings]

Runs the question set of tests/mcp_server/retrieval through the product's search with the real all-MiniLM-L6-v2 and
prints nDCG@10 and recall@10 with 95 % bootstrap intervals over questions, nDCG@10 by kind of question too, and the
paired differences.
`--store-embeddings` keeps the model's vectors beside the set (float16), for the quick test.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.mcp_server.retrieval_measure import (  # noqa: E402
    EMBEDDINGS,
    embedded_text,
    interval,
    ndcg,
    ranked_answers,
    read_set,
    recall,
    values,
)
from toolkit.mcp_server.embeddings import load_embedder  # noqa: E402


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--half", choices=["test", "development"], default="test")
    parser.add_argument("--store-embeddings", action="store_true")
    options = parser.parse_args()
    embedder = load_embedder(device="cpu")
    if options.store_embeddings:
        passages, questions = read_set()
        np.savez_compressed(
            EMBEDDINGS,
            passages=embedder.embed([embedded_text(passage) for passage in passages]).astype(np.float16),
            questions=embedder.embed([question["question"] for question in questions]).astype(np.float16),
        )
    with tempfile.TemporaryDirectory() as folder:
        answers = ranked_answers(Path(folder), embedder, options.half)
    print(f"{options.half} half, {len(answers['hybrid'])} questions; model from {embedder.source}\n")
    print("| | nDCG@10 | recall@10 | paraphrases | keywords | several |")
    print("| --- | --- | --- | --- | --- | --- |")
    for mode, name in (("text", "BM25 alone"), ("vector", "vectors alone"), ("hybrid", "hybrid")):
        kinds = [f"{np.mean(values(answers[mode], ndcg, kind)):.3f}" for kind in ("paraphrase", "keyword", "several")]
        figures = [str(interval(values(answers[mode], measure))) for measure in (ndcg, recall)]
        print(f"| {name} | {' | '.join([*figures, *kinds])} |")
    for mode, name in (("vector", "vectors alone"), ("text", "BM25 alone")):
        for measure, label in ((ndcg, "nDCG@10"), (recall, "recall@10")):
            pairs = zip(values(answers["hybrid"], measure), values(answers[mode], measure), strict=True)
            print(f"hybrid minus {name}, {label}: {interval([ours - theirs for ours, theirs in pairs])}")


if __name__ == "__main__":
    main()
