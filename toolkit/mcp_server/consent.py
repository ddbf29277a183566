"""Asking a person: what a policy leaves to people is never decided by a model's own word.

A tool's arguments come from the model, so none of them counts as consent. What counts is an answer to an elicitation,
which the client shows to the person in front of it; where a client cannot ask, the command that a person can type is
named. (The server has to trust the client here: it starts the server, and could edit the store's file as well.)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio.to_thread
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.resolve import AcceptedElicitation, Elicit, ElicitationResult
from mcp_types import ClientCapabilities
from pydantic import BaseModel, Field

from toolkit.errors import ToolkitError
from toolkit.mcp_server.fences import printable
from toolkit.mcp_server.items import Item
from toolkit.mcp_server.settings import Services
from toolkit.mcp_server.tools import error_words

MAX_SHOWN_CHARACTERS = 300


class DeleteConsent(BaseModel):
    """What a person answers."""

    delete: bool = Field(default=False, title="Delete it", description="Cannot be undone.")


class Unasked(BaseModel):
    """No person had to be asked."""


def can_ask(capabilities: ClientCapabilities | None) -> bool:
    """Say whether the client shows forms to a person (a bare `elicitation: {}` means forms)."""
    elicitation = capabilities.elicitation if capabilities is not None else None
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


def delete_question(services: Callable[[], Services]) -> Callable[..., Awaitable[Any]]:
    """Return a resolver for `memory_delete`: asks a person where the policy wants one and the client can ask."""

    async def ask(id: str, context: Context) -> Unasked | Elicit[DeleteConsent]:
        item = await _item(services, id)
        decision = services().policy.may("delete", item, by_person=False)
        # Outside of a request (execution.py) there is no client.
        able = context.protocol_version is not None and can_ask(context.client_capabilities)
        if decision.allowed or not decision.needs_person or not able:
            return Unasked()
        return Elicit(question(item), DeleteConsent)

    return ask


def question(item: Item) -> str:
    """Return what the person is shown: enough of the item to know it by, on one line."""
    text = printable(item.text, MAX_SHOWN_CHARACTERS)
    return (
        f"A model asks to delete a {item.preservation} memory for good, with its history. Item {item.id} "
        f"(version {item.version}) in {item.namespace}: “{text}”"
    )


def is_consent(outcome: ElicitationResult[Any]) -> bool:
    """Say whether a person was asked and said yes."""
    if not isinstance(outcome, AcceptedElicitation) or isinstance(outcome.data, Unasked):
        return False
    return isinstance(outcome.data, DeleteConsent) and outcome.data.delete


def was_asked(outcome: ElicitationResult[Any]) -> bool:
    """Say whether a person was asked at all."""
    return not (isinstance(outcome, AcceptedElicitation) and isinstance(outcome.data, Unasked))


async def _item(services: Callable[[], Services], id: str) -> Item:
    try:
        return await anyio.to_thread.run_sync(lambda: services().memory.get(id))
    except ToolkitError as error:
        raise ToolError(error_words(error)) from error
