"""Expiry, forgetting and budgets: flexible items go, the others stay."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.mcp_server.memories import NOON
from tests.mcp_server.memory.items import refuses


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
