"""The server as a process of its own, over real pipes, with clients that we did not write and one by hand."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from mcp import Client, StdioServerParameters

from tests.mcp_server.wire_client import MODERN, WireClient, server_command, server_environment

OLDER_CLIENT = "mcp==1.30.0"
INSPECTOR = "@modelcontextprotocol/inspector@2.12.0"
HANDSHAKES = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]


@asynccontextmanager
async def sdk_client(*arguments: object, **options: Any) -> AsyncIterator[Client]:
    """The official client over the pipes of a server process."""
    command, *words = server_command(*arguments)
    parameters = StdioServerParameters(command=command, args=words, env=server_environment())
    async with Client(parameters, **options) as client:
        yield client


def server_pids() -> list[int]:
    """Return the servers that this process has started."""
    return [child.pid for child in psutil.Process().children() if "serve" in child.cmdline()]


async def answer(client: Client, tool: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments or {})
    assert not result.is_error, result.content
    return result.structured_content or {}


# --- the handshake ---


def test_the_handshake_waits_for_neither_the_store_nor_the_model(tmp_path: Path) -> None:
    """The store is a pipe that nobody writes to: opening it would wait for ever."""
    probe = (
        "import sys, threading\n"
        "from toolkit.mcp_server import server, settings\n"
        "opened = threading.Event()\n"
        "def never(*_, **__):\n    opened.set()\n    threading.Event().wait()\n"
        "server.open_services = never\n"
        "heavy = ('torch', 'numpy', 'sentence_transformers', 'usearch', 'transformers')\n"
        "print('LOADED', [name for name in heavy if name in sys.modules], file=sys.stderr, flush=True)\n"
        "server.Opening.close = lambda self: None\n"
        f"server.serve(settings.ServerSettings(__import__('pathlib').Path({str(tmp_path / 'm.sqlite3')!r})))\n"
    )
    with WireClient(command=[sys.executable, "-c", probe]) as client:
        assert client.shake_hands()["serverInfo"]["name"] == "toolkit"
        assert len(client.request("tools/list")["result"]["tools"]) == 19
        client.close()
        assert "LOADED []" in client.stderr()


@pytest.mark.slow
def test_the_handshake_costs_less_than_a_second_from_the_start_of_the_process(tmp_path: Path) -> None:
    """Counted in the process's own time, which other jobs on the same cores do not lengthen."""
    walls, costs = [], []
    for _ in range(5):
        with WireClient("--store", tmp_path / "m.sqlite3") as client:
            client.shake_hands()
            walls.append(time.perf_counter() - client.started)
            times = psutil.Process(client.process.pid).cpu_times()
            costs.append(times.user + times.system)
            client.kill()
    logging.getLogger(__name__).warning("handshakes: %s s, of which computing: %s s", sorted(walls), sorted(costs))
    assert sorted(costs)[1] < 1.0, costs


# --- both eras of the protocol ---


@pytest.mark.slow
def test_every_version_of_the_protocol_is_served(tmp_path: Path) -> None:
    store = tmp_path / "m.sqlite3"
    for version in HANDSHAKES:
        with WireClient("--store", store, "--no-model") as client:
            assert client.shake_hands(version)["protocolVersion"] == version
            said = client.call("memory_store", {"text": f"written over {version}"})
            assert json.loads(said["content"][0]["text"])["outcome"] == "stored"
            assert client.close() == 0
    with WireClient("--store", store, "--no-model") as client:
        found = client.modern("server/discover")["result"]
        assert MODERN in found["supportedVersions"]
        listed = client.modern("tools/call", {"name": "memory_list", "arguments": {}})["result"]
        texts = "".join(item["text"] for item in listed["structuredContent"]["items"])
        assert all(f"written over {version}" in texts for version in HANDSHAKES)
        assert client.close() == 0
    with WireClient("--store", store, "--no-model") as client:
        assert client.shake_hands("1999-01-01")["protocolVersion"] == HANDSHAKES[-1], "an unknown one gets the newest"


