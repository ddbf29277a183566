"""Links, lists and searches over what is kept."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.mcp_server.memories import NOON
from tests.mcp_server.memory.items import refuses
from toolkit.mcp_server.memory import Memory


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
