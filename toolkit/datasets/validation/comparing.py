"""What only shows when examples are compared: duplicates, leaks between splits, answers that disagree, double ids."""

from __future__ import annotations

from collections import Counter

import numpy as np

from toolkit.datasets.validation.columns import Columns, groups, numbers
from toolkit.datasets.validation.findings import Findings
from toolkit.datasets.validation.metadata import wrong_labels
from toolkit.datasets.validation.near import Clusters


def compare_examples(
    columns: Columns, clusters: Clusters, findings: Findings, labels: tuple[str, ...] | None, language: str | None
) -> str | None:
    """Add what comparing finds; return the language that the data are in, if it can be told."""
    leaked: set[int] = set()
    _duplicates(columns, clusters, findings)
    _leaks_of(columns, numbers(columns.content), "leak-text", "the same text", findings, leaked)
    _leaks_of(columns, numbers(columns.prompt), "leak-text", "the same question", findings, leaked)
    _near_leaks(columns, clusters, findings, leaked)
    _leaks_of(columns, numbers(columns.key), "leak-key", "the same key", findings, set())
    _conflicts(columns, findings)
    _repeated_ids(columns, findings)
    _wrong_labels(columns, findings, labels)
    return _other_languages(columns, findings, language)


def _duplicates(columns: Columns, clusters: Clusters, findings: Findings) -> None:
    """Add what repeats an earlier example of its own split; what repeats another split's is a leak."""
    repeated: set[int] = set()
    for alike in groups(numbers(columns.content)):
        firsts: dict[int, int] = {}
        for index in alike.tolist():
            first = firsts.setdefault(columns.split[index], index)
            if first != index:
                repeated.add(index)
                findings.add("exact-duplicate", columns.where(index), f"the same as {columns.where(first)}")
    for pair in clusters.pairs:
        if pair.index not in repeated and columns.split[pair.index] == columns.split[pair.other]:
            what = f"{pair.jaccard:.0%} of its word trigrams are those of {columns.where(pair.other)}"
            findings.add("near-duplicate", columns.where(pair.index), what)


def _leaks_of(columns: Columns, column, kind: str, what: str, findings: Findings, leaked: set[int]) -> None:
    """Add every example outside the first split of its group: train's stays, validation's and test's are named."""
    if len(columns.splits.all()) < 2:
        return
    split = np.array(columns.split)
    for alike in groups(column):
        if len(np.unique(split[alike])) > 1:
            _leak(columns, alike[np.argsort(split[alike], kind="stable")].tolist(), kind, what, findings, leaked)


def _leak(columns: Columns, alike: list[int], kind: str, what: str, findings: Findings, leaked: set[int]) -> None:
    first = alike[0]
    for index in alike[1:]:
        if columns.split[index] != columns.split[first] and index not in leaked:
            leaked.add(index)
            other = columns.splits.all()[columns.split[first]]
            findings.add(kind, columns.where(index), f"{what} stands in {other}: {columns.where(first)}")


def _near_leaks(columns: Columns, clusters: Clusters, findings: Findings, leaked: set[int]) -> None:
    _leaks_of(columns, clusters.root.astype(np.uint64) + np.uint64(1), "leak-text", "nearly the same", findings, leaked)


def _conflicts(columns: Columns, findings: Findings) -> None:
    """Add the answers to a question that fewer examples give than the commonest answer to it (of equals, the first)."""
    answers = numbers(columns.answer)
    for alike in groups(numbers(columns.prompt)):
        given = Counter(answers[alike].tolist())
        if len(given) == 1:
            continue
        commonest = given.most_common(1)[0][0]
        first = next(index for index in alike.tolist() if columns.answer[index] == commonest)
        for index in alike.tolist():
            if columns.answer[index] != commonest:
                what = f"{columns.where(first)} answers the same question otherwise"
                findings.add("conflict", columns.where(index), what)


def _repeated_ids(columns: Columns, findings: Findings) -> None:
    for alike in groups(numbers(columns.identity)):
        for index in alike[1:].tolist():
            what = f"its id is that of {columns.where(int(alike[0]))}"
            findings.add("metadata", columns.where(index), what, "Give every example an id of its own")


def _wrong_labels(columns: Columns, findings: Findings, labels: tuple[str, ...] | None) -> None:
    names = columns.categories.all()
    counts = Counter(columns.category)
    wrong = wrong_labels({name: counts[number] for number, name in enumerate(names)}, labels)
    numbers_of_wrong = {number: name for number, name in enumerate(names) if name in wrong}
    if not numbers_of_wrong:
        return
    for index, number in enumerate(columns.category):
        if number in numbers_of_wrong:
            name = numbers_of_wrong[number]
            findings.add("label", columns.where(index), f"the category is {name!r}", wrong[name])


def _other_languages(columns: Columns, findings: Findings, expected: str | None) -> str | None:
    names = columns.languages.all()
    counts = Counter(columns.language)
    known = [(count, -number) for number, count in counts.items() if names[number]]
    language = expected or (names[-max(known)[1]] if known else None)
    if language is None:
        return None
    others = {number for number, name in enumerate(names) if name not in ("", language)}
    if others:
        for index, number in enumerate(columns.language):
            if number in others:
                what = f"its language seems to be {names[number]!r}, not {language!r}"
                findings.add("language", columns.where(index), what)
    return language
