"""Words → 64-bit numbers → numbers of word n-grams, a batch of texts at a time.

Word numbers are Rust's FxHash through rensa; n-grams are mixed from them with odd multipliers and a final avalanche
(that of SplitMix64), so equal n-grams have equal numbers in every run and on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rensa.rensa import RMinHash

Numbers = NDArray[np.uint64]

_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_AVALANCHE = np.uint64(0xBF58476D1CE4E5B9)
_END = np.uint64(0x2545F4914F6CDD1D)


@dataclass(frozen=True, eq=False)
class WordNumbers:
    """The words of B texts.

    flat:    (sum of words,) uint64, one text behind the other
    offsets: (B + 1,) int64; text b's words are flat[offsets[b]:offsets[b + 1]]
    """

    flat: Numbers
    offsets: NDArray[np.int64]


def number_words(texts: Sequence[Sequence[str]]) -> WordNumbers:
    """Return the numbers of the words of several texts."""
    rows = RMinHash.hash_token_sets(texts)
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    flat = np.fromiter((number for row in rows for number in row), dtype=np.uint64, count=int(offsets[-1]))
    return WordNumbers(flat, offsets)


def ngrams(words: WordNumbers, size: int) -> Numbers:
    """Return the n-gram that begins at each word, (sum of words,) uint64; past a text's end stands an end mark.

    So a text of n words has n of them, and a text of one word has one.
    """
    padded = np.full(len(words.flat) + size - 1, _END, dtype=np.uint64)
    padded[: len(words.flat)] = words.flat
    rest = np.repeat(words.offsets[1:], np.diff(words.offsets)) - np.arange(len(words.flat))
    mixed = np.zeros(len(words.flat), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for step in range(size):
            mixed *= _FACTOR
            mixed += np.where(rest > step, padded[step : step + len(words.flat)], _END)
        return avalanche(mixed)


def whole_ngrams(words: WordNumbers, size: int) -> tuple[Numbers, NDArray[np.int64]]:
    """Return the n-grams that lie wholly inside a text, and the index (int64) of the text that each lies in."""
    lengths = np.diff(words.offsets)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    rest = np.repeat(words.offsets[1:], lengths) - np.arange(len(words.flat))
    inside = rest >= size
    return ngrams(words, size)[inside], owner[inside]


def avalanche(numbers: Numbers) -> Numbers:
    """Mix the bits of each number so that any of them may be taken alone."""
    with np.errstate(over="ignore"):
        numbers = (numbers ^ (numbers >> np.uint64(30))) * _AVALANCHE
        return numbers ^ (numbers >> np.uint64(31))
