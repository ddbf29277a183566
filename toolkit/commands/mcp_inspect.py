"""`toolkit mcp inspect`: start the server as a client does, speak MCP with it, and show what it answers."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import click

from toolkit.commands.mcp import server_options, settings_of
from toolkit.commands.progress import say
from toolkit.commands.tables import table
from toolkit.errors import JobFailed, ToolkitError

TIMEOUT_SECONDS = 60.0


@click.command("inspect", short_help="Start the server as a client would; list its tools.")
@click.option("--client", "client_name", help="Start what this client's configuration says (claude-desktop, …).")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="The client's file, if it is elsewhere.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@server_options
def inspect(client_name: str | None, config_file: Path | None, as_json: bool, **options: Any) -> None:
    """Start the server in a process of its own, connect as a client, list what it offers, ask for its health."""
    command, arguments, environment = _command(client_name, config_file, options)
    try:
        found = anyio.run(_ask, command, arguments, environment)
    except ToolkitError:
        raise
    except Exception as error:
        hint = "Its own words are above; run the command by hand to see more"
        raise JobFailed(f"the server did not answer: {_reason(error)}", where=command, hint=hint) from error
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    _show(found)


def _command(
    client_name: str | None, config_file: Path | None, options: dict[str, Any]
) -> tuple[str, list[str], dict[str, str]]:
    if client_name is None:
        words = ["-P", "-m", "toolkit", "mcp", "serve", *settings_of(**options).arguments()]
        return sys.executable, words, dict(os.environ)
    from toolkit.mcp_server.clients import CLIENTS, config_path, installed_entry

    client = CLIENTS.get(client_name)
    if client is None:
        raise click.UsageError(f"no such client: {client_name} (known: {', '.join(CLIENTS)})")
    path = config_file.expanduser() if config_file else Path(config_path(client))
    entry = installed_entry(client, path)
    if entry is None:
        hint = f"Type: toolkit mcp install --client {client.name}"
        raise ToolkitError(f"{client.title} does not know the server", where=path, hint=hint)
    # Only what the entry says and what a client passes on: so it shows what the client would see.
    return str(entry.get("command")), [str(word) for word in entry.get("args", [])], dict(entry.get("env", {}))


async def _ask(command: str, arguments: list[str], environment: dict[str, str]) -> dict[str, Any]:
    from mcp import Client, StdioServerParameters

    begun = time.perf_counter()
    parameters = StdioServerParameters(command=command, args=arguments, env=environment)
    with anyio.fail_after(TIMEOUT_SECONDS):
        async with Client(parameters) as client:
            seconds = time.perf_counter() - begun
            tools = (await client.list_tools()).tools
            resources = (await client.list_resources()).resources
            templates = (await client.list_resource_templates()).resource_templates
            prompts = (await client.list_prompts()).prompts
            health = await client.call_tool("health", {})
            return {
                "server": client.server_info.name if client.server_info else "",
                "version": client.server_info.version if client.server_info else "",
                "protocol": client.protocol_version,
                "handshake_seconds": round(seconds, 3),
                "tools": [_tool(tool) for tool in tools],
                "resources": [str(one.uri) for one in resources] + [one.uri_template for one in templates],
                "prompts": [prompt.name for prompt in prompts],
                "health": health.structured_content if not health.is_error else {"error": _text(health)},
            }


def _tool(tool: Any) -> dict[str, Any]:
    hints = tool.annotations
    return {
        "name": tool.name,
        "title": tool.title or "",
        "reads": bool(hints and hints.read_only_hint),
        "destroys": bool(hints and hints.destructive_hint),
        "repeats": bool(hints and hints.idempotent_hint),
    }


def _text(result: Any) -> str:
    return " ".join(getattr(block, "text", "") for block in result.content)


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, TimeoutError):
        return f"nothing within {TIMEOUT_SECONDS:.0f} s"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _show(found: dict[str, Any]) -> None:
    say(
        f"{found['server']} {found['version']}, protocol {found['protocol']}, answered after "
        f"{found['handshake_seconds']:.2f} s, the start of the process included"
    )
    rows = [("tool", "what it does", "changes things")]
    for tool in found["tools"]:
        kind = "no" if tool["reads"] else "may remove or replace" if tool["destroys"] else "adds"
        rows.append((tool["name"], tool["title"], kind))
    click.echo(table(rows))
    click.echo(f"resources: {', '.join(found['resources'])}")
    click.echo(f"prompts: {', '.join(found['prompts'])}")
    for key, value in found["health"].items():
        if value not in (None, [], {}, ""):
            click.echo(
                f"{key.replace('_', ' ')}: {value if not isinstance(value, list) else ', '.join(map(str, value))}"
            )
