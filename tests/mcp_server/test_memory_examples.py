"""The memory examples of `toolkit dataset generate` against the real server: same calls, same outcomes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from toolkit.datasets.generate.memory import memory_examples
from toolkit.datasets.generate.memory_tools import FILES, MemoryStandIn
from toolkit.mcp_server.execution import temporary_tools

ID_ARGUMENTS = ("id", "source_id", "target_id")


class Beside:
    """Executes each call in the stand-in and in a real server, and holds what both answer against each other."""

    def __init__(self, stack: ExitStack, root: Path, seen: list[str]) -> None:
        self.stand_in = MemoryStandIn()
        self.server = stack.enter_context(temporary_tools(roots=(root,)))
        self.root = root
        self.real_ids: dict[str, str] = {}
        self.seen = seen

    def __call__(self, name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        given = {key: self.real_ids[value] if key in ID_ARGUMENTS else value for key, value in arguments.items()}
        if name == "documents_ingest":
            given["path"] = str(self.root / given["path"])
        real, expected = self.server(name, given), self.stand_in(name, arguments)
        self.seen.append(f"{name}: refused" if real.is_error else name)
        assert real.is_error == ("error" in expected), (name, arguments, real.text, expected)
        if not real.is_error:
            getattr(self, name)(real.content, expected)
        return expected

    def shown(self, ids: list[str]) -> list[str]:
        names = {real: name for name, real in self.real_ids.items()}
        return [names[real] for real in ids]

    def memory_store(self, real: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        assert real["outcome"] == expected["outcome"]
        assert self.real_ids.setdefault(expected["id"], real["id"]) == real["id"]

    def memory_search(self, real: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        # The stand-in wants every word, the server any: what the stand-in finds, the server finds as well.
        found = self.shown([hit["id"] for hit in real["results"]])
        assert {hit["id"] for hit in expected["results"]} <= set(found)

    def memory_update(self, real: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        assert (self.shown([real["id"]]), real["version"]) == ([expected["id"]], expected["version"])

    def memory_delete(self, real: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        assert self.server("memory_get", {"id": self.real_ids[expected["deleted"]]}).is_error

    def memory_link(self, real: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        source, relation, target = expected["linked"]
        assert [real["relation"], *self.shown([real["source_id"], real["target_id"]])] == [relation, source, target]

    def memory_list(self, real: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        assert sorted(self.shown([item["id"] for item in real["items"]])) == sorted(expected["ids"])

    def memory_history(self, real: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        earlier = [version["text"] for version in reversed(real["versions"])]
        assert len(earlier) == len(expected["earlier"])
        assert all(text in fenced for text, fenced in zip(expected["earlier"], earlier, strict=True))

    def documents_ingest(self, real: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        assert (real["added"], real["unchanged"]) == ((1, 0) if expected["outcome"] == "added" else (0, 1))


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Path]:
    """A folder with every document that the examples read."""
    for name in FILES:
        path = tmp_path / "library" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"What {path.stem} is about.\n", "utf-8")
    return tmp_path / "library"


@pytest.mark.slow
def test_the_server_answers_the_memory_examples_as_the_stand_in_does_that_makes_them(library: Path) -> None:
    seen: list[str] = []
    with ExitStack() as opened:

        def beside() -> Beside:
            opened.pop_all().close()  # the last example's server
            return Beside(opened, library, seen)

        made = list(memory_examples(beside)(1, 60))
    assert made == list(memory_examples(MemoryStandIn)(1, 60))
    assert {name.removesuffix(": refused") for name in seen} == {
        "memory_store", "memory_search", "memory_update", "memory_delete", "memory_link", "memory_list",
        "memory_history", "documents_ingest",
    }  # fmt: skip
    assert {"memory_update: refused", "memory_delete: refused"} <= set(seen)
