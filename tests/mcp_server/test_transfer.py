"""Export and import: all of it comes back, every mistake has its line, and strict items stay as they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.mcp_server.memories import NOON, Opened, opened_memories
from toolkit.errors import JobFailed, ToolkitError
from toolkit.mcp_server.transfer import export_jsonl, import_jsonl

NAMESPACES = {"default": {}, "scratch": {"preservation": "flexible"}}
HEADER = {"kind": "header", "format": "toolkit-memory", "version": 1}
AT = "2026-11-28T12:00:00Z"
ITEM = {
    "kind": "item",
    "id": "a1",
    "namespace": "default",
    "text": "milk",
    "preservation": "moderate",
    "created_at": AT,
    "updated_at": AT,
}


@pytest.fixture
def opening(tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    with opened_memories(tmp_path, namespaces=NAMESPACES, embeds=False) as open_one:
        yield open_one


@pytest.fixture
def full(opening) -> Opened:
    """A memory with everything in it that there can be."""
    opened = opening()
    memory = opened.memory
    one = memory.store(
        "one\r\n — “quoted” 日本 \u2028", preservation="strict", tags=["a", "b"], metadata={"k": [1, None]}
    )
    two = memory.store("two", source="mail", namespace="scratch", expires_at=NOON + timedelta(days=9))
    three, four = memory.store("three").item, memory.store("four").item
    opened.clock.later(hours=1)
    memory.update(three.id, text="three, changed", tags=["c"])
    memory.merge([three.id, four.id])
    memory.link(one.item.id, two.item.id, "about")
    memory.delete(memory.store("five").item.id)
    memory.get(two.item.id)
    memory.flush_uses()
    return opened


def contents(opened: Opened) -> list[tuple]:
    tables = {
        "items": "*",
        "item_tags": "*",
        "links": "*",
        "history": "item_id, version, operation, at, by_person, reason, successor, namespace, text, preservation, tags,"
        " metadata, source, expires_at, updated_at",
    }
    with opened.store.reading() as connection:
        return [
            tuple(row)
            for table, columns in tables.items()
            for row in connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2")
        ]


def write(path: Path, *lines: object) -> Path:
    path.write_text(
        "".join(f"{line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)}\n" for line in lines),
        encoding="utf-8",
    )
    return path


def problems(opened: Opened, path: Path, **options: Any) -> list[str]:
    before = contents(opened)
    with pytest.raises(ToolkitError) as caught:
        import_jsonl(opened.store, opened.memory, path, **options)
    assert contents(opened) == before
    return [str(problem).replace(f"{path.parent}/", "") for problem in caught.value.problems]


def test_everything_comes_back_in_another_memory_and_a_second_time_changes_nothing(full, opening, tmp_path):
    path = tmp_path / "memory.jsonl"
    exported = export_jsonl(full.store, path)
    assert (exported.items, exported.links) == (3, 1)
    other = opening("other")

    tried = import_jsonl(other.store, other.memory, path, dry_run=True)
    assert contents(other) == []
    done = import_jsonl(other.store, other.memory, path)

    assert contents(other) == contents(full)
    assert (
        (done.added, done.history, done.links) == (3, exported.history, 1) == (tried.added, tried.history, tried.links)
    )
    assert done.summary == f"items: 3 added; {exported.history} lines of history, 1 links"
    assert tried.summary == f"dry run, nothing was written: {done.summary}"
    assert exported.summary == f"3 items, {exported.history} lines of history, 1 links"
    again = import_jsonl(other.store, other.memory, path)
    assert (again.added, again.unchanged, again.history, again.links) == (0, 3, 0, 0)
    assert contents(other) == contents(full)
    second = tmp_path / "second.jsonl"
    export_jsonl(other.store, second)
    assert second.read_bytes() == path.read_bytes()


def test_an_export_is_one_json_object_a_line_with_the_text_readable(full, tmp_path):
    path = tmp_path / "memory.jsonl"
    export_jsonl(full.store, path)
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    objects = [json.loads(line) for line in lines]
    assert objects[0]["format"] == "toolkit-memory"
    assert {one["kind"] for one in objects[1:]} == {"item", "history", "link"}
    assert "日本" in lines[1]


def test_imported_items_are_found_by_their_words(full, opening, tmp_path):
    export_jsonl(full.store, tmp_path / "memory.jsonl")
    other = opening("other", embeds=True)
    import_jsonl(other.store, other.memory, tmp_path / "memory.jsonl")
    assert other.memory.search("changed", mode="text").results[0].item.text == "three, changed\nfour"


def test_what_differs_stays_or_becomes_a_new_version_as_asked_and_strict_items_always_stay(opening, tmp_path):
    opened = opening()
    memory = opened.memory
    strict = memory.store("strict", preservation="strict").item
    moderate = memory.store("moderate", tags=["ours"]).item
    theirs = [{**ITEM, "id": one.id, "text": f"{one.text}, theirs", "tags": ["t"]} for one in (strict, moderate)]
    path = write(tmp_path / "m.jsonl", HEADER, *theirs)

    skipped = import_jsonl(opened.store, memory, path)
    assert (skipped.skipped, memory.get(moderate.id).text) == (2, "moderate")
    replaced = import_jsonl(opened.store, memory, path, "replace")

    assert (replaced.replaced, replaced.kept) == (1, 1)
    assert memory.get(strict.id).text == "strict"
    assert (memory.get(moderate.id).text, memory.get(moderate.id).tags) == ("moderate, theirs", ("t",))
    assert [(e.text, e.tags, e.reason) for e in memory.history(moderate.id)] == [("moderate", ("ours",), "imported")]
    refused = problems(opened, write(tmp_path / "n.jsonl", HEADER, {**ITEM, "id": moderate.id}), on_conflict="refuse")
    assert refused == [f"n.jsonl:2: the item {moderate.id} is there and differs. To keep ours: --on-conflict skip"]


def test_an_import_obeys_the_policy(opening, tmp_path):
    rules = [{"name": "law", "when": {"tags": ["law"]}, "at_least": "strict"}]
    opened = opening(rules=rules)
    expires = {"preservation": "flexible", "expires_at": "2027-01-01T00:00:00Z"}
    path = write(tmp_path / "m.jsonl", HEADER, {**ITEM, **expires, "tags": ["law"]})
    assert import_jsonl(opened.store, opened.memory, path).raised == 1
    item = opened.memory.get("a1")
    assert (item.preservation, item.expires_at) == ("strict", None)
    assert problems(opened, write(tmp_path / "n.jsonl", HEADER, {**ITEM, "namespace": "defalt"})) == [
        "n.jsonl:2: there is no namespace 'defalt'. Did you mean default? A person can add one to the policy (built in)"
    ]


def test_every_mistake_is_named_with_its_line_and_nothing_is_imported(opening, tmp_path):
    history = {**ITEM, "kind": "history", "item_id": "a1", "version": 1, "operation": "update", "at": AT}
    del history["id"], history["created_at"]
    link = {"kind": "link", "source_id": "a1", "relation": "about", "target_id": "b1", "created_at": AT}
    lines = [
        HEADER,
        ITEM,
        "{",
        {**ITEM},
        {"kind": "wish"},
        "[1]",
        {**ITEM, "id": "../x"},
        {**ITEM, "id": "a2", "text": "a\0b"},
        {**ITEM, "id": "a3", "preservation": "rigid", "extra": 1},
        {**ITEM, "id": "a4", "expires_at": "2027-01-01T00:00:00Z"},
        {**ITEM, "id": "a5", "created_at": "2026-11-28T12:00:00"},
        {**ITEM, "id": "a6", "version": 0},
        {**history, "successor": "a b"},
        link,
        {**link, "target_id": "a1"},
        "",
        '{"kind": "item", "text": "\\ud800"}',
        "9" * 5000,
        "[" * 100_000,
    ]
    found = problems(opening(), write(tmp_path / "m.jsonl", *lines))
    expected = [
        ("3", "not a JSON object"),
        ("4", "the item a1 is on line 2 already"),
        ("5", "kind is 'wish'; expected item, history, link"),
        ("6", "kind is None"),
        ("7", "'../x' cannot be an id"),
        ("8", "the text holds a NUL character"),
        ("9", "preservation: it should be 'strict'"),
        ("9", "extra: Extra inputs are not permitted"),
        ("10", "a moderate item does not expire"),
        ("11", "created_at: it should have timezone info"),
        ("12", "version: it should be greater than or equal to 1"),
        ("13", "'a b' cannot be an id"),
        ("15", "an item is not linked with itself"),
        ("14", "a link to b1, which is neither in the file nor in the memory"),
    ]
    for line, words in expected:
        assert any(one.startswith(f"m.jsonl:{line}: {words}") for one in found), (line, words, found)
    assert {one.split(":")[1] for one in found} == {str(n) for n in range(3, 20)} - {"16"}


def test_a_file_that_is_no_export_or_a_newer_one_is_refused(opening, tmp_path):
    opened = opening()
    for first in ("", "milk", "[]", '{"format": "other"}', "\udcff"):
        path = tmp_path / "m.jsonl"
        path.write_bytes(first.encode("utf-8", "surrogateescape"))
        assert "this is not an exported memory. Write one with: toolkit mcp export" in problems(opened, path)[0]
    newer = write(tmp_path / "m.jsonl", {**HEADER, "version": 2})
    assert "the export has version 2; this toolkit reads 1. Update" in problems(opened, newer)[0]
    assert "cannot read: No such file" in problems(opened, tmp_path / "nowhere.jsonl")[0]


def test_thousands_of_mistakes_are_counted_and_the_first_hundred_named(opening, tmp_path):
    found = problems(opening(), write(tmp_path / "m.jsonl", HEADER, *["{"] * 1000))
    assert (len(found), found[-1]) == (101, "m.jsonl: 900 more problems")


def test_an_export_that_cannot_be_written_leaves_the_older_one(full, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(JobFailed, match="cannot write"):
        export_jsonl(full.store, tmp_path / "file" / "memory.jsonl")
