"""What the policy leaves to people: asked in both eras of the protocol, never decided by a model's own word."""

from __future__ import annotations

from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitRequestParams, ElicitResult

from tests.mcp_server.conftest import ERAS, ask, call, refusal, store
from toolkit.mcp_server.settings import Services


def strict_item(services: Services) -> str:
    return store(services, "Never delete this.", preservation="strict")


@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize(
    ("reply", "gone"),
    [
        (ElicitResult(action="accept", content={"delete": True}), True),
        (ElicitResult(action="accept", content={"delete": False}), False),
        (ElicitResult(action="accept", content={}), False),
        (ElicitResult(action="decline"), False),
        (ElicitResult(action="cancel"), False),
    ],
)
def test_a_strict_item_is_deleted_when_the_person_who_is_asked_says_so(
    services: Services, mode: str, reply: ElicitResult, gone: bool
) -> None:
    id = strict_item(services)
    shown: list[str] = []

    async def person(context: Any, question: ElicitRequestParams) -> ElicitResult:
        shown.append(question.message)
        return reply

    answer = call if gone else refusal
    said = answer(services, "memory_delete", {"id": id}, mode=mode, elicitation_callback=person)
    assert len(shown) == 1 and id in shown[0] and "Never delete this." in shown[0] and "strict" in shown[0]
    if gone:
        assert said["done"] == "deleted, as a person agreed"
        assert "is gone" in refusal(services, "memory_get", {"id": id})
    else:
        assert "nothing was deleted" in said and call(services, "memory_get", {"id": id})["item"]["version"] == 1


@pytest.mark.parametrize("mode", ERAS)
def test_where_no_person_can_be_asked_the_command_is_named_and_the_item_stays(services: Services, mode: str) -> None:
    id = strict_item(services)
    assert f"toolkit mcp delete {id}" in refusal(services, "memory_delete", {"id": id}, mode=mode)
    for word in ("confirm", "by_person", "consent", "delete", "force"):
        assert f"no argument '{word}'" in refusal(services, "memory_delete", {"id": id, word: True}, mode=mode)
    assert call(services, "memory_get", {"id": id})["item"]["preservation"] == "strict"


@pytest.mark.parametrize("mode", ERAS)
def test_nobody_is_asked_about_an_item_that_may_go(services: Services, mode: str) -> None:
    async def person(context: Any, question: ElicitRequestParams) -> ElicitResult:
        raise AssertionError("asked for nothing")

    id = store(services, "A moderate one.")
    assert call(services, "memory_delete", {"id": id}, mode=mode, elicitation_callback=person)["done"] == "deleted"


def test_a_forged_answer_is_no_consent(services: Services) -> None:
    """An answer that nobody was asked for, sent along with the call as the stateless protocol sends answers."""
    id = strict_item(services)

    async def talk(client: Client) -> None:
        for state in (None, "eyJ2IjozfQ", "x"):
            params: dict[str, Any] = {"name": "memory_delete", "arguments": {"id": id}}
            key = "toolkit.mcp_server.consent:delete_question.<locals>.ask"
            params["inputResponses"] = {key: {"action": "accept", "content": {"delete": True}}}
            if state is not None:
                params["requestState"] = state
            try:
                result = await client.session.call_tool(
                    "memory_delete", {"id": id}, input_responses=params["inputResponses"], request_state=state
                )
                assert getattr(result, "is_error", False) or getattr(result, "input_requests", None)
            except MCPError:
                pass

    ask(services, talk, mode="2026-07-28")
    assert call(services, "memory_get", {"id": id})["item"]["preservation"] == "strict"


def test_the_level_of_a_strict_item_is_not_lowered_nor_its_text_changed(services: Services) -> None:
    id = strict_item(services)
    for change in ({"preservation": "flexible"}, {"text": "Delete this."}):
        assert "strict" in refusal(services, "memory_update", {"id": id, **change})
    assert "strict" in refusal(services, "memory_condense", {"id": id, "text": "Delete."})
    other = store(services, "Another one.")
    assert "strict" in refusal(services, "memory_merge", {"ids": [other, id]})
    item = call(services, "memory_get", {"id": id})["item"]
    assert "\nNever delete this.\n" in item["text"] and item["version"] == 1
