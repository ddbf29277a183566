"""What may be done with remembered items, and that nothing is lost on the way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tests.mcp_server.memories import NOON, Opened, counting_ids, open_memory
from toolkit.errors import JobFailed, ToolkitError
from toolkit.mcp_server.item_rows import Change, erase_item, rewrite_item
from toolkit.mcp_server.items import MAX_TEXT_BYTES, Item
from toolkit.mcp_server.memory import Memory
from toolkit.mcp_server.policy import NeedsPerson, Policy
from toolkit.mcp_server.policy_file import PolicyFile

RESTART = "The print server is restarted from the admin page"
RESTART_TOO = "The print server is restarted from the admin page!"
NAMESPACES = {"default": {}, "rules": {"preservation": "strict"}, "scratch": {"preservation": "flexible"}}


@pytest.fixture
def opening(tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    opened: list[Opened] = []

    def open_one(**options: Any) -> Opened:
        options.setdefault("namespaces", NAMESPACES)
        opened.append(open_memory(tmp_path / "memory.sqlite3", **options))
        return opened[-1]

    yield open_one
    for one in opened:
        assert one.store.check() == []
        one.close()


@pytest.fixture
def plain(opening) -> Opened:
    return opening(embeds=False)


@pytest.fixture
def memory(plain) -> Memory:
    return plain.memory


def refuses(action: Callable[[], object], words: str, kind: type[ToolkitError] = ToolkitError) -> None:
    with pytest.raises(kind, match=words):
        action()


# --- keeping ---------------------------------------------------------------------------------------------------------


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


# --- duplicates ------------------------------------------------------------------------------------------------------


def test_the_same_text_is_kept_once_with_the_tags_and_metadata_of_both(plain):
    first = plain.memory.store(RESTART, tags=["it"], metadata={"a": 1, "b": 1}, source="mail").item
    plain.clock.later(hours=1)
    again = plain.memory.store(f"{RESTART}  \r\n\n", tags=["print"], metadata={"b": 2, "c": 3}, source="wiki")
    assert (again.outcome, again.item.id) == ("exists", first.id)
    item = plain.memory.get(first.id)
    assert (item.text, item.tags, dict(item.metadata), item.source) == (
        RESTART,
        ("it", "print"),
        {"a": 1, "b": 2, "c": 3},
        "mail",
    )
    offered, former = plain.memory.history(first.id)
    assert (former.operation, dict(former.metadata), former.tags) == ("update", {"a": 1, "b": 1}, ("it",))
    assert (offered.operation, offered.source, offered.text) == ("duplicate", "wiki", f"{RESTART}  \r\n\n")
    assert len(plain.memory.list().items) == 1
    for _ in range(3):  # … and a client that repeats itself does not fill the history
        plain.memory.store(f"{RESTART}  \r\n\n", tags=["print"], metadata={"b": 2, "c": 3}, source="wiki")
    assert len(plain.memory.history(first.id)) == 2


def test_the_same_text_again_without_anything_new_changes_nothing(memory):
    first = memory.store(RESTART, tags=["it"]).item
    again = memory.store(RESTART)
    assert (again.outcome, again.item) == ("exists", first)
    assert memory.history(first.id) == ()
    memory.flush_uses()
    assert memory.get(first.id).use_count == 1


def test_storing_what_is_there_already_waits_for_nobody_and_writes_nothing(plain, opening):
    other = opening(embeds=False, prefix="b")
    item = plain.memory.store(RESTART, tags=["it"]).item
    before = plain.store.revision()
    with other.store.writing():  # somebody else writes
        assert plain.memory.store(RESTART, tags=["it"]).item.id == item.id
    assert plain.store.revision() == before


def test_the_same_text_in_another_namespace_is_another_item(memory):
    assert memory.store(RESTART, namespace="scratch").outcome == "stored"
    assert memory.store(RESTART).outcome == "stored"


def test_storing_again_raises_a_level_and_never_lowers_one(memory):
    item = memory.store(RESTART, preservation="flexible").item
    assert memory.store(RESTART, preservation="strict").item.preservation == "strict"
    assert memory.store(RESTART, preservation="flexible").item.preservation == "strict"
    assert [entry.preservation for entry in memory.history(item.id)] == ["flexible"]


def test_storing_a_strict_text_again_keeps_its_metadata_and_remembers_what_was_offered(memory):
    item = memory.store(RESTART, preservation="strict", metadata={"a": 1}).item
    again = memory.store(RESTART, metadata={"a": 2, "b": 3}, source="wiki", tags=["new"])
    assert dict(again.item.metadata) == {"a": 1, "b": 3}
    assert (again.item.tags, again.item.source) == (("new",), None)
    (offered, _) = memory.history(item.id)
    assert (offered.operation, dict(offered.metadata), offered.source) == ("duplicate", {"a": 2, "b": 3}, "wiki")


@pytest.mark.parametrize("levels", [("strict", "moderate"), ("moderate", "strict"), ("strict", "strict")])
def test_a_strict_text_that_differs_in_a_blank_is_kept_beside_the_other_and_linked(memory, levels):
    first = memory.store(RESTART, preservation=levels[0]).item
    second = memory.store(f"{RESTART} ", preservation=levels[1])
    assert (second.outcome, second.item.text) == ("linked", f"{RESTART} ")
    assert [one.item.id for one in memory.related(first.id)] == [second.item.id]
    assert memory.get(first.id).text == RESTART
    # … and each is recognised by its own bytes.
    assert memory.store(f"{RESTART} ").item.id == second.item.id
    assert memory.store(RESTART).item.id == first.id


def test_storing_again_keeps_the_longer_life(plain):
    def ends(**days: float) -> datetime:
        return NOON + timedelta(**days)

    memory = plain.memory
    memory.store(RESTART, preservation="flexible", expires_at=ends(days=2))
    assert memory.store(RESTART, preservation="flexible", expires_at=ends(days=1)).item.expires_at == ends(days=2)
    assert memory.store(RESTART, preservation="flexible", expires_at=ends(days=3)).item.expires_at == ends(days=3)
    assert memory.store(RESTART, preservation="flexible").item.expires_at is None


def test_texts_that_say_nearly_the_same_are_merged_when_flexible(opening):
    opened = opening()
    first = opened.memory.store(RESTART, namespace="scratch", tags=["a"], metadata={"x": 1}).item
    opened.index()
    merged = opened.memory.store(RESTART_TOO.replace("page!", "page, always"), namespace="scratch", tags=["b"])
    assert (merged.outcome, merged.item.id, merged.item.version) == ("merged", first.id, 2)
    assert merged.item.text.splitlines() == [RESTART, RESTART.replace("page", "page, always")]
    assert merged.item.tags == ("a", "b")
    assert merged.similar[0].id == first.id and merged.similar[0].similarity > 0.9
    (former,) = opened.memory.history(first.id)
    assert (former.operation, former.text) == ("merge", RESTART)


def test_texts_that_say_nearly_the_same_are_linked_when_moderate(opening):
    opened = opening()
    first = opened.memory.store(RESTART).item
    opened.index()
    second = opened.memory.store(RESTART_TOO)
    assert (second.outcome, second.item.text) == ("linked", RESTART_TOO)
    (related,) = opened.memory.related(second.item.id)
    assert (related.item.id, related.link.relation, related.depth) == (first.id, "similar_to", 1)


@pytest.mark.parametrize("levels", [("strict", "flexible"), ("flexible", "strict")])
def test_a_strict_item_is_never_merged_whatever_the_policy_does_with_duplicates(opening, levels):
    opened = opening(duplicates={"threshold": 0.5, "moderate": "merge", "flexible": "merge"})
    first = opened.memory.store(RESTART, preservation=levels[0]).item
    opened.index()
    second = opened.memory.store(RESTART_TOO, preservation=levels[1])
    assert second.outcome == "linked"
    assert opened.memory.get(first.id).text == RESTART
    assert opened.memory.get(second.item.id).text == RESTART_TOO


def test_a_rule_that_forbids_merging_leads_to_a_link(opening):
    rules = [{"name": "apart", "when": {"tags": ["apart"]}, "forbid": ["merge"]}]
    opened = opening(rules=rules, duplicates={"moderate": "merge"})
    opened.memory.store(RESTART, tags=["apart"])
    opened.index()
    assert opened.memory.store(RESTART_TOO).outcome == "linked"


def test_texts_below_the_threshold_are_strangers(opening):
    opened = opening()
    opened.memory.store(RESTART, namespace="scratch")
    opened.index()
    other = opened.memory.store("Coal is kept in the cellar", namespace="scratch")
    assert (other.outcome, other.similar) == ("stored", ())


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [
        ("Use tabs", "do not use tabs", "Use tabs\ndo not use tabs"),
        ("It is -5", "It is 5", "It is -5\nIt is 5"),
        ("Use tabs.", "use  TABS", "Use tabs."),
    ],
)
def test_joining_texts_drops_nothing_that_may_mean_something(memory, first, second, joined):
    ids = [memory.store(text, namespace="scratch").item.id for text in (first, second)]
    assert memory.merge(ids).text == joined


# --- changing --------------------------------------------------------------------------------------------------------


def test_every_former_version_is_in_the_history(plain):
    memory = plain.memory
    item = memory.store("one", tags=["a"]).item
    plain.clock.later(hours=1)
    memory.update(item.id, text="two", tags=["b"], metadata={"k": 1})
    plain.clock.later(hours=1)
    memory.update(item.id, preservation="flexible")
    plain.clock.later(hours=1)
    memory.condense(item.id, "2")
    now = memory.get(item.id)
    assert (now.text, now.version, now.tags, now.preservation) == ("2", 4, ("b",), "flexible")
    assert now.updated_at == NOON + timedelta(hours=3)
    assert [(e.version, e.text, e.operation, e.preservation, e.tags) for e in memory.history(item.id)] == [
        (3, "two", "condense", "flexible", ("b",)),
        (2, "two", "update", "moderate", ("b",)),
        (1, "one", "update", "moderate", ("a",)),
    ]
    assert [entry.at for entry in memory.history(item.id)] == [NOON + timedelta(hours=n) for n in (3, 2, 1)]


def test_a_change_of_nothing_is_no_version(memory):
    item = memory.store("one", tags=["a"], metadata={"a": 1}).item
    assert memory.update(item.id, text="one", tags=["a"], metadata={"a": 1}, preservation="moderate") == item
    assert memory.history(item.id) == ()


def test_a_changed_text_is_found_by_its_new_words_alone(opening):
    opened = opening()
    item = opened.memory.store("Coal is kept in the cellar").item
    opened.memory.update(item.id, text="Wood is kept in the shed")
    opened.index()
    assert opened.memory.search("shed", mode="text").results[0].item.text == "Wood is kept in the shed"
    assert opened.memory.search("cellar", mode="text").results == ()


def test_of_two_who_change_the_same_version_the_second_is_told(memory):
    item = memory.store("one").item
    memory.update(item.id, text="two", expected_version=1)
    refuses(lambda: memory.update(item.id, text="three", expected_version=1), "at version 2, not 1.*Read it again")
    refuses(lambda: memory.condense(item.id, "2", expected_version=1), "at version 2, not 1")
    assert memory.get(item.id).text == "two"


def test_a_strict_item_gets_more_tags_and_metadata_and_loses_none(memory):
    item = memory.store("one", preservation="strict", tags=["a"], metadata={"a": 1}).item
    assert memory.update(item.id, tags=["a", "b"], metadata={"a": 1, "b": 2}).tags == ("a", "b")
    for change in (
        {"text": "two"},
        {"tags": ["b"]},
        {"metadata": {"a": 2, "b": 2}},
        {"metadata": {"b": 2}},
        {"preservation": "moderate"},
        {"preservation": "flexible", "text": "two"},
    ):
        refuses(lambda change=change: memory.update(item.id, **change), "the item is strict", NeedsPerson)
    refuses(lambda: memory.condense(item.id, "1"), "may not condense it: the item is strict", NeedsPerson)
    person = f"Only a person can: toolkit mcp level {item.id} moderate"
    refuses(lambda: memory.update(item.id, preservation="moderate"), person, NeedsPerson)
    assert memory.get(item.id).text == "one"
    assert memory.get(item.id).version == 2


def test_a_person_may_change_lower_and_delete_a_strict_item(memory):
    item = memory.store("one", preservation="strict", tags=["a"]).item
    changed = memory.update(item.id, text="two", tags=[], by_person=True)
    assert (changed.text, changed.preservation) == ("two", "strict")
    assert [(e.text, e.by_person) for e in memory.history(item.id)] == [("one", True)]
    assert memory.update(item.id, preservation="moderate", by_person=True).preservation == "moderate"
    other = memory.store("other", preservation="strict").item
    refuses(lambda: memory.delete(other.id), f"Only a person can: toolkit mcp delete {other.id}", NeedsPerson)
    assert memory.delete(other.id, by_person=True).text == "other"
    refuses(lambda: memory.get(other.id), "is gone: delete")


def test_the_marker_of_consent_is_set_for_a_person_alone(plain):
    item = plain.memory.store("one", preservation="strict").item
    change = Change("update", NOON)  # as if the policy had been forgotten
    with pytest.raises(ToolkitError, match="only a person can allow"), plain.store.writing() as connection:
        rewrite_item(connection, item, replace(item, text="two"), change)
    with pytest.raises(ToolkitError, match="only a person can allow"), plain.store.writing() as connection:
        erase_item(connection, item, change)
    assert plain.memory.get(item.id) == item


def test_a_rule_holds_for_people_too_until_they_change_it(opening):
    rules = [{"name": "law", "when": {"tags": ["law"]}, "at_least": "strict"}]
    memory = opening(embeds=False, rules=rules).memory
    item = memory.store("one", tags=["law"], preservation="flexible").item
    assert item.preservation == "strict"
    refuses(lambda: memory.update(item.id, preservation="moderate", by_person=True), "the rule “law” demands strict")


def test_a_new_tag_can_raise_the_level_and_that_ends_the_expiry(opening):
    opened = opening(embeds=False, rules=[{"name": "law", "when": {"tags": ["law"]}, "at_least": "strict"}])
    item = opened.memory.store("one", preservation="flexible", expires_at=NOON + timedelta(days=1)).item
    raised = opened.memory.update(item.id, tags=["law"])
    assert (raised.preservation, raised.expires_at) == ("strict", None)
    opened.clock.later(days=2)
    assert opened.memory.get(item.id).text == "one"


def test_one_change_may_take_tags_away_and_make_the_item_strict(memory):
    item = memory.store("one", tags=["a", "b"]).item
    changed = memory.update(item.id, text="two", tags=["b"], preservation="strict")
    assert (changed.text, changed.tags, changed.preservation) == ("two", ("b",), "strict")
    assert memory.get(item.id) == changed


def test_an_expiry_is_set_changed_and_taken_away_on_flexible_items_alone(memory):
    item = memory.store("one", namespace="scratch").item
    tomorrow = NOON + timedelta(days=1)
    assert memory.update(item.id, expires_at=tomorrow).expires_at == tomorrow
    assert memory.update(item.id, text="two").expires_at == tomorrow
    assert memory.update(item.id, expires_at=None).expires_at is None
    other = memory.store("other").item
    refuses(lambda: memory.update(other.id, expires_at=tomorrow), "only flexible items expire")


def test_condensing_makes_shorter_and_nothing_else(memory):
    item = memory.store("a long story").item
    refuses(lambda: memory.condense(item.id, "an even longer story"), "not shorter")
    refuses(lambda: memory.condense(item.id, " "), "empty")


def test_merged_items_leave_their_texts_in_history_and_their_links_with_the_first(plain):
    memory = plain.memory
    one, two, three, friend = (memory.store(text, tags=[text]).item for text in ("one", "two", "three", "friend"))
    memory.link(friend.id, two.id, "about")
    memory.link(three.id, friend.id, "cites")
    memory.link(two.id, one.id, "follows")
    merged = memory.merge([one.id, two.id, three.id])
    assert (merged.id, merged.text, merged.tags) == (one.id, "one\ntwo\nthree", ("one", "three", "two"))
    assert {(r.link.source_id, r.link.relation, r.link.target_id) for r in memory.related(one.id)} == {
        (friend.id, "about", one.id),
        (one.id, "cites", friend.id),
    }
    refuses(lambda: memory.get(two.id), f"was merged into {one.id}")
    (entry,) = memory.history(two.id)
    assert (entry.text, entry.operation, entry.successor) == ("two", "merge", one.id)
    assert [entry.text for entry in memory.history(one.id)] == ["one"]


def test_a_merge_takes_the_strictest_level_and_no_metadata_is_lost(memory):
    one = memory.store("one", preservation="flexible", metadata={"a": 1}).item
    two = memory.store("two", preservation="moderate", metadata={"a": 2, "b": 2}).item
    merged = memory.merge([one.id, two.id], "one, two")
    assert (merged.preservation, dict(merged.metadata), merged.text) == ("moderate", {"a": 1, "b": 2}, "one, two")
    assert dict(memory.history(two.id)[0].metadata) == {"a": 2, "b": 2}


def test_merges_that_make_no_sense_or_touch_a_strict_item_are_refused_whole(memory):
    one, other = memory.store("one").item, memory.store("x", namespace="scratch").item
    strict = memory.store("strict", preservation="strict").item
    refuses(lambda: memory.merge([one.id, one.id]), "two different items")
    refuses(lambda: memory.merge([one.id, other.id]), "different namespaces")
    refuses(lambda: memory.merge([one.id, strict.id]), f"item {strict.id}: may not merge it", NeedsPerson)
    refuses(lambda: memory.merge([strict.id, one.id]), "may not merge it", NeedsPerson)
    refuses(lambda: memory.merge([one.id, "nowhere"]), "there is no item 'nowhere'")
    assert len(memory.list().items) == 3


def test_deleting_takes_the_history_with_it_and_leaves_the_line_that_it_was_there(plain):
    memory = plain.memory
    one, two = memory.store("secret one").item, memory.store("secret two").item
    memory.update(one.id, text="secret three")
    memory.merge([one.id, two.id])
    plain.clock.later(hours=2)
    memory.delete(one.id)
    (entry,) = memory.history(one.id)
    assert (entry.operation, entry.text, entry.at) == ("delete", "", NOON + timedelta(hours=2))
    with plain.store.reading() as connection:
        left = [
            row for table in ("items", "history", "passages") for row in connection.execute(f"SELECT * FROM {table}")
        ]
    assert not any("secret" in str(tuple(row)) for row in left)
    refuses(lambda: memory.get(one.id), "is gone: delete at 2026-11-28T14:00")
    refuses(lambda: memory.history("nowhere"), "there is no item")


# --- links -----------------------------------------------------------------------------------------------------------


def test_links_are_followed_in_both_directions_and_to_the_depth_asked_for(memory):
    a, b, c, d = (memory.store(text).item.id for text in "abcd")
    memory.link(a, b, "supports")
    memory.link(c, b, "replaces")
    memory.link(c, d)
    assert memory.link(a, b, "supports") == memory.related(a)[0].link
    assert [(r.item.id, r.depth) for r in memory.related(a)] == [(b, 1)]
    assert [(r.item.id, r.depth) for r in memory.related(a, depth=3)] == [(b, 1), (c, 2), (d, 3)]
    assert memory.unlink(c, b, "replaces") is True
    assert memory.unlink(c, b, "replaces") is False
    assert [r.item.id for r in memory.related(a, depth=3)] == [b]
    refuses(lambda: memory.link(a, a), "not linked with itself")
    refuses(lambda: memory.link(a, "nowhere"), "there is no item")
    refuses(lambda: memory.link(a, b, " "), "a relation is one line")
    refuses(lambda: memory.link(a, b, "x\ny"), "a relation is one line")
    refuses(lambda: memory.related(a, depth=9), "from 1 to 5")
    memory.delete(b)
    assert memory.related(a) == ()


# --- lists -----------------------------------------------------------------------------------------------------------


def pages(memory: Memory, limit: int, **query: Any) -> list[list[str]]:
    found, cursor = [], None
    while True:
        page = memory.list(limit=limit, cursor=cursor, **query)
        found.append([item.id for item in page.items])
        cursor = page.next_cursor
        if cursor is None:
            return found


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 10, 11])
def test_pages_show_every_item_once_newest_first(memory, limit):
    ids = [memory.store(f"text {number}").item.id for number in range(10)]
    found = pages(memory, limit)
    assert [one for page in found for one in page] == ids[::-1]
    assert all(len(page) == limit for page in found[:-1]) and found[-1]


def test_a_cursor_stays_right_while_others_write_and_delete(memory):
    ids = [memory.store(f"text {number}").item.id for number in range(6)]
    first = memory.list(limit=2)
    memory.store("newer")
    memory.delete(first.items[-1].id)
    rest = memory.list(limit=9, cursor=first.next_cursor)
    assert [item.id for item in rest.items] == ids[3::-1]


def test_lists_are_filtered_by_namespace_level_and_all_tags(memory):
    for number in range(12):
        memory.store(
            f"text {number}",
            namespace="scratch" if number % 2 else "default",
            tags=[tag for tag, every in (("two", 2), ("three", 3)) if number % every == 0],
            preservation="strict" if number % 4 == 0 else None,
        )

    def texts(**query: Any) -> list[int]:
        return [int(item.text.split()[1]) for item in memory.list(limit=50, **query).items]

    assert texts(namespace="scratch") == [11, 9, 7, 5, 3, 1]
    assert texts(tags=["two", "three"]) == [6, 0]
    assert texts(preservation="strict") == [8, 4, 0]
    assert texts(preservation="flexible", tags=["three"]) == [9, 3]
    assert texts(namespace="default", preservation="moderate") == [10, 6, 2]
    assert texts(tags=["nowhere"]) == []


def test_lists_are_bounded_and_foreign_cursors_refused(memory):
    for number in range(3):
        memory.store(f"text {number}")
    cursor = memory.list(limit=1).next_cursor
    refuses(lambda: memory.list(limit=0), "from 1 to 200")
    refuses(lambda: memory.list(limit=201), "from 1 to 200")
    refuses(lambda: memory.list(cursor=cursor, namespace="default"), "belongs to another list")
    for wrong in ("", "x", "AAAA", "é", cursor + "A", "W10", "WyJhIl0", "bnVsbA"):
        refuses(lambda wrong=wrong: memory.list(cursor=wrong), "cursor")
    refuses(lambda: memory.list(namespace="nowhere"), "no namespace")
    refuses(lambda: memory.list(preservation="rigid"), "no level 'rigid'")


def test_what_was_stored_under_an_earlier_policy_can_be_read_and_not_added_to(opening):
    opening(embeds=False, namespaces={"default": {}, "old": {}}).memory.store("one", namespace="old")
    memory = opening(embeds=False, prefix="b", namespaces={"default": {}}).memory
    assert memory.list(namespace="old").items[0].text == "one"
    assert memory.assemble_context("x", 100, namespaces=["old"]).parts == ()
    refuses(lambda: memory.store("two", namespace="old"), "no namespace")
    assert memory.update(memory.list().items[0].id, text="three").text == "three"


# --- search and use --------------------------------------------------------------------------------------------------


def test_what_is_found_counts_as_used_and_readers_do_not_wait_to_write_it(plain, opening):
    opened = opening()
    item = opened.memory.store("Coal is kept in the cellar").item
    opened.index()
    opened.clock.later(days=3)
    with plain.store.writing():  # somebody else writes
        assert opened.memory.search("coal").results[0].item.id == item.id
        assert opened.memory.get(item.id).use_count == 0
    opened.memory.flush_uses()
    used = opened.memory.get(item.id)
    assert (used.use_count, used.last_used_at, used.version) == (2, NOON + timedelta(days=3), 1)


def test_a_search_shows_each_item_once_and_obeys_its_filters(opening):
    opened = opening()
    memory = opened.memory
    long = memory.store("\n".join(f"coal in cellar {number} " * 20 for number in range(8)), tags=["a"]).item
    short = memory.store("coal in the shed", namespace="scratch").item
    strict = memory.store("coal is never burnt", preservation="strict").item
    opened.index()

    def ids(**options: Any) -> set[str]:
        results = memory.search("coal", **options).results
        assert len({found.item.id for found in results}) == len(results)
        return {found.item.id for found in results}

    assert ids() == {long.id, short.id, strict.id}
    assert ids(tags=["a"]) == {long.id}
    assert ids(namespaces=["scratch"]) == {short.id}
    assert ids(preservation="strict") == {strict.id}
    assert len(ids(limit=2)) == 2
    refuses(lambda: ids(namespaces=["nowhere"]), "no namespace")


def test_uses_are_not_lost_when_a_write_fails(plain):
    item = plain.memory.store("one").item
    plain.memory.get(item.id)
    refuses(lambda: plain.memory.update(item.id, text=""), "empty")
    plain.memory.flush_uses()
    assert plain.memory.get(item.id).use_count == 1


# --- expiry and forgetting -------------------------------------------------------------------------------------------


def test_an_item_whose_time_has_come_is_gone_for_everyone_at_once(opening):
    opened = opening()
    memory = opened.memory
    item = memory.store("coal", namespace="scratch", expires_at=NOON + timedelta(hours=1)).item
    opened.index()
    opened.clock.later(minutes=59, seconds=59)
    assert memory.get(item.id).text == "coal"
    opened.clock.later(seconds=1)
    refuses(lambda: memory.get(item.id), "expired at 2026-11-28T13:00:00")
    assert memory.list().items == ()
    assert memory.search("coal").results == ()
    assert memory.assemble_context("coal", 100).parts == ()
    assert memory.store("coal", namespace="scratch").outcome == "stored"
    done = memory.enforce_budgets()
    assert [(gone.id, gone.reason) for gone in done.items] == [(item.id, "its time had come")]
    refuses(lambda: memory.get(item.id), r"is gone: expire at .* \(its time had come\)")


def test_forgetting_takes_flexible_items_alone_and_a_dry_run_takes_none(plain):
    memory, clock = plain.memory, plain.clock
    for level in ("strict", "moderate", "flexible"):
        memory.store(f"old {level}", preservation=level)
    memory.store("old elsewhere", namespace="scratch")
    clock.later(days=100)
    memory.store("new", preservation="flexible")
    tried = memory.forget(older_than=timedelta(days=90), dry_run=True)
    assert (tried.dry_run, tried.count, tried.kept) == (True, 2, {"strict": 1, "moderate": 1})
    assert len(memory.list().items) == 5
    assert memory.forget(older_than=timedelta(days=90), namespace="scratch", dry_run=False).count == 1
    done = memory.forget(older_than=timedelta(days=90), dry_run=False)
    assert [gone.reason for gone in done.items] == ["older than 90 days"]
    assert {item.text for item in memory.list().items} == {"old strict", "old moderate", "new"}
    assert memory.history(done.items[0].id)[0].text == ""
    refuses(lambda: memory.forget(dry_run=True), "say what to forget")
    refuses(lambda: memory.forget(older_than=timedelta(1), namespace="nowhere", dry_run=True), "no namespace")


def test_forgetting_by_use_keeps_what_was_used_even_a_moment_ago(plain):
    memory = plain.memory
    used, unused = (memory.store(text, preservation="flexible").item for text in ("used", "unused"))
    plain.clock.later(days=40)
    memory.get(used.id)  # not written down yet
    assert [g.id for g in memory.forget(unused=timedelta(days=30), dry_run=False).items] == [unused.id]
    both = memory.forget(older_than=timedelta(days=30), unused=timedelta(days=30), dry_run=False)
    assert both.count == 0


def test_a_rule_keeps_a_flexible_item_from_being_forgotten(opening):
    rules = [{"name": "keep", "when": {"tags": ["keep"]}, "forbid": ["expire", "evict"]}]
    opened = opening(embeds=False, rules=rules)
    opened.memory.store("kept", tags=["keep"], preservation="flexible")
    opened.clock.later(days=10)
    done = opened.memory.forget(older_than=timedelta(days=1), dry_run=False)
    assert (done.count, done.kept) == (0, {"flexible": 1})


BUDGET = {"default": {"budget": {"max_items": 3, "max_age_days": 100, "unused_days": 30}}, "free": {}}


def test_a_budget_counts_flexible_items_and_evicts_the_least_recently_used(opening):
    opened = opening(embeds=False, namespaces=BUDGET)
    memory, clock = opened.memory, opened.clock
    for number in range(5):
        memory.store(f"strict {number}", preservation="strict")
        memory.store(f"moderate {number}")
    for number in range(3):
        clock.later(minutes=1)
        memory.store(f"flexible {number}", preservation="flexible")
    clock.later(minutes=1)
    # The first one is read again, so the second goes.
    memory.get(next(item.id for item in memory.list(limit=50).items if item.text == "flexible 0"))
    clock.later(minutes=1)
    stored = memory.store("flexible 3", preservation="flexible")
    assert len(stored.evicted) == 1 and "1 flexible items were evicted" in stored.reason
    left = [item.text for item in memory.list(limit=50).items]
    assert sorted(text for text in left if text.startswith("flexible")) == ["flexible 0", "flexible 2", "flexible 3"]
    assert len(left) == 13
    refuses(lambda: memory.get(stored.evicted[0]), "is gone: evict.*to keep the budget of default")


def test_a_token_budget_is_kept_and_the_new_item_stays_even_if_it_alone_is_too_much(opening):
    opened = opening(embeds=False, namespaces={"default": {"budget": {"max_tokens": 20}}})
    memory = opened.memory
    small = memory.store("x" * 30, preservation="flexible").item
    assert memory.store("y" * 30, preservation="flexible").evicted == ()
    large = memory.store("z" * 90, preservation="flexible")
    assert small.id in large.evicted and len(large.evicted) == 2
    assert [item.id for item in memory.list().items] == [large.item.id]


def test_budgets_are_enforced_on_what_is_there_with_a_dry_run_first(opening):
    opened = opening(embeds=False, namespaces={"default": {}, "free": {}})
    memory, clock = opened.memory, opened.clock
    old = memory.store("old", preservation="flexible").item
    clock.later(days=90)
    unused = memory.store("unused", preservation="flexible").item
    memory.get(old.id)
    memory.flush_uses()
    clock.later(days=40)
    for number in range(5):
        clock.later(minutes=1)
        memory.store(f"new {number}", preservation="flexible")
        memory.store(f"free {number}", preservation="flexible", namespace="free")
        memory.store(f"moderate {number}")
    strict = opening(embeds=False, namespaces=BUDGET, prefix="b")
    strict.clock.time = clock.time
    tried = strict.memory.enforce_budgets(dry_run=True)
    done = strict.memory.enforce_budgets()
    assert (tried.items, tried.count, tried.tokens) == (done.items, done.count, done.tokens)
    reasons = {gone.id: gone.reason for gone in done.items}
    assert reasons[old.id] == "older than 100 days, by the budget of default"
    assert reasons[unused.id] == "unused for 30 days, by the budget of default"
    assert sorted(reasons.values())[-1:] == ["unused for 30 days, by the budget of default"]
    left = [item.text for item in memory.list(limit=50, namespace="default").items]
    assert left == ["moderate 4", "new 4", "moderate 3", "new 3", "moderate 2", "new 2", "moderate 1", "moderate 0"]
    assert len(memory.list(limit=50, namespace="free").items) == 5
    assert strict.memory.enforce_budgets().count == 0


def test_a_budget_is_kept_among_hundreds_of_older_items_of_other_levels(opening):
    opened = opening(embeds=False, namespaces={"default": {"budget": {"max_items": 2}}})
    for number in range(210):
        opened.memory.store(f"kept {number}")
    for number in range(5):
        opened.clock.later(minutes=1)
        opened.memory.store(f"flexible {number}", preservation="flexible")
    left = [item.text for item in opened.memory.list(limit=9, preservation="flexible").items]
    assert left == ["flexible 4", "flexible 3"]


@pytest.mark.parametrize("change", ["use", "raise", "text"])
def test_an_item_that_is_used_or_changed_while_others_are_forgotten_is_kept(opening, monkeypatch, change):
    opened, other = opening(embeds=False), opening(embeds=False, prefix="b")
    item = opened.memory.store("one", preservation="flexible").item
    opened.memory.store("two", preservation="flexible")
    other.clock.time = opened.clock.later(days=9)
    writing, calls = opened.store.writing, []

    def late() -> Any:
        calls.append(1)
        if len(calls) == 2:  # what is to go has been found, and is about to be deleted
            if change == "use":
                other.memory.get(item.id)
                other.memory.flush_uses()
            elif change == "raise":
                other.memory.update(item.id, preservation="strict")
            else:
                other.memory.update(item.id, text="one, changed")
        return writing()

    monkeypatch.setattr(opened.store, "writing", late)
    done = opened.memory.forget(older_than=timedelta(days=1), dry_run=False)
    assert (len(calls), [gone.id for gone in done.items]) == (2, ["000002"])
    assert opened.memory.get(item.id).id == item.id


def test_no_write_reads_a_whole_table_or_namespace(opening):
    opened = opening(embeds=False, namespaces={"default": {"budget": {"max_items": 3, "max_tokens": 50}}})
    memory, said = opened.memory, set[str]()
    with opened.store.reading() as connection:
        connection.set_trace_callback(said.add)
    one, two, three = (memory.store(text, tags=["a"]).item for text in ("one", "two", "three"))
    for number in range(5):
        memory.store(f"flexible {number}", preservation="flexible")
    memory.store("one", tags=["b"])
    memory.update(one.id, text="one, changed")
    memory.link(one.id, two.id)
    memory.merge([one.id, two.id])
    memory.get(three.id)
    memory.delete(three.id)
    memory.list(namespace="default")
    connection.set_trace_callback(None)
    plans = {}
    for statement in sorted(said):
        if statement.split()[0] in ("SELECT", "INSERT", "UPDATE", "DELETE"):
            plans[statement] = [row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
    assert len(plans) > 30
    for statement, steps in plans.items():
        pages = "LIMIT" in statement  # in the order of an index, from a place on, so many
        assert not any(step.startswith("SCAN") and "sqlite_schema" not in step for step in steps), (statement, steps)
        assert pages or not any(step.endswith("(namespace=?)") for step in steps), (statement, steps)


# --- many at once ----------------------------------------------------------------------------------------------------


def test_threads_that_store_the_same_text_at_once_keep_one_item_with_all_tags(opening, tmp_path):
    opened = [opening(embeds=False, prefix=prefix) for prefix in "ab"]
    barrier = threading.Barrier(4)

    def work(number: int) -> None:
        barrier.wait()
        for round_ in range(5):
            opened[number % 2].memory.store(f"the same {round_}", tags=[f"tag{number}"])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    items = opened[0].memory.list(limit=50).items
    assert sorted(item.text for item in items) == [f"the same {number}" for number in range(5)]
    assert all(item.tags == ("tag0", "tag1", "tag2", "tag3") for item in items)


def test_changes_at_once_with_expected_versions_lose_none(opening):
    opened = [opening(embeds=False, prefix=prefix) for prefix in "ab"]
    item = opened[0].memory.store("0").item

    def work(memory: Memory) -> None:
        done = 0
        while done < 10:
            now: Item = memory.get(item.id)
            try:
                memory.update(item.id, text=str(int(now.text) + 1), expected_version=now.version)
                done += 1
            except ToolkitError as error:
                assert "somebody changed it" in str(error)

    threads = [threading.Thread(target=work, args=(one.memory,)) for one in opened]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened[0].memory.get(item.id).text == "20"
    assert [entry.text for entry in opened[0].memory.history(item.id)] == [str(n) for n in range(19, -1, -1)]


def test_times_are_kept_in_utc_whatever_the_zone_of_the_clock(plain):
    east = timezone(timedelta(hours=9))
    memory = Memory(plain.store, Policy(PolicyFile()), plain.search, now=lambda: NOON.astimezone(east))
    item = memory.store("one").item
    assert memory.get(item.id).created_at.isoformat() == "2026-11-28T12:00:00+00:00"


def test_ids_of_the_real_kind_sort_as_they_were_made(plain):
    memory = Memory(plain.store, Policy(PolicyFile()), plain.search, now=plain.clock)
    ids = []
    for number in range(60):
        plain.clock.later(milliseconds=number % 3 // 2)  # several in a millisecond
        ids.append(memory.store(f"text {number}").item.id)
    assert len(set(ids)) == 60 and [item.id for item in memory.list(limit=60).items] == ids[::-1]
    assert ids == sorted(ids) and len({len(one) for one in ids}) == 1
    assert counting_ids()(NOON) == "000001"


def test_a_full_disk_while_storing_is_one_error_and_the_memory_goes_on(plain):
    memory = plain.memory
    memory.store("one", preservation="strict")
    with plain.store.reading() as connection:
        pages_now = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages_now + 3}")
    refuses(lambda: memory.store("x" * 200_000), "the disk is full, nothing was written", JobFailed)
    with plain.store.reading() as connection:
        connection.execute("PRAGMA max_page_count = 1000000")
    memory.store("two")
    assert [item.text for item in memory.list().items] == ["two", "one"]
