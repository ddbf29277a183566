"""Calls drawn from the tools' own schemas, fitting and not: nothing crashes, and nothing that was kept is lost.

`FUZZ_CALLS=10000 pytest tests/mcp_server/test_fuzz.py -m slow` is the recorded run; CI makes 1,000.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import jsonschema
import pytest
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st
from mcp import Client

from tests.mcp_server.conftest import server_of
from tests.mcp_server.tool_inputs import arguments, with_ids
from toolkit.mcp_server.settings import Services

STRICT = "Never delete, alter or leave out this one."
CALLS_IN_A_ROW = 20


class Survivors:
    """What has to be there still, after any number of calls."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.strict = {}
        for number in range(3):
            text = f"{STRICT} It is number {number}."
            self.strict[services.memory.store(text, preservation="strict").item.id] = text

    def ids(self) -> list[str]:
        """Return ids that a call may be about: mostly the strict items'."""
        others = [item.id for item in self.services.memory.list(limit=20).items]
        return [*self.strict, *others]

    def check(self) -> None:
        for id, text in self.strict.items():
            item = self.services.memory.get(id)
            assert item.text == text and item.preservation == "strict"
        with self.services.store.reading() as connection:
            strict = connection.execute("SELECT count(*) FROM items WHERE preservation = 'strict'").fetchone()[0]
        assert strict >= len(self.strict)


async def one_call(client: Client, tool: Any, given_arguments: dict[str, Any], outcomes: Counter[str]) -> None:
    """Make a call; it answers by the tool's own schema or refuses in words."""
    with anyio.fail_after(30):
        result = await client.call_tool(tool.name, given_arguments)
    words = "".join(getattr(block, "text", "") for block in result.content)
    assert len(words) < 200_000, f"{tool.name} answered {len(words)} characters"
    if not result.is_error:
        jsonschema.validate(result.structured_content, tool.output_schema)
        outcomes[f"{tool.name} answered"] += 1
        return
    crashed = re.fullmatch(rf"Error executing tool {tool.name}", words)
    assert not crashed and "Traceback" not in words, (tool.name, given_arguments, words)
    outcomes[f"{tool.name} refused"] += 1


def fuzz(services: Services, calls: int) -> Counter[str]:
    """Make about `calls` calls, from a fixed seed, with one client after the other; return what came of them."""
    outcomes: Counter[str] = Counter()
    survivors = Survivors(services)

    async def listed() -> list[Any]:
        async with Client(server_of(services)) as client:
            return (await client.list_tools()).tools

    tools = anyio.run(listed)

    @seed(20261128)
    @settings(
        max_examples=max(1, calls // CALLS_IN_A_ROW),
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def run(data: st.DataObject) -> None:
        drawn = [data.draw(st.sampled_from(tools)) for _ in range(CALLS_IN_A_ROW)]
        made = [(tool, data.draw(arguments(tool.input_schema))) for tool in drawn]
        ids = survivors.ids()
        inputs = [(tool, with_ids(values, ids)) for tool, values in made]

        async def talk() -> None:
            async with Client(server_of(services), mode="legacy") as client:
                for tool, values in inputs:
                    await one_call(client, tool, values, outcomes)

        anyio.run(talk)
        survivors.check()

    run()
    assert services.store.check() == []
    return outcomes


def test_100_calls_drawn_from_the_schemas_neither_crash_nor_lose_anything(services: Services, notes: Path) -> None:
    outcomes = fuzz(services, 100)
    assert sum(outcomes.values()) >= 90 and any(name.endswith("answered") for name in outcomes)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_calls_drawn_from_the_schemas_neither_crash_nor_lose_anything(services: Services, notes: Path) -> None:
    calls = int(os.environ.get("FUZZ_CALLS", "1000"))
    outcomes = fuzz(services, calls)
    assert sum(outcomes.values()) >= 0.9 * calls
    called = {name.split()[0] for name in outcomes}
    answered = {name.split()[0] for name in outcomes if name.endswith("answered")}
    # Ids drawn are mostly those of strict items, which most of the tools that change something refuse.
    assert len(called) == 19 and len(answered) >= 12, f"too few tools were reached: {outcomes}"
