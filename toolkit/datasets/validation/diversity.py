"""How varied a dataset is, in figures that do not depend on its size: all are taken over samples of a fixed size.

(The more examples, the fewer new words each brings. The average over windows of a fixed size is how linguists compare
texts of different lengths: Covington & McFall 2010, Journal of Quantitative Linguistics 17:94-100.) The order of the
samples follows from the examples' own content, so it is the same on every machine and however the files are sorted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.datasets.validation.shingles import Numbers

TEMPLATE_SAMPLE = 100
"""Examples in a sample of templates."""
TRIGRAM_WINDOW = 2_000
"""Trigrams in a window."""
_MOST_SAMPLES = 100


@dataclass(frozen=True)
class Diversity:
    """Figures of variety, each None where there are too few examples for one sample.

    template_entropy:  entropy of the templates of 100 questions over log2(100): 1 when all differ, 0 when all are one
    template_share:    share of all examples that have the commonest template
    opening_share:     share of all examples whose question begins with the commonest three words
    distinct_trigrams: distinct word trigrams over all, in windows of 2,000
    trigram_entropy:   entropy of the trigrams in such a window over log2(2,000)
    """

    template_entropy: float | None
    template_share: float | None
    opening_share: float | None
    distinct_trigrams: float | None
    trigram_entropy: float | None


def measure_diversity(
    contents: Numbers,
    templates: Numbers,
    openings: Numbers,
    trigrams_of: Callable[[int], NDArray[np.uint32]],
) -> Diversity:
    """Measure N examples.

    Args:
        contents: (N,) uint64, one number for what an example says; they decide the order of the samples.
        templates: (N,) uint64, of the questions' templates; 0 where there is no question.
        openings: (N,) uint64, of the questions' first words; 0 likewise.
        trigrams_of: returns an example's trigrams as numbers.
    """
    order = np.argsort(contents, kind="stable")
    asked = order[templates[order] != 0]
    window = _windows(order, trigrams_of)
    return Diversity(
        template_entropy=_mean([normalised_entropy(templates[sample]) for sample in _samples(asked)]),
        template_share=largest_share(templates[asked]),
        opening_share=largest_share(openings[asked]),
        distinct_trigrams=_mean([len(np.unique(numbers)) / len(numbers) for numbers in window]),
        trigram_entropy=_mean([normalised_entropy(numbers) for numbers in window]),
    )


def normalised_entropy(values: NDArray) -> float:
    """Return the Shannon entropy of some values over the largest that so many can have: 0 if equal, 1 if distinct."""
    if len(values) < 2:
        return 1.0
    shares = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(shares * np.log2(shares)).sum() / np.log2(len(values))) + 0.0


def largest_share(values: Numbers) -> float | None:
    """Return the share of the commonest value; None of nothing."""
    return float(np.unique(values, return_counts=True)[1].max() / len(values)) if len(values) else None


def _samples(order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    count = min(len(order) // TEMPLATE_SAMPLE, _MOST_SAMPLES)
    return [order[i * TEMPLATE_SAMPLE : (i + 1) * TEMPLATE_SAMPLE] for i in range(count)]


def _windows(order: NDArray[np.int64], trigrams_of: Callable[[int], NDArray[np.uint32]]) -> list[NDArray[np.uint32]]:
    """Fill windows with the trigrams of one example after the other, repetitions within an example left out."""
    windows: list[NDArray[np.uint32]] = []
    parts: list[NDArray[np.uint32]] = []
    size = 0
    for index in order:
        own = np.unique(trigrams_of(int(index)))
        parts.append(own)
        size += len(own)
        if size >= TRIGRAM_WINDOW:
            windows.append(np.concatenate(parts)[:TRIGRAM_WINDOW])
            parts, size = [], 0
        if len(windows) == _MOST_SAMPLES:
            break
    return windows


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
