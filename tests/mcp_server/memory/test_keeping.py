"""What is kept comes back as it was; what cannot be kept is refused in words."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.mcp_server.memories import NOON
from tests.mcp_server.memory.items import refuses
from toolkit.errors import ToolkitError
from toolkit.mcp_server.items import MAX_TEXT_BYTES


def test_what_is_kept_comes_back_as_it_was(memory):
    text = "  Zeile 1\r\n\tZeile 2 — naïve 日本語 🙂 e\u0301 \u202e \ufeff\u200d\n\n"
    metadata = {"ticket": 7, "nested": {"list": [1, 2.5, None, True, "ü"]}}
    kept = memory.store(text, tags=["b", "a", "a"], metadata=metadata, source="mail", namespace="scratch")
    item = memory.get(kept.item.id)
    assert kept.outcome == "stored"
    assert (item.text, item.tags, dict(item.metadata), item.source) == (text, ("a", "b"), metadata, "mail")
    assert (item.namespace, item.preservation, item.version, item.use_count) == ("scratch", "flexible", 1, 0)
    assert item.created_at == item.updated_at == item.last_used_at == NOON


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"text": "a\0b"}, r"NUL character \(at position 1\)"),
        ({"text": "a\ud800b"}, r"half a surrogate pair \(at position 1\)"),
        ({"text": " \n\t"}, "the text is empty"),
        ({"text": 7}, "the text is int, not text"),
        ({"text": "x" * (MAX_TEXT_BYTES + 1)}, "1,048,577 bytes; at most 1,048,576.*ingest it as a document"),
        ({"text": "ü" * (MAX_TEXT_BYTES // 2 + 1)}, "at most 1,048,576"),
        ({"tags": ["a\nb"]}, "control character"),
        ({"tags": [" "]}, "empty"),
        ({"tags": ["\udfff"]}, "empty or holds a control character"),
        ({"tags": ["x" * 101]}, "longer than 100"),
        ({"tags": [str(n) for n in range(65)]}, "65 tags"),
        ({"tags": "abc"}, "not a list"),
        ({"tags": [1]}, "the tag 1 is not text"),
        ({"metadata": {"a": float("nan")}}, "cannot be written as JSON"),
        ({"metadata": {"a": object()}}, "cannot be written as JSON"),
        ({"metadata": {"a": "\0"}}, "metadata holds a NUL"),
        ({"metadata": {"\ud800": 1}}, "metadata holds half a surrogate"),
        ({"metadata": {1: 2}}, "a key is not text"),
        ({"metadata": {"a": "x" * 70_000}}, "metadata has 70,0.. bytes"),
        ({"metadata": [1]}, "not a JSON object"),
        ({"source": "x\0"}, "source holds a NUL"),
        ({"source": "x" * 2001}, "source is longer"),
        ({"namespace": "defalt"}, r"no namespace 'defalt'.*Did you mean default\?"),
        ({"expires_at": NOON + timedelta(days=1)}, "only flexible items expire, and this one is moderate"),
        ({"expires_at": NOON, "preservation": "flexible"}, "in the past"),
        ({"expires_at": datetime(2027, 1, 1), "preservation": "flexible"}, "no time zone"),
    ],
)
def test_what_cannot_be_kept_is_refused_in_words_and_nothing_is_written(memory, arguments, words):
    refuses(lambda: memory.store(**{"text": "milk", **arguments}), words)
    assert memory.list().items == ()


def test_all_that_is_wrong_is_said_at_once(memory):
    with pytest.raises(ToolkitError) as caught:
        memory.store("", tags=["\n"], metadata={"a": float("inf")}, source="\0")
    assert len(caught.value.problems) == 4


def test_metadata_that_is_nested_too_deep_is_refused_whatever_its_depth(memory):
    deep: dict[str, Any] = {}
    for _ in range(10_000):
        deep = {"a": deep}
    refuses(lambda: memory.store("milk", metadata=deep), "nested more than 20 deep")


def test_a_text_of_a_megabyte_is_kept_whole_and_searched_in_passages(plain):
    text = "coal and wood and peat. " * (MAX_TEXT_BYTES // 24)
    item = plain.memory.store(text).item
    assert plain.memory.get(item.id).text == text
    with plain.store.reading() as connection:
        sizes = [row[0] for row in connection.execute("SELECT length(CAST(text AS BLOB)) FROM passages")]
    assert max(sizes) <= 768
    assert sum(sizes) > 0.95 * len(text)


@pytest.mark.parametrize("text", ["x" * 2000, "🙂" * 500, "\n".join("ü" * 300 for _ in range(5)), "a " * 1000])
def test_passages_of_an_item_hold_every_word_of_it(plain, text):
    plain.memory.store(text)
    with plain.store.reading() as connection:
        pieces = [row[0] for row in connection.execute("SELECT text FROM passages ORDER BY ordinal")]
    assert "".join("".join(pieces).split()) == "".join(text.split())
