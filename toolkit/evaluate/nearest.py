"""The nearest-question baseline: answer with what was said to the most similar training question.

A model that only memorised its training set does no better than this, so what it scores above the baseline is what it
generalised. Similarity is the cosine of TF-IDF vectors over character n-grams (scikit-learn's
`TfidfVectorizer(analyzer="char", ngram_range=(2, 4))` gives the same numbers; the tests hold us to it). Ties go to the
earlier training question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from toolkit.evaluate.exact_match import Answer, judge
from toolkit.evaluate.questions import Question

SHORTEST_GRAM, LONGEST_GRAM = 2, 4


def _grams(text: str) -> Counter[str]:
    """Count the character n-grams of a text, lower-cased, runs of white space taken as one space."""
    squeezed = " ".join(text.lower().split())
    return Counter(
        squeezed[start : start + length]
        for length in range(SHORTEST_GRAM, LONGEST_GRAM + 1)
        for start in range(len(squeezed) - length + 1)
    )


class NearestQuestion:
    """An inverted index from n-grams to training questions."""

    def __init__(self, training: Sequence[Question]) -> None:
        """Index the training questions. Raises ValueError when there are none."""
        if not training:
            raise ValueError("the nearest-question baseline needs training questions")
        self._training = tuple(training)
        counts = [_grams(question.text) for question in training]
        holders = Counter(gram for counter in counts for gram in counter)
        size = len(counts)
        self._idf = {gram: float(np.log((1 + size) / (1 + held)) + 1) for gram, held in holders.items()}
        rows: dict[str, list[int]] = {gram: [] for gram in holders}
        values: dict[str, list[float]] = {gram: [] for gram in holders}
        for row, counter in enumerate(counts):
            norm = self._norm(counter)
            for gram, count in counter.items():
                rows[gram].append(row)
                values[gram].append(count * self._idf[gram] / norm)
        self._postings = {gram: (np.array(rows[gram]), np.array(values[gram])) for gram in holders}

    def _norm(self, counter: Counter[str]) -> float:
        """Euclidean length of a TF-IDF vector; n-grams never seen in training count for nothing."""
        squares = sum((count * self._idf.get(gram, 0.0)) ** 2 for gram, count in counter.items())
        return float(np.sqrt(squares)) or 1.0

    def similarities(self, text: str) -> NDArray[np.float64]:
        """Return the cosine similarity of a text to each training question, shape (training questions,)."""
        counter = _grams(text)
        norm = self._norm(counter)
        scores = np.zeros(len(self._training), dtype=np.float64)
        for gram in sorted(counter):
            if gram in self._postings:
                rows, values = self._postings[gram]
                scores[rows] += values * (counter[gram] * self._idf[gram] / norm)
        return scores

    def nearest(self, text: str) -> Question:
        """Return the most similar training question; the earliest of those within rounding of the best."""
        scores = self.similarities(text)
        return self._training[int(np.flatnonzero(scores >= scores.max() - 1e-9)[0])]

    def answer_questions(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer each question with its nearest neighbour's answer, and judge it by exact match."""
        return [judge(self.nearest(question.text).reference, True, question.reference) for question in questions]
