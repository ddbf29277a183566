"""The sentence patterns: choices, slots, brackets, and what is refused."""

from __future__ import annotations

import random

import pytest

from toolkit.datasets.generate.grammar import GrammarError, as_sentence, in_words, read_pattern, shuffled


def wordings(text: str, **fill: str) -> set[str]:
    pattern = read_pattern(text)
    return {pattern.expand(random.Random(seed), fill) for seed in range(300)}


def test_a_choice_takes_each_of_its_parts_and_may_be_empty():
    assert wordings("(Tell me|Say) it(, please|).") == {
        "Tell me it.",
        "Say it.",
        "Tell me it, please.",
        "Say it, please.",
    }


def test_choices_nest_and_slots_are_filled_inside_them():
    assert wordings("(a (b|c {x})|d)", x="!") == {"a b", "a c !", "d"}


def test_the_number_of_wordings_is_what_can_be_drawn():
    for text in ("plain", "(a|b|c)", "(a (b|c)|d) (e|f)", "(a|)(b|)"):
        assert read_pattern(text).wordings == len(wordings(text)), text


def test_brackets_without_a_bar_and_what_stands_behind_a_backslash_are_ordinary():
    assert wordings(r"f(x) \{y\} a\|b \(") == {"f(x) {y} a|b ("}


def test_slots_are_named_once_in_their_order():
    assert read_pattern("{b} ({a}|{b} {c_1})").slots == ("b", "a", "c_1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a (b|c", "`(` at character 3 is not closed"),
        ("a) b", "`)` at character 2 closes nothing"),
        ("{Name}", "`{` at character 1 opens no slot"),
        ("{name", "`{` at character 1 opens no slot"),
        ("a\\", "a backslash at the end"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(text, message):
    with pytest.raises(GrammarError, match=message.replace("(", r"\(").replace(")", r"\)").replace("{", r"\{")):
        read_pattern(text)


def test_a_sentence_begins_with_a_capital_and_stands_within_another_without_it():
    assert as_sentence("  two  words. ") == "Two words."
    assert in_words("The end.") == "the end"
    assert in_words("UTC is late.") == "UTC is late"


def test_shuffling_follows_from_the_seed_and_keeps_every_item():
    items = list(range(50))
    assert sorted(shuffled(random.Random(3), items)) == items
    # Pinned, so that another Python cannot change the sets that people have made.
    assert shuffled(random.Random(3), range(10)) == [6, 5, 9, 0, 8, 2, 1, 3, 4, 7]
