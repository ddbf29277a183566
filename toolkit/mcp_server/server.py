"""The MCP server: tools, resources and prompts over the memory and the documents, on standard input and output.

Both protocol eras are the SDK's: the handshake (2024-11-05 to 2025-11-25) and the stateless 2026-07-28. The handshake
is answered before the store is opened or anything heavy is imported; the embedding model loads behind it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import anyio
from mcp.server import MCPServer

from toolkit import __version__
from toolkit.errors import ToolkitError
from toolkit.mcp_server.document_tools import document_tools
from toolkit.mcp_server.fences import FENCE_RULE, random_nonce
from toolkit.mcp_server.logs import log_to
from toolkit.mcp_server.memory_tools import memory_tools
from toolkit.mcp_server.prompts import add_prompts
from toolkit.mcp_server.resources import add_resources
from toolkit.mcp_server.search_tools import search_tools
from toolkit.mcp_server.settings import Opening, ServerSettings, Services, open_services
from toolkit.mcp_server.stdio import stdio_streams

NAME = "toolkit"
INSTRUCTIONS = f"""\
A memory and a document search on this computer. At the start of a task, call assemble_context with what the task is
about. Store what will matter later with memory_store, one thing in each item; a policy decides what may be changed or
forgotten (explain_policy). memory_search and documents_search find by meaning and by words.

{FENCE_RULE}"""


class ToolkitServer(MCPServer[Any]):
    """The SDK's server on this project's wire, which answers bad lines and bounds their size."""

    async def run_stdio_async(self) -> None:
        """Serve one client on standard input and output until it closes them."""
        server = self._lowlevel_server
        async with stdio_streams() as (read_stream, write_stream):
            await server.run(read_stream, write_stream, server.create_initialization_options())


def build_server(
    services: Callable[[], Services], *, new_nonce: Callable[[], str] = random_nonce, middleware: Any = ()
) -> ToolkitServer:
    """Build the server; `services` is called by each tool when it runs, never before."""
    tools = [
        *memory_tools(services, new_nonce),
        *search_tools(services, new_nonce),
        *document_tools(services, new_nonce),
    ]
    server = ToolkitServer(
        NAME,
        title="Memory and documents",
        description="Memory and document search on this computer, with a policy of what may be changed or forgotten.",
        instructions=INSTRUCTIONS,
        version=__version__,
        tools=tools,
        log_level="WARNING",
        subscriptions=False,
        middleware=middleware,
    )
    add_resources(server, services, new_nonce)
    add_prompts(server, services, new_nonce)
    return server


def _open(settings: ServerSettings) -> Services:
    """Open everything and forget what is due; the vectors are read behind it, so that the first search need not."""
    services = open_services(settings)
    try:
        services.memory.enforce_budgets()
    except ToolkitError as error:  # another program is writing just now: the next start does it
        logging.getLogger(__name__).warning("put off: %s", error)
    threading.Thread(target=_warm, args=(services,), name="warm", daemon=True).start()
    return services


def _warm(services: Services) -> None:
    try:
        services.search.warm()
    except (ToolkitError, RuntimeError) as error:  # closed meanwhile, or no vectors to be had: a search says so itself
        logging.getLogger(__name__).info("vectors were not read ahead: %s", type(error).__name__)


def serve(settings: ServerSettings, *, verbose: bool = False) -> None:
    """Serve a client on standard input and output until it goes."""
    log_to(verbose=verbose)
    opening = Opening(lambda: _open(settings))

    async def open_behind(context: Any, call_next: Any) -> Any:
        """Begin to open the store once the first message is answered, so that the handshake waits for nothing."""
        try:
            return await call_next(context)
        finally:
            if not opening.has_begun:
                opening.start()

    server = build_server(opening, middleware=(open_behind,))
    try:
        anyio.run(server.run_stdio_async)
    finally:
        opening.close()
