"""Passages are slices of their text that the model reads whole, with the lines they came from."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.mcp_server.stand_in import StandInEmbedder
from toolkit.mcp_server.chunking import Section, chunk_section, chunk_text
from toolkit.mcp_server.model_files import find_token_counter

count = StandInEmbedder().count_tokens


def section(text: str, heading: str = "", first: int = 1) -> Section:
    return Section(text, heading, range(first, first + text.count("\n") + 1))


def test_a_short_text_is_one_passage_with_its_lines():
    (passage,) = chunk_section(section("\none\ntwo\n\n", "Title", first=10), count)
    assert (passage.text, passage.heading, passage.start_line, passage.end_line) == ("one\ntwo", "Title", 11, 12)


def test_a_text_without_words_gives_no_passage():
    assert chunk_text(" \n\n\t", count) == []


def test_cuts_fall_at_blank_lines_where_one_is_near():
    paragraphs = ["\n".join(f"line {p} {i} has six words" for i in range(12)) for p in range(6)]
    passages = chunk_section(section("\n\n".join(paragraphs)), count, max_tokens=160, overlap_tokens=0)
    assert [passage.text for passage in passages] == [
        "\n\n".join(paragraphs[first : first + 2]) for first in range(0, 6, 2)
    ]
    assert [(passage.start_line, passage.end_line) for passage in passages] == [(1, 25), (27, 51), (53, 77)]


def test_a_passage_begins_with_the_end_of_the_one_before():
    text = "\n".join(f"line number {i} says something" for i in range(100))
    passages = chunk_section(section(text), count, max_tokens=60, overlap_tokens=12)
    for before, after in zip(passages, passages[1:], strict=False):
        assert before.end_line is not None and after.start_line == before.end_line - 1
        assert before.text.split("\n")[-2:] == after.text.split("\n")[:2]


def test_a_long_line_is_cut_between_its_sentences():
    text = " ".join(f"This is sentence number {i} of one long line." for i in range(60))
    passages = chunk_section(section(text, first=7), count, max_tokens=64, overlap_tokens=12)
    assert len(passages) > 5
    for passage in passages:
        assert passage.text.startswith("This is") and passage.text.endswith("line.")
        assert (passage.start_line, passage.end_line) == (7, 7)


def test_text_without_spaces_is_cut_too():
    passages = chunk_text("x" * 5000 + "日本語の文章です。" * 200, find_token_counter())
    assert all(find_token_counter()(passage.text) <= 256 for passage in passages)
    assert "".join(passage.text for passage in passages).count("x") >= 5000


def test_the_heading_counts_and_a_long_trail_keeps_its_inner_titles():
    heading = " › ".join(f"Chapter {i} with a long title" for i in range(30))
    passages = chunk_section(section("word " * 500, heading), count)
    assert all(count(passage.embedded_text) <= 256 for passage in passages)
    assert passages[0].heading.endswith("Chapter 29 with a long title")
    assert count(passages[0].heading) <= 64


def test_a_passage_that_begins_with_the_last_one_brings_something_new():
    text = "one two. three. four five six seven.\n\nnine ten eleven twelve."
    passages = chunk_section(section(text), count, max_tokens=10, overlap_tokens=6)
    assert len({passage.text for passage in passages}) == len(passages)
    assert not any(after.text in before.text for before, after in zip(passages, passages[1:], strict=False))


@settings(max_examples=60, deadline=None)
@example([[". ", ". ", ". ", " ", " ", " ", ". "], [], [" ", " ", " ", ". ", *[" "] * 6]], 12, 5)
@given(
    st.lists(st.lists(st.sampled_from([" ", ". ", "! ", ",", "\t", "。", ";"]), max_size=30), max_size=30),
    st.integers(12, 64),
    st.integers(0, 20),
)
def test_nothing_is_lost_altered_or_too_long_whatever_the_text(lines, most, overlap):
    numbers = iter(range(10_000))  # each word once, so that a slice has one place only
    text = "\n".join("".join(f"w{next(numbers):04}{gap}" for gap in line) for line in lines)
    source = text.split("\n")
    covered = 0
    for passage in chunk_section(section(text), count, max_tokens=most, overlap_tokens=overlap):
        assert count(passage.text) <= most
        start = text.index(passage.text)
        assert start <= covered or not text[covered:start].strip()
        assert start + len(passage.text) > covered
        covered = start + len(passage.text)
        assert passage.start_line == text.count("\n", 0, start) + 1
        assert passage.end_line == text.count("\n", 0, covered) + 1
        assert passage.text in "\n".join(source[passage.start_line - 1 : passage.end_line])
    assert not text[covered:].strip()