@pytest.mark.slow
def test_a_person_is_asked_over_the_wire_in_both_eras(tmp_path: Path) -> None:
    store = tmp_path / "m.sqlite3"
    strict = {"text": "Keep this.", "preservation": "strict"}
    with WireClient("--store", store, "--no-model") as client:
        client.shake_hands(capabilities={"elicitation": {}})
        id = client.call("memory_store", strict)["structuredContent"]["id"]
        client.begin("tools/call", {"name": "memory_delete", "arguments": {"id": id}})
        question = client.receive()
        assert question["method"] == "elicitation/create" and "Keep this." in question["params"]["message"]
        client.send(
            {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {"delete": True}}}
        )
        assert client.receive()["result"]["structuredContent"]["done"] == "deleted, as a person agreed"
    with WireClient("--store", store, "--no-model") as client:
        able = {"elicitation": {}}
        kept = client.modern("tools/call", {"name": "memory_store", "arguments": strict}, able)["result"]
        asked = {"name": "memory_delete", "arguments": {"id": kept["structuredContent"]["id"]}}
        pending = client.modern("tools/call", asked, able)["result"]
        assert pending["resultType"] == "input_required"
        (key,) = pending["inputRequests"]
        yes = {key: {"action": "accept", "content": {"delete": True}}}
        forged = client.modern("tools/call", {**asked, "inputResponses": yes}, able)
        assert forged["result"]["resultType"] == "input_required", "an answer to a question that was not put"
        tampered = {**asked, "inputResponses": yes, "requestState": pending["requestState"][:-4] + "AAAA"}
        assert "error" in client.modern("tools/call", tampered, able)
        answered = {**asked, "inputResponses": yes, "requestState": pending["requestState"]}
        done = client.modern("tools/call", answered, able)["result"]
        assert done["structuredContent"]["done"] == "deleted, as a person agreed"


# --- crashes and company ---


