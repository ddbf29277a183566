"""Which examples repeat an earlier one, exactly or nearly, and which stays: the first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from toolkit.datasets.schema import Example
from toolkit.datasets.validation.near import NearIndex
from toolkit.datasets.validation.texts import answer_of, content_number, prompt_of, words_of

_BATCH = 512


@dataclass(frozen=True)
class Removed:
    """An example that goes.

    index:   its place in the order of the data, from 0
    where:   its `file:line`
    like:    the place of the example that it repeats
    jaccard: how alike their word trigrams are; None for an exact duplicate
    """

    index: int
    where: str
    like: str
    jaccard: float | None


def find_repeated(examples: Iterable[Example], near_jaccard: float | None) -> tuple[int, list[Removed]]:
    """Return how many examples there are, and those that repeat an earlier one, in order.

    Args:
        examples: looked at once.
        near_jaccard: from this similarity on an example repeats another; None: only exact repetition counts.
    """
    first: dict[int, int] = {}
    places: list[str] = []
    exact: dict[int, int] = {}
    batch: list[list[str]] = []
    with NearIndex() as near:
        for index, example in enumerate(examples):
            places.append(example.where)
            earlier = first.setdefault(content_number(example), index)
            if earlier != index:
                exact[index] = earlier
            if near_jaccard is None:
                continue
            batch.append([*words_of(prompt_of(example)), *words_of(answer_of(example))])
            if len(batch) == _BATCH:
                near.add(batch)
                batch = []
        near.add(batch)
        pairs = near.clusters(near_jaccard).pairs if near_jaccard is not None else ()
    removed = {index: Removed(index, places[index], places[like], None) for index, like in exact.items()}
    for pair in pairs:
        removed.setdefault(pair.index, Removed(pair.index, places[pair.index], places[pair.other], pair.jaccard))
    return len(places), [removed[index] for index in sorted(removed)]
