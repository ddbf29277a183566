"""The tools without a client, for data about memory operations: what a client would get, and repeatable."""

from __future__ import annotations

import itertools
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.mcp_server.conftest import call
from tests.mcp_server.stand_in import StandInEmbedder
from toolkit.mcp_server.execution import temporary_tools, tools_of
from toolkit.mcp_server.settings import Services


def test_a_call_without_a_client_is_answered_as_one_with_a_client(services: Services, notes: Path) -> None:
    with tools_of(services) as execute_tool:
        stored = execute_tool("memory_store", {"text": "The blue key opens the archive.", "preservation": "strict"})
        id = stored.content["id"]
        assert stored.content["outcome"] == "stored" and not stored.is_error
        read = execute_tool("memory_get", {"id": id})
        with_client = call(services, "memory_get", {"id": id})
        assert read.content["item"]["text"].replace(read.content["fence"], "F") == with_client["item"]["text"].replace(
            with_client["fence"], "F"
        )
        refused = execute_tool("memory_delete", {"id": id})
        assert refused.is_error and f"toolkit mcp delete {id}" in refused.text and refused.content == {}
        assert "did you mean 'text'" in execute_tool("memory_store", {"txt": "x"}).text
        assert execute_tool("no_such_tool", {}).is_error
        assert execute_tool("documents_ingest", {"path": str(notes)}).content["added"] == 2
        assert execute_tool("documents_search", {"query": "red door"}).content["results"]


def conversation() -> list[tuple[dict[str, Any], str]]:
    seconds, numbers = itertools.count(), itertools.count(1)
    nonces = (f"{number:024x}" for number in itertools.count(1))
    with temporary_tools(
        embedder=StandInEmbedder(),
        new_nonce=lambda: next(nonces),
        now=lambda: datetime(2026, 11, 28, tzinfo=UTC) + timedelta(seconds=next(seconds)),
        new_id=lambda moment: f"{next(numbers):026d}",
    ) as execute_tool:
        first = execute_tool("memory_store", {"text": "The blue key opens the archive.", "tags": ["keys"]})
        calls = [
            ("memory_store", {"text": "The red door is locked."}),
            ("memory_search", {"query": "which key", "mode": "text"}),
            ("memory_update", {"id": first.content["id"], "text": "The green key opens the archive."}),
            ("memory_history", {"id": first.content["id"]}),
            ("assemble_context", {"query": "archive", "token_budget": 300}),
        ]
        results = [first, *(execute_tool(name, arguments) for name, arguments in calls)]
    assert not any(result.is_error for result in results), [result.text for result in results]
    return [(result.content, result.text) for result in results]


def test_equal_calls_with_the_same_clock_ids_and_nonces_give_equal_answers() -> None:
    assert conversation() == conversation()


def test_the_guides_own_example_runs() -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "mcp.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    exec(compile(example, "docs/mcp.md", "exec"), {})
