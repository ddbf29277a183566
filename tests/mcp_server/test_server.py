"""The tools as a client sees them: schemas, annotations, answers, errors, consent, progress, cancellation."""

from __future__ import annotations

import json
import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import jsonschema
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError

from tests.mcp_server.conftest import ERAS, ask, call, refusal, store
from toolkit.mcp_server import answers
from toolkit.mcp_server.server import build_server
from toolkit.mcp_server.settings import Services

ROOT = Path(__file__).resolve().parents[2]
READING = {
    "memory_get", "memory_list", "memory_history", "memory_related", "memory_search", "assemble_context",
    "explain_policy", "documents_search", "documents_list", "health",
}  # fmt: skip
DESTROYING = {
    "memory_update", "memory_condense", "memory_merge", "memory_delete", "memory_unlink", "documents_ingest",
    "documents_remove",
}  # fmt: skip
ADDING = {"memory_store", "memory_link"}


def tools(services: Services) -> list[Any]:
    return ask(services, lambda client: client.list_tools()).tools


def test_every_tool_says_whether_it_changes_or_removes_anything(services: Services) -> None:
    hints = {tool.name: tool.annotations for tool in tools(services)}
    assert set(hints) == READING | DESTROYING | ADDING
    assert {name for name, hint in hints.items() if hint.read_only_hint} == READING
    assert {name for name, hint in hints.items() if hint.destructive_hint} == DESTROYING
    assert not hints["memory_merge"].idempotent_hint and hints["memory_store"].idempotent_hint
    assert not any(hint.open_world_hint for hint in hints.values()), "nothing leaves the computer"


def test_every_tool_has_schemas_titles_and_descriptions_that_a_model_can_read(services: Services) -> None:
    for tool in tools(services):
        jsonschema.Draft202012Validator.check_schema(tool.input_schema)
        jsonschema.Draft202012Validator.check_schema(tool.output_schema)
        assert tool.input_schema["additionalProperties"] is False, tool.name
        assert tool.title and 20 < len(tool.description) < 500 and "\n" not in tool.description, tool.name
        for name, part in tool.input_schema["properties"].items():
            words = json.dumps(part)
            assert "description" in words or "default" in words, f"{tool.name}.{name} explains nothing"
            for text in re.findall(r'\{[^{}]*"type": "string"[^{}]*\}', words):
                bounded = "maxLength" in text or "enum" in text or "date-time" in text
                assert bounded, f"{tool.name}.{name} takes text without a bound"


def test_the_guide_lists_the_tools_as_they_are(services: Services) -> None:
    guide = (ROOT / "docs" / "mcp.md").read_text("utf-8")
    table = re.search(r"<!-- tools:begin[^\n]*-->\n(.*?)<!-- tools:end -->", guide, re.DOTALL)
    assert table is not None and table[1] == tool_table(tools(services)), "python -m tests.mcp_server.test_server"


def tool_table(listed: list[Any]) -> str:
    rows = ["| Tool | What it does | Changes |", "| --- | --- | --- |"]
    for tool in listed:
        kind = "nothing" if tool.annotations.read_only_hint else "may remove or replace"
        kind = "adds" if not tool.annotations.read_only_hint and not tool.annotations.destructive_hint else kind
        rows.append(f"| `{tool.name}` | {tool.description} | {kind} |")
    return "\n".join(rows) + "\n"


@pytest.mark.parametrize("mode", ERAS)
def test_what_is_stored_is_found_read_changed_and_deleted(services: Services, mode: str) -> None:
    stored = call(services, "memory_store", {"text": "The blue key opens the archive.", "tags": ["keys"]}, mode=mode)
    assert stored["outcome"] == "stored" and stored["preservation"] == "moderate"
    found = call(services, "memory_search", {"query": "archive key"}, mode=mode)
    assert [hit["id"] for hit in found["results"]] == [stored["id"]]
    assert found["results"][0]["tags"] == ["keys"] and found["results"][0]["preservation"] == "moderate"
    read = call(services, "memory_get", {"id": stored["id"]}, mode=mode)
    nonce = read["fence"]
    assert f"\nThe blue key opens the archive.\n<<<end {nonce}>>>" in read["item"]["text"]
    changed = call(services, "memory_update", {"id": stored["id"], "text": "The green key does."}, mode=mode)
    assert changed["version"] == 2
    history = call(services, "memory_history", {"id": stored["id"]}, mode=mode)
    assert "The blue key opens the archive." in history["versions"][0]["text"]
    assert call(services, "memory_list", {}, mode=mode)["items"][0]["version"] == 2
    assert call(services, "memory_delete", {"id": stored["id"]}, mode=mode)["done"] == "deleted"
    assert "is gone" in refusal(services, "memory_get", {"id": stored["id"]}, mode=mode)


