"""Memories under a policy with three namespaces; each is checked when its test has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mcp_server.memories import Opened, open_memory
from tests.mcp_server.memory.items import NAMESPACES
from toolkit.mcp_server.memory import Memory


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
