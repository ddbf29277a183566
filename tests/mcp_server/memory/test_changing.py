"""Changing, merging and deleting items: what the policy allows, and that the history keeps every version."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.mcp_server.memories import NOON
from tests.mcp_server.memory.items import refuses
from toolkit.errors import ToolkitError
from toolkit.mcp_server.item_rows import Change, erase_item, rewrite_item
from toolkit.mcp_server.policy import NeedsPerson


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
