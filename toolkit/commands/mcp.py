"""`toolkit mcp`: a local MCP server with memory and document search, and what a person does with its store.

The server has to answer a client within a second, so each command is imported when it is called.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.errors import ToolkitError

if TYPE_CHECKING:
    from toolkit.mcp_server.settings import ServerSettings


def _serve() -> click.Command:
    return serve


def _install() -> click.Command:
    from toolkit.commands.mcp_clients import install

    return install


def _uninstall() -> click.Command:
    from toolkit.commands.mcp_clients import uninstall

    return uninstall


def _inspect() -> click.Command:
    from toolkit.commands.mcp_inspect import inspect

    return inspect


def _search() -> click.Command:
    from toolkit.commands.mcp_items import search

    return search


def _list() -> click.Command:
    from toolkit.commands.mcp_items import list_command

    return list_command


def _show() -> click.Command:
    from toolkit.commands.mcp_items import show

    return show


def _delete() -> click.Command:
    from toolkit.commands.mcp_items import delete

    return delete


def _level() -> click.Command:
    from toolkit.commands.mcp_items import level

    return level


def _forget() -> click.Command:
    from toolkit.commands.mcp_items import forget

    return forget


def _ingest() -> click.Command:
    from toolkit.commands.mcp_documents import ingest

    return ingest


def _init_policy() -> click.Command:
    from toolkit.commands.mcp_store import init_policy

    return init_policy


def _export() -> click.Command:
    from toolkit.commands.mcp_store import export

    return export


def _import() -> click.Command:
    from toolkit.commands.mcp_store import import_command

    return import_command


def _backup() -> click.Command:
    from toolkit.commands.mcp_store import backup

    return backup


def _reembed() -> click.Command:
    from toolkit.commands.mcp_store import reembed

    return reembed


def _check() -> click.Command:
    from toolkit.commands.mcp_store import check

    return check


COMMANDS: dict[str, tuple[str, Callable[[], click.Command]]] = {
    "serve": ("Serve a client on stdin and stdout.", _serve),
    "install": ("Tell a client about the server.", _install),
    "uninstall": ("Take the server out of a client again.", _uninstall),
    "inspect": ("Start the server as a client would; list its tools.", _inspect),
    "search": ("Search the memory and the documents.", _search),
    "list": ("List the items of the memory.", _list),
    "show": ("Show one item and its history.", _show),
    "delete": ("Delete an item; strict ones too, after asking.", _delete),
    "level": ("Change how an item is preserved.", _level),
    "forget": ("Delete what is old or unused, as the policy allows.", _forget),
    "ingest": ("Read files and folders into the search.", _ingest),
    "init-policy": ("Write a policy to begin with.", _init_policy),
    "export": ("Write the memory to JSON lines.", _export),
    "import": ("Read JSON lines into the memory.", _import),
    "backup": ("Copy the store while others use it.", _backup),
    "reembed": ("Embed everything again with another model.", _reembed),
    "check": ("Check the store, byte for byte.", _check),
}


class McpGroup(click.Group):
    """The commands, imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which one meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        entry = COMMANDS.get(cmd_name)
        return entry[1]() if entry else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one may have been meant."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = get_close_matches(args[0], COMMANDS, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Commands: {', '.join(COMMANDS)}"
            raise ToolkitError(f"no such command: mcp {args[0]}", hint=hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (text, _) in COMMANDS.items()])


@click.group("mcp", cls=McpGroup, short_help="Memory and document search for MCP clients.")
def mcp() -> None:
    """Give any MCP client a memory and a document search on this computer (docs/mcp.md)."""


_PATH = click.Path(path_type=Path)

store_option = click.option(
    "--store",
    type=_PATH,
    help="The memory's file [default: memory.sqlite3 in TOOLKIT_HOME, else the user's data folder].",
)
policy_option = click.option(
    "--policy", type=_PATH, help="A policy in YAML [default: memory-policy.yaml in the same folder, if there is one]."
)
model_options = (
    click.option("--model", type=_PATH, help="A folder with the embedding model [default: found or downloaded once]."),
    click.option("--no-model", is_flag=True, help="Load no embedding model: search by words alone."),
)
root_option = click.option(
    "--root", "roots", multiple=True, type=_PATH, help="A folder that documents may be read from (repeat it for more)."
)


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what the server works with."""
    for option in reversed((store_option, policy_option, root_option, *model_options)):
        command = option(command)
    return command


def settings_of(
    store: Path | None = None,
    policy: Path | None = None,
    roots: tuple[Path, ...] = (),
    model: Path | None = None,
    no_model: bool = False,
) -> ServerSettings:
    """Turn the options into settings."""
    from toolkit.mcp_server.settings import resolve_settings

    return resolve_settings(store, policy, roots, model, embeds=not no_model)


@click.command("serve", short_help="Serve a client on stdin and stdout.")
@server_options
@click.option("--verbose", is_flag=True, help="Log every refused call too (to stderr; never stored text).")
def serve(verbose: bool, **options: Any) -> None:
    """Serve one MCP client on standard input and output until it closes them. Clients start this by themselves.

    Several servers may work on one store at once. Standard output belongs to the protocol; the log goes to stderr.
    """
    settings = settings_of(**options)
    gc.disable()  # imports make objects that stay; looking through them again and again is a tenth of the start
    from toolkit.mcp_server.server import serve as run

    gc.freeze()
    gc.enable()
    run(settings, verbose=verbose)