def test_the_same_text_is_kept_once_and_says_so(services: Services) -> None:
    first = store(services, "Water boils at 100 °C.")
    again = call(services, "memory_store", {"text": "Water boils at 100 °C."})
    assert again["outcome"] == "exists" and again["id"] == first


def test_structured_answers_fit_their_schemas_and_stand_as_text_too(services: Services) -> None:
    id = store(services, "A fact.", metadata={"a": [1, {"b": None}]})
    other = store(services, "Something else entirely.")
    calls = {
        "memory_get": {"id": id},
        "memory_list": {},
        "memory_search": {"query": "fact"},
        "memory_link": {"source_id": id, "target_id": other, "relation": "about"},
        "memory_related": {"id": id},
        "memory_history": {"id": id},
        "assemble_context": {"query": "fact", "token_budget": 500},
        "explain_policy": {},
        "documents_list": {},
        "health": {},
    }
    schemas = {tool.name: tool.output_schema for tool in tools(services)}

    async def talk(client: Client) -> None:
        for name, arguments in calls.items():
            result = await client.call_tool(name, arguments)
            assert not result.is_error, (name, result.content)
            jsonschema.validate(result.structured_content, schemas[name])
            assert json.loads(getattr(result.content[0], "text", "")) == result.structured_content, name

    ask(services, talk)


def test_arguments_that_there_are_not_are_refused_with_the_nearest_name(services: Services) -> None:
    assert "did you mean 'namespace'" in refusal(services, "memory_list", {"namespaces": ["x"]})
    assert "the argument 'text' is missing" in refusal(services, "memory_store", {})
    words = refusal(services, "memory_store", {"text": "x" * 200_000})
    assert "at most" in words and "xxx" not in words, "a value is not repeated"
    assert refusal(services, "no_such_tool").startswith("Unknown tool")


def test_a_text_that_is_json_stays_text_and_lists_written_as_text_are_read(services: Services) -> None:
    id = store(services, '{"not": "parsed"}', tags='["a", "b"]', metadata='{"k": 1}')
    item = call(services, "memory_get", {"id": id})["item"]
    assert '\n{"not": "parsed"}\n' in item["text"] and item["tags"] == ["a", "b"] and item["metadata"] == {"k": 1}
    call(services, "memory_update", {"id": id, "text": "[1, 2]"})
    assert "\n[1, 2]\n" in call(services, "memory_get", {"id": id})["item"]["text"]


def test_a_namespace_that_the_policy_does_not_know_is_refused_with_those_that_it_does(services: Services) -> None:
    words = refusal(services, "memory_store", {"text": "x", "namespace": "defualt"})
    assert "defualt" in words and "default" in words.replace("defualt", "")


# --- bounds ---


def test_lists_are_bounded_and_their_cursor_leads_to_every_item_once(services: Services) -> None:
    ids = {
        store(services, f"{number} " + chr(97 + number % 26) * 3000, metadata={"pad": "y" * 2000})
        for number in range(30)
    }
    seen: list[str] = []
    cursor, pages = None, 0
    while pages == 0 or cursor is not None:
        page = call(services, "memory_list", {"limit": 100, "cursor": cursor})
        assert len(json.dumps(page)) < 2 * answers.MAX_ANSWER_CHARACTERS
        assert all(not item["complete"] and item["characters"] > 3000 for item in page["items"])
        seen += [item["id"] for item in page["items"]]
        cursor, pages = page["next_cursor"], pages + 1
    assert pages > 1 and len(seen) == 30 and set(seen) == ids
    assert "cursor" in refusal(services, "memory_list", {"cursor": "made up"})


def test_a_long_item_is_read_in_pieces_that_make_the_whole(services: Services) -> None:
    text = "".join(f"line {number}\n" for number in range(7000))
    id = store(services, text)
    pieces, offset = "", 0
    while offset is not None:
        answer = call(services, "memory_get", {"id": id, "offset": offset})
        body = answer["item"]["text"].partition("\n")[2].removesuffix(f"\n<<<end {answer['fence']}>>>")
        pieces, offset = pieces + body, answer["next_offset"]
    assert pieces == text


def test_a_search_leaves_out_what_would_not_fit_and_says_how_much(services: Services) -> None:
    for number in range(40):
        services.memory.store(f"archive {number} " + " ".join(f"w{number}x{word}" for word in range(150)))
    found = call(services, "memory_search", {"query": "archive", "limit": 50})
    assert len(json.dumps(found)) < 2 * answers.MAX_ANSWER_CHARACTERS
    assert found["left_out"] > 0 and found["results"]


# --- resources and prompts ---


