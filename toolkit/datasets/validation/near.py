"""Near duplicates: MinHash signatures, banded (LSH), every candidate verified by its true Jaccard similarity.

A text is the set of its word trigrams. Its signature (Broder 1997; rensa's R-MinHash, 128 values) is cut into 21 bands
of 6: texts that agree in a whole band are candidates (a pair at Jaccard 0.8 is one with probability 0.998, a pair at
0.3 with 0.015). Candidates whose signatures disagree too much are dropped, for the rest the trigrams themselves are
compared, which lie in a temporary file. Within a band only neighbours in the order of the data are paired, so a bucket
of k texts costs 4 k comparisons and not k²: time and memory are linear in the number of texts (about 230 bytes each).
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import NDArray
from rensa.rensa import RMinHash

from toolkit.datasets.validation.shingles import Numbers, avalanche, ngrams, number_words

SHINGLE_WORDS = 3
PERMUTATIONS = 128
_SEED = 20_26
_BANDS, _ROWS = 21, 6
_NEIGHBOURS = 4
# The estimate's standard deviation at 0.8 is 0.035: four of them.
_SLACK = 0.14
_PAIRS_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class NearPair:
    """A text and the one that it is most like.

    other:   index of the one
    index:   index of the text
    jaccard: the true similarity of their trigram sets, 0..1
    """

    other: int
    index: int
    jaccard: float


@dataclass(frozen=True, eq=False)
class Clusters:
    """Texts grouped by near duplication.

    root:  (N,) int64, the smallest index of the cluster that each text belongs to
    pairs: one for each text that is not a root, in order, with the text of its cluster that it is most like (of those
           that it was compared with); a chain of such pairs leads to the root
    """

    root: NDArray[np.int64]
    pairs: tuple[NearPair, ...]


class NearIndex:
    """Takes texts as lists of words, batch by batch, and groups them at the end. Use it in a `with` block."""

    def __init__(self) -> None:
        """Start empty, with a temporary file for the trigrams."""
        self._spool: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._ends = array("q", [0])
        self._bands: list[NDArray[np.uint32]] = []
        self._signatures: list[NDArray[np.uint8]] = []
        self._sets: NDArray[np.uint32] | None = None

    def __enter__(self) -> NearIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self._sets = None
        self._spool.close()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def add(self, texts: Sequence[Sequence[str]]) -> None:
        """Add a batch of texts, each as its words."""
        if not texts:
            return
        words = number_words(texts)
        shingles = ngrams(words, SHINGLE_WORDS)
        (shingles >> np.uint64(32)).astype(np.uint32).tofile(self._spool)
        last = self._ends[-1]
        self._ends.extend((words.offsets[1:] + last).tolist())
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            shingles, words.offsets.astype(np.uint64), PERMUTATIONS, _SEED
        )
        digests = np.array(matrix.to_rows(), dtype=np.uint32).reshape(len(texts), PERMUTATIONS)
        self._signatures.append(digests.astype(np.uint8))
        self._bands.append(_band_numbers(digests))

    def trigrams(self, index: int) -> NDArray[np.uint32]:
        """Return the trigrams of a text that was added, in the order of the text, 32 bits of each."""
        if self._sets is None:
            self._spool.flush()
            self._sets = (
                np.memmap(self._spool, dtype=np.uint32, mode="r") if self._ends[-1] else np.zeros(0, dtype=np.uint32)
            )
        return self._sets[self._ends[index] : self._ends[index + 1]]

    def jaccard(self, first: int, second: int) -> float:
        """Return the similarity of two texts: trigrams in both over trigrams in either. Two empty texts: 0."""
        one, other = np.unique(self.trigrams(first)), np.unique(self.trigrams(second))
        both = len(np.intersect1d(one, other, assume_unique=True))
        either = len(one) + len(other) - both
        return both / either if either else 0.0

    def clusters(self, threshold: float) -> Clusters:
        """Group texts that a chain of pairs with at least `threshold` Jaccard joins."""
        parent = array("q", range(len(self)))
        joined: list[tuple[int, int, float]] = []
        if len(self) > 1:
            # Joined in place of the batches, one after the other, so that nothing is held twice for long.
            self._bands = [np.concatenate(self._bands)]
            self._signatures = [np.concatenate(self._signatures)]
            for band in range(_BANDS):
                for first, second in _candidates(self._bands[0][:, band], self._signatures[0], threshold - _SLACK):
                    self._join(first, second, threshold, parent, joined)
        root = np.fromiter((_find(parent, index) for index in range(len(self))), dtype=np.int64, count=len(self))
        return Clusters(root, _most_alike(joined, root))

    def _join(
        self,
        first: int,
        second: int,
        threshold: float,
        parent: MutableSequence[int],
        joined: list[tuple[int, int, float]],
    ) -> None:
        one, other = _find(parent, first), _find(parent, second)
        if one == other:
            return
        similarity = self.jaccard(first, second)
        if similarity >= threshold:
            parent[max(one, other)] = min(one, other)
            joined.append((first, second, similarity))


def _most_alike(joined: list[tuple[int, int, float]], root: NDArray[np.int64]) -> tuple[NearPair, ...]:
    best: dict[int, NearPair] = {}
    for first, second, similarity in joined:
        for index, other in ((first, second), (second, first)):
            pair = NearPair(other, index, similarity)
            if root[index] != index and (index not in best or _rank(pair) > _rank(best[index])):
                best[index] = pair
    return tuple(best[index] for index in sorted(best))


def _rank(pair: NearPair) -> tuple[float, bool, int]:
    return pair.jaccard, pair.other < pair.index, -pair.other


def _band_numbers(digests: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Fold each band of (N, 128) signatures into a number: (N, 21)."""
    rows = digests[:, : _BANDS * _ROWS].astype(np.uint64).reshape(len(digests), _BANDS, _ROWS)
    folded: Numbers = np.zeros(rows.shape[:2], dtype=np.uint64)
    for row in range(_ROWS):
        folded = avalanche(folded + rows[:, :, row])
    return (folded >> np.uint64(32)).astype(np.uint32)


def _candidates(band: NDArray[np.uint32], signatures: NDArray[np.uint8], least: float) -> list[tuple[int, int]]:
    """Return pairs that share a bucket, near each other in it, and whose signatures agree in a share of `least`."""
    order = np.argsort(band, kind="stable")
    ordered = band[order]
    found: list[tuple[int, int]] = []
    for distance in range(1, _NEIGHBOURS + 1):
        alike = np.flatnonzero(ordered[distance:] == ordered[:-distance])
        for start in range(0, len(alike), _PAIRS_AT_ONCE):
            piece = alike[start : start + _PAIRS_AT_ONCE]
            first, second = order[piece], order[piece + distance]
            good = (signatures[first] == signatures[second]).mean(axis=1) >= least
            found.extend(zip(first[good].tolist(), second[good].tolist(), strict=True))
    return found


def _find(parent: MutableSequence[int], index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index
