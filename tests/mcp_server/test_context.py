"""A context for a task: strict items first and word for word, within the budget, and what was left out named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.mcp_server.memories import Opened, open_memory
from toolkit.errors import ToolkitError
from toolkit.mcp_server.context import MOST_LEFT_OUT, Context, Part
from toolkit.mcp_server.items import estimated_tokens
from toolkit.mcp_server.passages import Passage, replace_passages

NAMESPACES = {"default": {}, "work": {}, "home": {}}


@pytest.fixture
def opening(tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    opened: list[Opened] = []

    def open_one(**options: Any) -> Opened:
        opened.append(open_memory(tmp_path / "memory.sqlite3", **{"namespaces": NAMESPACES, **options}))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


@pytest.fixture
def opened(opening) -> Opened:
    return opening()


def texts(context: Context) -> list[str]:
    return [part.text for part in context.parts]


def test_strict_items_come_first_word_for_word_then_what_is_relevant(opened):
    odd = "Never\r\n  burn [strict memory 000009]\twet coal — «ever»\n"
    opened.memory.store("Coal is kept in the cellar")
    opened.memory.store(odd, preservation="strict")
    opened.memory.store("Milk is ordered on Mondays", preservation="strict")
    opened.memory.store("The cat is called Peter")
    opened.index()
    context = opened.memory.assemble_context("coal in the cellar", 1000)
    assert texts(context)[:3] == [odd, "Milk is ordered on Mondays", "Coal is kept in the cellar"]
    assert odd in context.text
    assert [part.preservation for part in context.parts][:3] == ["strict", "strict", "moderate"]
    assert context.tokens == estimated_tokens(context.text) <= sum(part.tokens for part in context.parts)
    assert (context.left_out, context.left_out_count) == ((), 0)


def test_the_budget_is_never_exceeded_and_what_had_no_room_is_named_with_why(opened):
    for number in range(6):
        opened.memory.store(f"strict {number} " + "s" * 90, preservation="strict")
        opened.memory.store(f"coal {number} " + "m" * 90)
    opened.index()
    for budget in range(1, 700, 23):
        context = opened.memory.assemble_context("coal", budget)
        assert context.tokens <= budget
        strict = [part for part in context.parts if part.preservation == "strict"]
        assert list(context.parts)[: len(strict)] == strict
        left = [one for one in context.left_out if opened.memory.get(one.id).preservation == "strict"]
        assert len(strict) + len(left) == 6
        if left:
            assert f"and {budget - sum(part.tokens for part in strict)} are left" in left[0].reason
            assert budget - sum(part.tokens for part in strict) < left[0].tokens + 15
    assert len(opened.memory.assemble_context("coal", 1000).parts) == 12


def test_a_small_strict_item_is_in_though_a_large_one_before_it_has_no_room(opened):
    small = opened.memory.store("small", preservation="strict").item
    large = opened.memory.store("large " * 500, preservation="strict").item  # newer, hence first
    context = opened.memory.assemble_context("x", 100)
    assert texts(context) == ["small"]
    assert [one.id for one in context.left_out] == [large.id]
    assert context.parts[0].id == small.id


def test_a_strict_item_that_fits_to_the_token_is_in_and_one_token_less_leaves_it_out_whole(opened):
    opened.memory.store("exactly this long", preservation="strict")
    needed = opened.memory.assemble_context("x", 1000).tokens
    assert texts(opened.memory.assemble_context("x", needed)) == ["exactly this long"]
    tight = opened.memory.assemble_context("x", needed - 1)
    assert (tight.text, tight.tokens, tight.left_out_count) == ("", 0, 1)


def test_strict_items_that_are_relevant_come_before_the_others(opened):
    opened.memory.store("Coal is never burnt wet", preservation="strict")
    for number in range(3):
        opened.memory.store(f"The cat is called Peter {number}", preservation="strict")
    opened.index()
    context = opened.memory.assemble_context("burning wet coal", 40)
    assert texts(context)[0] == "Coal is never burnt wet"


def test_whose_strict_items_belong_in_is_the_policys_to_say(opening):
    everywhere = opening()
    for name in NAMESPACES:
        everywhere.memory.store(f"strict in {name}", namespace=name, preservation="strict")
    assert len(everywhere.memory.assemble_context("x", 1000).parts) == 3
    assert texts(everywhere.memory.assemble_context("x", 1000, namespaces=["home"])) == ["strict in home"]
    always = opening(context={"strict_namespaces": ("work",)})
    assert texts(always.memory.assemble_context("x", 1000)) == ["strict in work"]
    asked = always.memory.assemble_context("x", 1000, namespaces=["home"])
    assert sorted(texts(asked)) == ["strict in home", "strict in work"]
    with pytest.raises(ToolkitError, match="no namespace 'hme'"):
        always.memory.assemble_context("x", 1000, namespaces=["hme"])


def test_a_long_item_is_represented_by_what_was_found_when_it_does_not_fit_but_never_a_strict_one(opened):
    story = "\n".join(f"line {number} about nothing at all" for number in range(200)) + "\nThe key is under the mat"
    opened.memory.store(story)
    opened.index()
    context = opened.memory.assemble_context("where is the key, under the mat", 400)
    (part,) = context.parts
    assert "under the mat" in part.text and part.text != story and part.text in context.text
    assert "an excerpt" in part.source
    opened.memory.update(part.id, preservation="strict")
    context = opened.memory.assemble_context("where is the key, under the mat", 400)
    assert (context.parts, context.left_out_count) == ((), 1)
    assert texts(opened.memory.assemble_context("key", 10_000)) == [story]


def test_passages_of_documents_carry_their_place(opened):
    with opened.store.writing() as connection:
        connection.execute(
            "INSERT INTO documents VALUES ('d1', 'default', '/papers/stove.md', '/papers', 'Stove', 'text/markdown',"
            " 1, 1, 'x', 'x', '2026-11-28T12:00:00+00:00')"
        )
        replace_passages(connection, "document", "d1", "default", [Passage("Light the stove with wood", "Stove", 3, 7)])
    opened.memory.store("The stove is in the kitchen")
    opened.index()
    both = opened.memory.assemble_context("stove", 1000)
    assert {part.source for part in both.parts} == {"/papers/stove.md:3-7", "memory 000001"}
    assert [part.kind for part in opened.memory.assemble_context("stove", 1000, kinds=["document"]).parts] == [
        "document"
    ]
    assert [part.kind for part in opened.memory.assemble_context("stove", 1000, kinds=["memory"]).parts] == ["memory"]


def test_another_count_and_another_form_decide_what_fits_and_are_obeyed(opened):
    for number in range(5):
        opened.memory.store(f"strict {number}", preservation="strict")

    def render(part: Part) -> str:
        return f"<<{part.id}>>{part.text}<</{part.id}>>"

    words = opened.memory.assemble_context("x", 7, count_tokens=lambda text: len(text.split()), render=render)
    assert words.text == "\n\n".join(render(part) for part in words.parts)
    assert (len(words.parts), words.tokens, words.left_out_count) == (3, 6, 2)


def test_a_count_that_is_more_for_the_whole_than_for_its_parts_does_not_break_the_budget(opened):
    for number in range(4):
        opened.memory.store(f"strict {number}", preservation="strict")
    context = opened.memory.assemble_context("x", 30, count_tokens=lambda text: len(text) // 10 + len(text) ** 2 // 900)
    assert context.tokens <= 30
    assert len(context.parts) + context.left_out_count == 4


def test_many_that_have_no_room_are_counted_and_the_first_named(opened):
    for number in range(MOST_LEFT_OUT + 30):
        opened.memory.store(f"strict {number}", preservation="strict")
    context = opened.memory.assemble_context("x", 5)
    assert (len(context.left_out), context.left_out_count) == (MOST_LEFT_OUT, MOST_LEFT_OUT + 30)


@pytest.mark.parametrize("budget", [0, -1, 10_000_001])
def test_a_budget_out_of_range_is_refused(opened, budget):
    with pytest.raises(ToolkitError, match="token_budget"):
        opened.memory.assemble_context("x", budget)


def test_strict_items_are_there_when_the_search_fails_or_the_query_is_empty(opened, monkeypatch):
    opened.memory.store("strict", preservation="strict")
    empty = opened.memory.assemble_context("  ", 100)
    assert (texts(empty), empty.notes) == (["strict"], ("the query is empty, so nothing was searched for",))

    @dataclass
    class Broken:
        def find(self, *_: Any, **__: Any) -> None:
            raise ToolkitError("the store's vectors come from another model")

    monkeypatch.setattr(opened.memory, "_search", Broken())
    broken = opened.memory.assemble_context("x", 100)
    assert texts(broken) == ["strict"]
    assert broken.notes == ("nothing was searched for: the store's vectors come from another model",)


def test_what_is_in_a_context_counts_as_used(opened):
    item = opened.memory.store("strict", preservation="strict").item
    opened.memory.assemble_context("x", 100)
    opened.memory.flush_uses()
    assert opened.memory.get(item.id).use_count == 1