@pytest.mark.slow
def test_what_was_acknowledged_survives_a_kill_and_two_servers_see_each_others_writes(tmp_path: Path) -> None:
    store = tmp_path / "m.sqlite3"
    with WireClient("--store", store, "--no-model") as one, WireClient("--store", store, "--no-model") as two:
        one.shake_hands()
        two.shake_hands()
        for number in range(20):
            server = (one, two)[number % 2]
            assert not server.call("memory_store", {"text": f"shared fact {number}"})["isError"]
        one.begin("tools/call", {"name": "memory_store", "arguments": {"text": "half-way"}})
        one.kill()
        found = two.call("memory_list", {"limit": 100})["structuredContent"]["items"]
        texts = "".join(item["text"] for item in found)
        assert all(f"shared fact {number}\n" in texts for number in range(20))
        assert not two.call("memory_store", {"text": "after the crash of the other"})["isError"]
        assert two.close() == 0
    checked = subprocess.run(
        [sys.executable, "-m", "toolkit", "mcp", "check", "--store", str(store)],
        capture_output=True,
        text=True,
        env=server_environment(),
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_told_to_end_ends(tmp_path: Path, number: signal.Signals) -> None:
    with WireClient("--store", tmp_path / "m.sqlite3", "--no-model") as client:
        client.shake_hands()
        client.call("memory_store", {"text": "x"})
        os.kill(client.process.pid, number)
        client.process.wait(10)
        assert "Traceback" not in client.stderr()


# --- found by meaning, after a crash ---


@pytest.mark.slow
def test_stored_then_killed_then_restarted_then_found_by_meaning_with_the_real_model(tmp_path: Path) -> None:
    facts = [
        "Our physician's practice is closed on Wednesday afternoons.",
        "The car's next inspection is due in spring.",
        "Grandmother cannot eat hazelnuts.",
    ]

    async def remember() -> None:
        async with sdk_client("--store", tmp_path / "m.sqlite3") as client:
            for fact in facts:
                await answer(client, "memory_store", {"text": fact})
            (pid,) = server_pids()
            os.kill(pid, signal.SIGKILL)

    async def recall() -> None:
        async with sdk_client("--store", tmp_path / "m.sqlite3") as client:
            early = await answer(client, "memory_search", {"query": "hazelnuts"})
            assert "Grandmother" in early["results"][0]["text"], "full text answers while the model loads"
            with anyio.fail_after(120):
                while True:
                    health = await answer(client, "health")
                    if health["model_state"] == "ready" and health["waiting_for_embedding"] == 0:
                        break
                    assert health["model_state"] != "failed", health
                    await anyio.sleep(0.2)
            # No word of the question stands in the fact.
            for question, fact in (("doctor opening hours", facts[0]), ("allergy to nuts", facts[2])):
                found = await answer(client, "memory_search", {"query": question, "limit": 1})
                assert found["mode"] == "hybrid" and fact in found["results"][0]["text"], (question, found)
                words = await answer(client, "memory_search", {"query": question, "mode": "text"})
                assert not any(fact in hit["text"] for hit in words["results"]), "words alone would have found it"

    try:
        anyio.run(remember)
    except BaseExceptionGroup:
        pass  # the client notices that its server is gone
    assert server_pids() == []
    anyio.run(recall)


# --- clients that we did not write ---

OLD_CLIENT_CODE = """
import asyncio, json, sys
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
import importlib.metadata, os

async def main():
    environment = dict(os.environ, PYTHONPATH=os.environ["SERVER_PATH"])
    parameters = StdioServerParameters(command=sys.argv[1], args=sys.argv[2:], env=environment)
    async with stdio_client(parameters) as (read, write), ClientSession(read, write) as session:
        hello = await session.initialize()
        tools = await session.list_tools()
        stored = await session.call_tool("memory_store", {"text": "The blue key opens the archive."})
        found = await session.call_tool("memory_search", {"query": "blue key"})
        print(json.dumps({
            "client": importlib.metadata.version("mcp"), "protocol": hello.protocolVersion, "tools": len(tools.tools),
            "outcome": stored.structuredContent["outcome"], "text": found.structuredContent["results"][0]["text"],
        }))

asyncio.run(main())
"""


@pytest.mark.slow
def test_an_older_client_of_the_first_sdk_works(tmp_path: Path) -> None:
    library = tmp_path / "old"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(library), OLDER_CLIENT]
    installed = subprocess.run(pip, capture_output=True, text=True)
    assert (library / "mcp").is_dir(), installed.stderr
    environment = server_environment()
    environment["SERVER_PATH"] = environment["PYTHONPATH"]
    environment["PYTHONPATH"] = str(library)
    words = server_command("--store", tmp_path / "m.sqlite3", "--no-model")
    ran = subprocess.run(
        [sys.executable, "-c", OLD_CLIENT_CODE, *words], capture_output=True, text=True, env=environment, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["client"] == "1.30.0" and found["protocol"] == "2025-11-25"
    assert found["tools"] == 19 and found["outcome"] == "stored" and "The blue key" in found["text"]


@pytest.mark.slow
def test_the_inspector_finds_nothing_against_the_schemas_and_gets_answers(tmp_path: Path) -> None:
    npm = shutil.which("npm")
    assert npm, "npm is needed for the tests marked slow"
    (tmp_path / "package.json").write_text("{}")
    installed = subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", INSPECTOR],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert installed.returncode == 0, installed.stderr
    tool = [str(tmp_path / "node_modules" / ".bin" / "mcp-inspector"), "--cli"]
    words = server_command("--store", tmp_path / "m.sqlite3", "--no-model")

    def inspect(*arguments: str) -> dict[str, Any]:
        ran = subprocess.run(
            [*tool, *words, *arguments], capture_output=True, text=True, env=server_environment(), timeout=120
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return json.loads(ran.stdout)

    listed = inspect("--method", "tools/list", "--strict")
    assert len(listed["tools"]) == 19
    stored = inspect("--method", "tools/call", "--tool-name", "memory_store", "--tool-arg", "text=The blue key")
    assert stored["structuredContent"]["outcome"] == "stored"
    assert inspect("--method", "prompts/list")["prompts"][0]["name"] == "context_for_task"
    uri = f"memory://items/{stored['structuredContent']['id']}"
    assert "The blue key" in inspect("--method", "resources/read", "--uri", uri)["contents"][0]["text"]