def test_items_and_documents_are_resources(services: Services, notes: Path) -> None:
    id = store(services, "The blue key opens the archive.")
    call(services, "documents_ingest", {"path": str(notes)})
    document = call(services, "documents_list", {})["documents"][0]

    async def talk(client: Client) -> None:
        listed = await client.list_resources()
        assert [str(one.uri) for one in listed.resources] == ["memory://policy"]
        templates = await client.list_resource_templates()
        assert {one.uri_template for one in templates.resource_templates} == {"memory://items/{id}", "document://{id}"}
        item = (await client.read_resource(f"memory://items/{id}")).contents[0]
        assert "\nThe blue key opens the archive.\n<<<end " in item.text
        policy = (await client.read_resource("memory://policy")).contents[0]
        assert json.loads(policy.text)["default_namespace"] == "default"
        read = (await client.read_resource(f"document://{document['id']}")).contents[0]
        assert "<<<untrusted " in read.text and document["path"] in read.text
        for absent in ("memory://items/none", "document://none", "document://..%2F..%2Fetc", "memory://x"):
            with pytest.raises(MCPError):
                await client.read_resource(absent)

    ask(services, talk)


def test_the_prompt_puts_what_is_known_before_the_task(services: Services) -> None:
    store(services, "Deploy only on Mondays.", preservation="strict")

    async def talk(client: Client) -> str:
        prompt = await client.get_prompt("context_for_task", {"task": "Deploy the site", "token_budget": "500"})
        with pytest.raises(MCPError, match="whole number"):
            await client.get_prompt("context_for_task", {"task": "x", "token_budget": "many"})
        return prompt.messages[0].content.text

    text = ask(services, talk)
    assert text.index("\nDeploy only on Mondays.\n") < text.index("The task: Deploy the site")


def test_a_context_holds_strict_items_first_and_says_what_was_left_out(services: Services) -> None:
    rule = store(services, "Deploy only on Mondays.", preservation="strict")
    for number in range(30):
        services.memory.store(f"Deployment note {number}: the site was deployed by person {number} without trouble.")
    context = call(services, "assemble_context", {"query": "deploy the site", "token_budget": 400})
    assert context["parts"][0]["id"] == rule and context["tokens"] <= 400
    assert context["left_out_count"] > 0 and context["left_out"][0]["reason"]
    assert context["text"].count(f"<<<end {context['fence']}>>>") == len(context["parts"])


# --- many at once ---


def test_calls_run_beside_each_other_on_threads(services: Services) -> None:
    reached = threading.Barrier(4, timeout=20)
    original = services.memory.get

    def slow(id: str) -> Any:
        reached.wait()
        return original(id)

    id = store(services, "x")
    object.__setattr__(services.memory, "get", slow)

    async def talk(client: Client) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(client.call_tool, "memory_get", {"id": id})

    ask(services, talk)
    assert not reached.broken


def test_a_store_that_could_not_be_opened_is_said_by_every_tool_until_it_can_be(tmp_path: Path) -> None:
    from toolkit.mcp_server.settings import Opening, ServerSettings, open_services

    path = tmp_path / "broken.sqlite3"
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    opening = Opening(lambda: open_services(ServerSettings(path, embeds=False)))

    async def run() -> None:
        async with Client(build_server(opening)) as client:
            for _ in range(2):
                result = await client.call_tool("health", {})
                assert result.is_error and "not a memory file" in getattr(result.content[0], "text", "")
            path.unlink()
            assert not (await client.call_tool("health", {})).is_error

    anyio.run(run)
    opening.close()


def test_what_is_due_is_forgotten_when_a_server_starts(tmp_path: Path) -> None:
    from toolkit.mcp_server import server
    from toolkit.mcp_server.settings import ServerSettings, open_services

    settings = ServerSettings(tmp_path / "m.sqlite3", embeds=False)
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    before = open_services(settings, now=lambda: long_ago)
    before.memory.store("Over soon.", preservation="flexible", expires_at=long_ago + timedelta(days=1))
    kept = before.memory.store("Kept.", preservation="moderate").item.id
    before.close()
    services = server._open(settings)
    try:
        with services.store.reading() as connection:
            assert [row[0] for row in connection.execute("SELECT id FROM items")] == [kept]
    finally:
        services.close()


if __name__ == "__main__":  # python -m tests.mcp_server.test_server: writes the table into the guide
    server = build_server(lambda: pytest.fail("no tool is called"))
    page = ROOT / "docs" / "mcp.md"
    made = tool_table(anyio.run(server.list_tools))
    text = page.read_text("utf-8")
    text = re.sub(
        r"(<!-- tools:begin[^\n]*-->\n).*?(<!-- tools:end -->)", lambda m: m[1] + made + m[2], text, flags=re.DOTALL
    )
    page.write_text(text, "utf-8")
