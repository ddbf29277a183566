"""Memories for tests: a clock that is set by hand, ids that count up, a stand-in for the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

from tests.mcp_server.stand_in import StandInEmbedder
from toolkit.mcp_server.embeddings import BackgroundEmbedder
from toolkit.mcp_server.indexer import Indexer
from toolkit.mcp_server.memory import Memory
from toolkit.mcp_server.policy import Policy
from toolkit.mcp_server.policy_file import PolicyFile
from toolkit.mcp_server.search import Search, SearchResult
from toolkit.mcp_server.store import Store

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.time = NOON

    def __call__(self) -> datetime:
        return self.time

    def later(self, **span: float) -> datetime:
        self.time += timedelta(**span)
        return self.time


class NoSearch(Search):
    """A search that knows nothing, for tests of what needs none."""

    def __init__(self) -> None:
        pass

    def find(self, query: str, **_: Any) -> SearchResult:
        return SearchResult((), "text", ())

    def similar(self, text: str, **_: Any) -> list:
        return []


@dataclass
class Opened:
    """A memory with all that it stands on."""

    store: Store
    memory: Memory
    clock: Clock
    search: Search
    index: Callable[[], None] = field(default=lambda: None)

    def close(self) -> None:
        self.search.close() if not isinstance(self.search, NoSearch) else None
        self.store.close()


def counting_ids(prefix: str = "") -> Callable[[datetime], str]:
    numbers = count(1)
    return lambda _: f"{prefix}{next(numbers):06}"


def open_memory(path: Path, *, embeds: bool = True, prefix: str = "", **policy: Any) -> Opened:
    """Open a memory under the policy with these keys; `index()` embeds what waits for a vector."""
    store, clock = Store(path, busy_timeout_seconds=20), Clock()
    rules = Policy(PolicyFile.model_validate(policy))
    if not embeds:
        search: Search = NoSearch()
        return Opened(store, Memory(store, rules, search, now=clock, new_id=counting_ids(prefix)), clock, search)
    background = BackgroundEmbedder(embedder=StandInEmbedder())
    background.start()
    background.wait(10)
    search, indexer = Search(store, background), Indexer(store, background)
    memory = Memory(store, rules, search, now=clock, new_id=counting_ids(prefix))
    return Opened(store, memory, clock, search, lambda: indexer.flush() and None)


@contextmanager
def opened_memories(folder: Path, **defaults: Any) -> Iterator[Callable[..., Opened]]:
    """Yield what opens a memory of this folder by its name; at the end each must be healthy and is closed."""
    opened: list[Opened] = []

    def open_one(name: str = "memory", **options: Any) -> Opened:
        opened.append(open_memory(folder / f"{name}.sqlite3", **{**defaults, **options}))
        return opened[-1]

    yield open_one
    for one in opened:
        assert one.store.check() == []
        one.close()
