"""The seam between the generators and the commands: seeds, ids, repeats, rejected candidates."""

from __future__ import annotations

import itertools
import random

import pytest

from toolkit.datasets.generate.generator import Record, Rejected, chat_record, draw, identifier, record, sub_seed
from toolkit.errors import ToolkitError


def _made(number: int) -> Record:
    return record(
        "sums", f"What is {number}?", str(number), key=f"n:{number}", difficulty=0.123, source="t", verified=True
    )


def test_a_sub_seed_is_the_start_of_the_sha256_of_seed_category_and_index() -> None:
    # printf '42/arithmetic/7' | sha256sum
    assert f"{sub_seed(42, 'arithmetic', 7):016x}" == "37c2010ae1eabc03"
    near = {sub_seed(*of) for of in ((42, "arithmetic", 8), (43, "arithmetic", 7), (42, "algebra", 7))}
    assert len(near | {sub_seed(42, "arithmetic", 7)}) == 4


def test_a_smaller_count_gives_the_beginning_of_a_larger_one() -> None:
    def make_one(rng: random.Random) -> Record:
        return _made(rng.randrange(10**6))

    assert list(draw("sums", 1, 5, make_one)) == list(draw("sums", 1, 9, make_one))[:5]
    assert list(draw("sums", 2, 5, make_one)) != list(draw("sums", 1, 5, make_one))


def test_a_repeated_example_is_drawn_again_and_a_category_that_runs_out_says_how_many_it_has() -> None:
    found = draw("sums", 1, 4, lambda rng: _made(rng.randrange(3)))
    assert sorted(made["output"] for made in itertools.islice(found, 3)) == ["0", "1", "2"]
    with pytest.raises(
        ToolkitError, match=r"sums makes 3 different examples at most, 4 were asked for\. Type --count sums=3"
    ):
        next(found)


def test_a_rejected_candidate_is_reported_and_skipped() -> None:
    numbers = itertools.count()

    def make_one(_: random.Random) -> Record:
        number = next(numbers)
        if number == 1:
            raise Rejected("1 is wrong")
        return _made(number)

    told: list[str] = []
    assert [made["output"] for made in draw("sums", 1, 3, make_one, told.append)] == ["0", "2", "3"]
    assert told == ["1 is wrong"]


def test_an_id_follows_from_category_and_content_alone() -> None:
    assert _made(1)["metadata"]["id"] == _made(1)["metadata"]["id"] == identifier("sums", ("What is 1?", "", "1"))
    other = record("sums", "What is 1?", "1", key="other", difficulty=1, source="u", verified=False)
    assert other["metadata"]["id"] == _made(1)["metadata"]["id"] != _made(2)["metadata"]["id"]
    assert _made(1)["metadata"]["difficulty"] == 0.12


def test_a_chat_record_names_its_tools_only_where_there_are_any() -> None:
    turns = [{"role": "user", "content": "Store it."}, {"role": "assistant", "content": "Done."}]
    plain = chat_record("memory", turns, key="k", difficulty=0.5, source="t", verified=False)
    assert "tools" not in plain
    offered = chat_record(
        "memory", turns, key="k", difficulty=0.5, source="t", verified=False, tools=[{"type": "function"}]
    )
    assert offered["tools"] == [{"type": "function"}]
    assert offered["metadata"]["id"] != plain["metadata"]["id"]
