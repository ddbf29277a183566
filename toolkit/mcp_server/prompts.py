"""Prompts: what a person picks from a client's menu."""

from collections.abc import Callable
from typing import Annotated, Any

from mcp.server import MCPServer
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS
from pydantic import Field

from toolkit.errors import ToolkitError
from toolkit.mcp_server.answers import NewNonce
from toolkit.mcp_server.context_answers import assemble
from toolkit.mcp_server.fences import FENCE_RULE, random_nonce
from toolkit.mcp_server.settings import Services
from toolkit.mcp_server.tools import error_words

DEFAULT_TOKENS = 4_000


def add_prompts(server: MCPServer[Any], services: Callable[[], Services], new_nonce: NewNonce = random_nonce) -> None:
    """Add the prompt that begins a task with what is known about it."""

    @server.prompt("context_for_task", title="Begin a task with what is remembered")
    def context_for_task(
        task: Annotated[str, Field(description="What is to be done.", min_length=1, max_length=4_000)],
        token_budget: Annotated[str, Field(description="How many tokens the context may take.")] = str(DEFAULT_TOKENS),
    ) -> UserMessage:
        """Put what the memory and the documents hold about a task before it; strict items first, word for word."""
        try:
            answer = assemble(services(), task, _budget(token_budget), new_nonce=new_nonce)
        except ToolkitError as error:
            raise MCPError(INVALID_PARAMS, error_words(error)) from error
        left = f"\n\n{answer.left_out_count} more did not fit." if answer.left_out_count else ""
        known = answer.text or "(nothing was found)"
        return UserMessage(f"{FENCE_RULE}\n\nWhat is known:\n\n{known}{left}\n\nThe task: {task}")


def _budget(text: str) -> int:
    if not text.strip().isascii() or not text.strip().isdigit() or not 1 <= int(text) <= 50_000:
        raise ToolkitError("token_budget is a whole number from 1 to 50000", hint=f"For example: {DEFAULT_TOKENS}")
    return int(text)
