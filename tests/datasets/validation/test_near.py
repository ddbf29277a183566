from __future__ import annotations

import random

import numpy as np
import pytest

from tests.datasets.validation.judging import clean_records
from toolkit.datasets.validation.near import NearIndex
from toolkit.datasets.validation.shingles import number_words, whole_ngrams
from toolkit.datasets.validation.texts import words_of


def trigrams(words: list[str]) -> frozenset[tuple[str, ...]]:
    """Return the trigrams of words; past the end stands a mark."""
    return frozenset(tuple([*words, "", ""][i : i + 3]) for i in range(len(words)))


def jaccard(one: frozenset[tuple[str, ...]], other: frozenset[tuple[str, ...]]) -> float:
    """Compare by Python's own sets."""
    return len(one & other) / len(one | other)


def texts_with_neighbours(seed: int) -> list[list[str]]:
    """Return words of questions and of copies with every so many words changed, so that all similarities occur."""
    rng = random.Random(seed)
    texts = [words_of(record["instruction"] + " " + record["output"]) for record in clean_records(60)]
    for index in range(60):
        copy = list(texts[index])
        for place in rng.sample(range(len(copy)), k=max(1, len(copy) * rng.randint(1, 12) // 100)):
            copy[place] = f"changed{rng.randrange(1000)}"
        texts.append(copy)
    return texts


def brute_force_clusters(texts: list[list[str]], threshold: float) -> set[frozenset[int]]:
    parent = list(range(len(texts)))
    sets = [trigrams(words) for words in texts]

    def find(index: int) -> int:
        return index if parent[index] == index else find(parent[index])

    for second in range(len(texts)):
        for first in range(second):
            if jaccard(sets[first], sets[second]) >= threshold:
                parent[find(second)] = find(first)
    groups: dict[int, set[int]] = {}
    for index in range(len(texts)):
        groups.setdefault(find(index), set()).add(index)
    return {frozenset(group) for group in groups.values()}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_clusters_are_those_that_comparing_every_pair_gives(seed: int) -> None:
    texts = texts_with_neighbours(seed)
    with NearIndex() as near:
        for start in range(0, len(texts), 50):
            near.add(texts[start : start + 50])
        clusters = near.clusters(0.8)
    found: dict[int, set[int]] = {}
    for index, root in enumerate(clusters.root.tolist()):
        found.setdefault(root, set()).add(index)
    assert {frozenset(group) for group in found.values()} == brute_force_clusters(texts, 0.8)


def test_similarities_are_exact_and_named_for_every_text_that_is_not_the_first_of_its_cluster() -> None:
    texts = texts_with_neighbours(4)
    with NearIndex() as near:
        near.add(texts)
        clusters = near.clusters(0.8)
    assert [pair.index for pair in clusters.pairs] == [i for i, root in enumerate(clusters.root) if i != root]
    assert clusters.pairs
    for pair in clusters.pairs:
        assert pair.jaccard == pytest.approx(jaccard(trigrams(texts[pair.other]), trigrams(texts[pair.index])))


def test_a_bucket_of_equal_texts_is_one_cluster_and_texts_without_words_are_none() -> None:
    with NearIndex() as near:
        near.add([["a", "b", "c", "d"]] * 200 + [[], []])
        clusters = near.clusters(0.8)
    assert clusters.root.tolist() == [0] * 200 + [200, 201]
    assert len(clusters.pairs) == 199


def test_operators_tell_questions_apart_and_words_of_scripts_without_spaces_are_characters() -> None:
    assert words_of("What is 12 + 7?") != words_of("What is 12 - 7?")
    assert words_of("你好 World") == ["你", "好", "world"]


def test_runs_of_words_do_not_reach_from_one_text_into_the_next() -> None:
    words = number_words([["a", "b", "c"], [], ["d", "e"], ["a", "b", "c"]])
    runs, owner = whole_ngrams(words, 2)
    assert owner.tolist() == [0, 0, 2, 3, 3]
    assert np.array_equal(runs[:2], runs[3:]) and len(set(runs.tolist())) == 3
