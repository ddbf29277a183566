from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.datasets.validation.judging import clean_records
from toolkit.config import DataConfig
from toolkit.datasets.deduplication import find_repeated
from toolkit.datasets.records import example_from_record
from toolkit.datasets.schema import Example, Message
from toolkit.datasets.splitting import assign_splits, parse_shares
from toolkit.errors import ToolkitError


def examples(count: int, start: int = 0) -> list[Example]:
    data = DataConfig()
    return [example_from_record(record, data, f"x:{n}") for n, record in enumerate(clean_records(count, start))]


def keyed(example: Example, key: str, category: str = "sums") -> Example:
    return replace(example, metadata={"key": key, "category": category})


def test_shares_are_met_in_every_category_to_within_one_group() -> None:
    sized = {"a": 100, "b": 60, "c": 5}
    names = [name for name, size in sized.items() for _ in range(size)]
    data = [keyed(example, str(n), names[n]) for n, example in enumerate(examples(165))]
    splits = assign_splits(data, {"train": 80, "valid": 20}, seed=3)
    counts = Counter(zip(names, splits, strict=True))
    for name, size in sized.items():
        assert abs(counts[name, "valid"] - size * 0.2) <= 1
    assert abs(splits.count("valid") - 33) <= 1


@settings(max_examples=25, derandomize=True, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=30, max_size=60), st.integers(0, 5))
def test_no_key_stands_in_two_splits_whatever_the_keys_are(keys: list[int], seed: int) -> None:
    if len(set(keys)) < 3:
        return
    data = [keyed(example, f"k{keys[n]}") for n, example in enumerate(examples(len(keys)))]
    where = defaultdict(set)
    splits = assign_splits(data, {"train": 0.8, "valid": 0.1, "test": 0.1}, seed)
    for key, split in zip(keys, splits, strict=True):
        where[key].add(split)
    assert all(len(found) == 1 for found in where.values())
    assert set(splits) == {"train", "valid", "test"}


def test_near_duplicates_and_equal_questions_stay_together_without_any_key() -> None:
    data = [replace(example, metadata={}) for example in examples(40)]
    near, asked = [], []
    for index in range(0, 20):
        question, answer = data[index].messages
        words = question.content.split()
        words[len(words) // 2] = "otherwise"
        near.append(replace(data[index], messages=(Message("user", " ".join(words)), answer)))
        asked.append(replace(data[index], messages=(question, Message("assistant", f"Other {index}."))))
    for seed in range(4):
        splits = assign_splits([*data, *near, *asked], {"train": 50, "valid": 50}, seed)
        assert splits[:20] == splits[40:60] == splits[60:80]
        assert 0.4 <= splits.count("valid") / 80 <= 0.6


def test_the_same_seed_gives_the_same_split_and_another_one_another() -> None:
    data = examples(60)
    first = assign_splits(data, {"train": 80, "valid": 20}, 1)
    assert first == assign_splits(data, {"train": 80, "valid": 20}, 1)
    assert first != assign_splits(data, {"train": 80, "valid": 20}, 2)


def test_every_split_gets_something_or_the_split_is_refused() -> None:
    data = examples(12)
    assert set(assign_splits(data, {"train": 98, "valid": 1, "test": 1}, 1)) == {"train", "valid", "test"}
    with pytest.raises(ToolkitError, match="make 1 group"):
        assign_splits([keyed(example, "one") for example in data], {"train": 8, "valid": 2}, 1)


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("80/20", {"train": 80, "valid": 20}),
        ("8/1/1", {"train": 8, "valid": 1, "test": 1}),
        ("train=0.9, probe=0.1", {"train": 0.9, "probe": 0.1}),
    ],
)
def test_shares_are_read(text: str, shares: dict[str, float]) -> None:
    assert parse_shares(text) == shares


@pytest.mark.parametrize(
    "text", ["80", "80/0", "a/b", "1/2/3/4", "train=1", "train=1,train=2", "train=1,../x=2", "train=inf,x=1"]
)
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ToolkitError):
        parse_shares(text)


def test_the_first_of_equal_examples_stays_and_what_goes_is_named_with_its_like() -> None:
    data = examples(10)
    words = data[4].messages[1].content.split()
    words[len(words) // 2] = "otherwise"
    near = replace(data[4], messages=(data[4].messages[0], Message("assistant", " ".join(words))), where="x:near")
    spaced = replace(data[2], messages=(data[2].messages[0], Message("assistant", data[2].messages[1].content + " \n")))
    data += [near, replace(spaced, where="x:same")]
    count, gone = find_repeated(data, 0.8)
    assert count == 12
    assert [(item.index, item.where, item.like) for item in gone] == [(10, "x:near", "x:4"), (11, "x:same", "x:2")]
    assert gone[0].jaccard is not None and 0.8 <= gone[0].jaccard < 1 and gone[1].jaccard is None
    assert [item.index for item in find_repeated(data, None)[1]] == [11]
