"""A server in this process, over a store of the test's own, with the stand-in for the embedding model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from tests.mcp_server.stand_in import StandInEmbedder
from toolkit.mcp_server.server import ToolkitServer, build_server
from toolkit.mcp_server.settings import ServerSettings, Services, open_services

ERAS = ["legacy", "2026-07-28"]


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A root with two documents."""
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "keys.md").write_text("# Keys\n\nThe blue key opens the archive.\n\n# Doors\n\nThe red door is locked.\n")
    (folder / "backup.txt").write_text("The backup runs at three in the night.\n")
    return folder


@pytest.fixture
def services(tmp_path: Path, notes: Path) -> Iterator[Services]:
    settings = ServerSettings(tmp_path / "memory.sqlite3", roots=(notes,))
    opened = open_services(settings, embedder=StandInEmbedder())
    yield opened
    opened.close()


@lru_cache(maxsize=1)
def server_of(services: Services) -> ToolkitServer:
    """Build the server of a test once."""
    return build_server(lambda: services)


@asynccontextmanager
async def connected(services: Services, **options: Any) -> AsyncIterator[Client]:
    """A client of the official SDK, connected in this process."""
    async with Client(server_of(services), **options) as client:
        yield client


def ask(services: Services, talk: Callable[[Client], Any], **options: Any) -> Any:
    """Connect a client, let it talk, return what it found."""

    async def run() -> Any:
        async with connected(services, **options) as client:
            return await talk(client)

    return anyio.run(run)


def call(services: Services, tool: str, arguments: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """Call a tool and return its structured answer; an error is an assertion."""

    async def talk(client: Client) -> dict[str, Any]:
        result = await client.call_tool(tool, arguments or {})
        assert not result.is_error, result.content
        return result.structured_content or {}

    return ask(services, talk, **options)


def refusal(services: Services, tool: str, arguments: dict[str, Any] | None = None, **options: Any) -> str:
    """Call a tool that must refuse, and return its words."""

    async def talk(client: Client) -> str:
        result = await client.call_tool(tool, arguments or {})
        assert result.is_error, result.structured_content
        return " ".join(getattr(block, "text", "") for block in result.content)

    return ask(services, talk, **options)


def store(services: Services, text: str, **more: Any) -> str:
    """Keep a text through the tool and return its id."""
    return call(services, "memory_store", {"text": text, **more})["id"]
