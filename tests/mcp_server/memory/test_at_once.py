"""Many at once, clocks and full disks: nothing is lost on the way."""

from __future__ import annotations

import threading
from datetime import timedelta, timezone

from tests.mcp_server.memories import NOON, counting_ids
from tests.mcp_server.memory.items import refuses
from toolkit.errors import JobFailed, ToolkitError
from toolkit.mcp_server.items import Item
from toolkit.mcp_server.memory import Memory
from toolkit.mcp_server.policy import Policy
from toolkit.mcp_server.policy_file import PolicyFile


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
