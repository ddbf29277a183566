"""The same text, or nearly the same, is kept once, merged or linked, and never silently dropped."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from tests.mcp_server.memories import NOON
from tests.mcp_server.memory.items import RESTART, RESTART_TOO


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
