"""The tools without a client: call one by name and get what a client would get. Made for data about memory operations.

    with temporary_tools() as execute_tool:
        execute_tool("memory_store", {"text": "The blue key opens the archive."})

Every call goes through the server that clients talk to: the same checks, the same policy, the same answers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyio.from_thread import start_blocking_portal
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, TextContent

from toolkit.mcp_server.fences import random_nonce
from toolkit.mcp_server.server import build_server
from toolkit.mcp_server.settings import ServerSettings, Services, open_services


@dataclass(frozen=True)
class ToolResult:
    """What a call gave.

    content:  the structured answer ({} where there is none)
    text:     the text that a client shows a model
    is_error: the tool refused; `text` says why
    """

    content: dict[str, Any]
    text: str
    is_error: bool


ExecuteTool = Callable[[str, dict[str, Any]], ToolResult]


@contextmanager
def tools_of(services: Services, *, new_nonce: Callable[[], str] = random_nonce) -> Iterator[ExecuteTool]:
    """Yield `execute_tool(name, arguments)` over opened services. No person can be asked: strict items stay."""
    server = build_server(lambda: services, new_nonce=new_nonce)
    with start_blocking_portal() as portal:

        def execute_tool(name: str, arguments: dict[str, Any]) -> ToolResult:
            try:
                result = portal.call(server.call_tool, name, arguments)
            except ToolError as error:
                return ToolResult({}, str(error), True)
            assert isinstance(result, CallToolResult), "nobody is there to give more input"
            text = "\n".join(block.text for block in result.content if isinstance(block, TextContent))
            return ToolResult(result.structured_content or {}, text, bool(result.is_error))

        yield execute_tool


@contextmanager
def temporary_tools(
    *,
    policy: Path | None = None,
    roots: tuple[Path, ...] = (),
    embedder: Any = None,
    new_nonce: Callable[[], str] = random_nonce,
    **memory_options: Any,
) -> Iterator[ExecuteTool]:
    """Yield `execute_tool` over an empty store that is deleted at the end.

    embedder:       an Embedder; None: search by words alone
    new_nonce:      where fences' nonces come from
    memory_options: `now` and `new_id` of Memory; with them and `new_nonce` equal calls give equal answers
    """
    with tempfile.TemporaryDirectory(prefix="toolkit-memory-") as folder:
        settings = ServerSettings(Path(folder) / "memory.sqlite3", policy, roots, embeds=embedder is not None)
        services = open_services(settings, embedder=embedder, **memory_options)
        try:
            with tools_of(services, new_nonce=new_nonce) as execute_tool:

                def execute_and_settle(name: str, arguments: dict[str, Any]) -> ToolResult:
                    result = execute_tool(name, arguments)
                    services.indexer.flush()  # what the next call finds must not depend on how fast a thread is
                    return result

                yield execute_and_settle
        finally:
            services.close()
