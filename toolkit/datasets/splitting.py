"""Examples into splits, so that nothing of one stands in another.

Together stay: examples with one semantic key, with one question, and near duplicates (clusters of them). Every category
keeps its share of each split as far as whole groups allow. What goes where depends on the examples, their order and
the seed alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from toolkit.datasets.randomness import permutation
from toolkit.datasets.schema import Example
from toolkit.datasets.validation.columns import groups
from toolkit.datasets.validation.near import NearIndex
from toolkit.datasets.validation.texts import answer_of, number_of, prompt_of, words_of
from toolkit.errors import ToolkitError

_DRAW = 401
_BATCH = 512


@dataclass
class _Facts:
    """What is kept of the examples: three numbers each."""

    keys: list[int] = field(default_factory=list)
    questions: list[int] = field(default_factory=list)
    categories: list[str | None] = field(default_factory=list)


def assign_splits(
    examples: Iterable[Example], shares: Mapping[str, float], seed: int, near_jaccard: float = 0.8
) -> list[str]:
    """Return the name of the split that each example belongs to.

    Args:
        examples: in their order; they are looked at once.
        shares: weight of each split by name, above 0; they need not add up to 1.
        seed: another seed, another choice of groups.
        near_jaccard: from this similarity of word trigrams on two examples stay together.

    Raises:
        ToolkitError: there are fewer groups than splits, so that one would be empty.
    """
    facts = _Facts()
    with NearIndex() as near:
        batch: list[list[str]] = []
        for example in examples:
            prompt = words_of(prompt_of(example))
            facts.keys.append(0 if example.key is None else number_of(example.key))
            facts.questions.append(number_of(" ".join(prompt)) if prompt else 0)
            facts.categories.append(example.category)
            batch.append([*prompt, *words_of(answer_of(example))])
            if len(batch) == _BATCH:
                near.add(batch)
                batch = []
        near.add(batch)
        roots = near.clusters(near_jaccard).root
    members = _groups(facts, roots)
    if len(members) < len(shares):
        what = f"{len(roots):,} examples make {len(members)} group(s) that must stay together, too few to split"
        raise ToolkitError(what, hint="Groups share a key, a question or most of their words")
    return _assign(members, facts.categories, shares, seed)


def parse_shares(text: str) -> dict[str, float]:
    """Read `train=80,valid=10,test=10` or `80/20` (then train and valid, or train, valid and test).

    Raises:
        ToolkitError: it is neither, a share is not above 0, or there are fewer than two.
    """
    hint = "For example: 80/20, 80/10/10 or train=80,valid=20"
    names = ("train", "valid") if text.count("/") == 1 else ("train", "valid", "test")
    parts = text.split("/") if "=" not in text else [part.partition("=")[2] for part in text.split(",")]
    if "=" in text:
        names = tuple(part.partition("=")[0].strip() for part in text.split(","))
    try:
        values = [float(part) for part in parts]
    except ValueError:
        raise ToolkitError(f"{text!r} are no shares", where="--shares", hint=hint) from None
    if len(values) != len(names) or len(set(names)) != len(names) or len(values) < 2:
        raise ToolkitError(f"{text!r} names two splits at least, each once", where="--shares", hint=hint)
    if not all(0 < value < float("inf") for value in values) or not all(_is_name(name) for name in names):
        raise ToolkitError(f"{text!r}: shares are above 0, names are plain words", where="--shares", hint=hint)
    return dict(zip(names, values, strict=True))


def _is_name(name: str) -> bool:
    return bool(name) and name.replace("-", "").replace("_", "").isalnum()


def _groups(facts: _Facts, roots: NDArray[np.int64]) -> list[list[int]]:
    """Return the indices of what must stay together, in the order of their first members."""
    parent = roots.tolist()

    def find(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for column in (facts.keys, facts.questions):
        for alike in groups(np.array(column, dtype=np.uint64)):
            first = int(alike[0])
            for index in alike[1:].tolist():
                one, other = find(first), find(index)
                parent[max(one, other)] = min(one, other)
    members: dict[int, list[int]] = {}
    for index in range(len(parent)):
        members.setdefault(find(index), []).append(index)
    return list(members.values())


def _assign(
    members: Sequence[Sequence[int]], categories: Sequence[str | None], shares: Mapping[str, float], seed: int
) -> list[str]:
    """Deal out groups category by category, the largest first, each to the split that lacks most.

    What a split lacks is counted over this category and all before it, so that what one category's whole groups leave
    uneven the next one evens out.
    """
    total = sum(shares.values())
    drawn = permutation(len(members), seed, _DRAW).tolist()
    strata: dict[str | None, list[int]] = {}
    for group in sorted(drawn, key=lambda group: -len(members[group])):
        strata.setdefault(categories[members[group][0]], []).append(group)
    names = sorted(strata, key=lambda name: (name is None, name or ""))
    placed: dict[str, int] = dict.fromkeys(shares, 0)
    seen = 0
    split_of = [""] * len(categories)
    for name in names:
        seen += sum(len(members[group]) for group in strata[name])
        wanted = {split: share / total * seen for split, share in shares.items()}
        for group in strata[name]:
            best = max(shares, key=lambda split: round(wanted[split] - placed[split], 6))
            placed[best] += len(members[group])
            for index in members[group]:
                split_of[index] = best
    return _without_empty(split_of, members, list(shares))


def _without_empty(split_of: list[str], members: Sequence[Sequence[int]], names: Sequence[str]) -> list[str]:
    """Give an empty split the smallest group of the largest split: rounding must not leave one without examples."""
    for name in names:
        if name in split_of:
            continue
        largest = max(names, key=split_of.count)
        smallest = min((group for group in members if split_of[group[0]] == largest), key=len)
        for index in smallest:
            split_of[index] = name
    return split_of
