"""`toolkit mcp install` and `uninstall`: edit a client's configuration, after saying what will change."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from toolkit.commands.mcp import server_options, settings_of
from toolkit.commands.progress import say
from toolkit.mcp_server.clients import (
    CLIENTS,
    SERVER_NAME,
    Change,
    Client,
    apply,
    config_path,
    entry_text,
    plan_install,
    plan_uninstall,
    project_path,
    server_entry,
)

_PATH = click.Path(path_type=Path)


def client_options(command: Any) -> Any:
    """Add the options that say which client, and which of its files."""
    options = (
        click.option(
            "--client", "client_name", type=click.Choice(list(CLIENTS)), required=True, help="The MCP client."
        ),
        click.option("--project", type=_PATH, help="For one project: the folder that you work in."),
        click.option(
            "--config", "config_file", type=_PATH, help="The client's file, where it is not at its usual place."
        ),
        click.option("--name", default=SERVER_NAME, show_default=True, help="What the client calls the server."),
        click.option("--dry-run", is_flag=True, help="Show what would change; change nothing."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command("install", short_help="Tell a client about the server.")
@client_options
@server_options
def install(
    client_name: str, project: Path | None, config_file: Path | None, name: str, dry_run: bool, **options: Any
) -> None:
    """Add the server to a client's configuration.

    Nothing else in the file changes, comments and order included; the old file is kept beside it. A file that is not
    valid is refused and left alone. Paths per client: docs/mcp.md.
    """
    client = CLIENTS[client_name]
    settings = settings_of(**options)
    home = os.environ.get("TOOLKIT_HOME")
    entry = server_entry(client, settings.arguments(), {"TOOLKIT_HOME": os.path.abspath(home)} if home else {})
    change = plan_install(client, _file(client, project, config_file), entry, name)
    if dry_run:
        click.echo(f"{change.path} would hold:\n{entry_text(client, entry, name)}")
    _carry_out(change, dry_run, f"{name} is in it already, just so")
    if change.is_needed and not dry_run:
        say(f"{client.restart}. To see the tools without it: toolkit mcp inspect --client {client.name}")


@click.command("uninstall", short_help="Take the server out of a client again.")
@client_options
def uninstall(client_name: str, project: Path | None, config_file: Path | None, name: str, dry_run: bool) -> None:
    """Take the server out of a client's configuration. The memory itself stays."""
    client = CLIENTS[client_name]
    change = plan_uninstall(client, _file(client, project, config_file), name)
    _carry_out(change, dry_run, f"{name} is not in it")


def _file(client: Client, project: Path | None, config_file: Path | None) -> Path:
    if project is not None and config_file is not None:
        raise click.UsageError("give --project or --config, not both")
    if config_file is not None:
        return config_file.expanduser()
    return project_path(client, project) if project is not None else Path(config_path(client))


def _carry_out(change: Change, dry_run: bool, nothing: str) -> None:
    if not change.is_needed:
        say(f"{change.path}: nothing to do, {nothing}")
    elif dry_run:
        say("dry run: nothing was changed")
    else:
        apply(change)
        click.echo(str(change.path))
        if change.backup is not None:
            say(f"the file as it was: {change.backup}")
