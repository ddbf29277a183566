"""Resources: an item or a document by its address, for clients that attach things to a conversation."""

from collections.abc import Callable
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError

from toolkit.errors import JobFailed, ToolkitError
from toolkit.mcp_server.answers import MAX_ANSWER_CHARACTERS, NewNonce
from toolkit.mcp_server.fences import Fence, random_nonce
from toolkit.mcp_server.settings import Services
from toolkit.mcp_server.tools import error_words

CUT = "\n(cut here: the tools memory_get and documents_search read the rest)"


def add_resources(server: MCPServer[Any], services: Callable[[], Services], new_nonce: NewNonce = random_nonce) -> None:
    """Add `memory://policy`, `memory://items/{id}` and `document://{id}`."""

    @server.resource("memory://policy", title="The preservation policy", mime_type="application/json")
    def policy() -> dict[str, Any]:
        """Say what may be changed or forgotten, by namespace and tag."""
        return services().policy.explain()

    @server.resource("memory://items/{id}", title="An item of the memory", mime_type="text/plain")
    def item(id: str) -> str:
        """Read one item, word for word, in a fence."""
        found = _found(id, lambda: services().memory.get(id))
        return _fenced(found.text, f"memory item {found.id}, {found.preservation}", new_nonce)

    @server.resource("document://{id}", title="A document", mime_type="text/plain")
    def document(id: str) -> str:
        """Read the text of an ingested document, in a fence."""
        found = _found(id, lambda: services().documents.get(id))
        return _fenced(found.text, found.path, new_nonce)


def _found(id: str, find: Callable[[], Any]) -> Any:
    try:
        return find()
    except ToolkitError as error:
        kind = ResourceError if isinstance(error, JobFailed) else ResourceNotFoundError
        raise kind(error_words(error)) from error


def _fenced(text: str, source: str, new_nonce: NewNonce) -> str:
    shown = text[:MAX_ANSWER_CHARACTERS]
    fenced = Fence([shown], new_nonce).around(shown, source)
    return fenced if len(shown) == len(text) else fenced + CUT
