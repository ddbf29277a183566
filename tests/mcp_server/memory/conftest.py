"""Memories under a policy with three namespaces; each is checked when its test has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mcp_server.memories import Opened, opened_memories
from tests.mcp_server.memory.items import NAMESPACES
from toolkit.mcp_server.memory import Memory


@pytest.fixture
def opening(tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    with opened_memories(tmp_path, namespaces=NAMESPACES) as open_one:
        yield open_one


@pytest.fixture
def plain(opening) -> Opened:
    return opening(embeds=False)


@pytest.fixture
def memory(plain) -> Memory:
    return plain.memory
