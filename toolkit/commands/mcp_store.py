"""`toolkit mcp export`, `import`, `backup`, `reembed` and `check`: what a person does with a store as a whole."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import click

from toolkit.commands.mcp import model_options, policy_option, settings_of, store_option
from toolkit.commands.progress import say
from toolkit.errors import ToolkitError

if TYPE_CHECKING:
    from toolkit.mcp_server.settings import Services
    from toolkit.mcp_server.store import Store

_PATH = click.Path(path_type=Path)
OnConflict = Literal["skip", "replace", "refuse"]


@contextmanager
def opened(**options: Any) -> Iterator[Services]:
    """Open the store and what stands on it, for one command. Raises ToolkitError where there is no store yet."""
    from toolkit.mcp_server.settings import open_services

    settings = settings_of(**options)
    _must_exist(settings.store)
    services = open_services(settings)
    try:
        yield services
    finally:
        services.close()


@contextmanager
def opened_store(path: Path | None) -> Iterator[Store]:
    """Open the file alone. Raises ToolkitError where there is no store yet."""
    from toolkit.mcp_server.store import Store

    settings = settings_of(path)
    _must_exist(settings.store)
    store = Store(settings.store)
    try:
        yield store
    finally:
        store.close()


def _must_exist(path: Path) -> None:
    if not path.exists():
        hint = "It is made by the first client that stores something; --store names another one"
        raise ToolkitError("there is no memory here yet", where=path, hint=hint)


@click.command("init-policy", short_help="Write a policy to begin with.")
@click.argument("file", type=_PATH, required=False)
def init_policy(file: Path | None) -> None:
    """Write an example policy, every key explained, to FILE [default: where the server looks for it]."""
    from toolkit.atomic_files import write_atomic
    from toolkit.home import toolkit_home
    from toolkit.mcp_server.policy_file import example_policy
    from toolkit.mcp_server.settings import POLICY_NAME

    path = file or toolkit_home() / POLICY_NAME
    if path.exists():
        raise ToolkitError("there is a policy already; it was left as it is", where=path, hint="Name another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, example_policy())
    click.echo(str(path))
    say("read when a server starts; toolkit mcp serve --policy FILE takes it from elsewhere")


@click.command("export", short_help="Write the memory to JSON lines.")
@click.argument("file", type=_PATH)
@store_option
def export(file: Path, store: Path | None) -> None:
    """Write every item with its links and history to FILE, one JSON object a line. Documents are not in it."""
    from toolkit.mcp_server.exporting import export_jsonl

    with opened_store(store) as opened_file:
        done = export_jsonl(opened_file, file)
    say(f"{done.summary} in {file}")


@click.command("import", short_help="Read JSON lines into the memory.")
@click.argument("file", type=_PATH)
@click.option(
    "--on-conflict",
    type=click.Choice(get_args(OnConflict)),
    default="skip",
    show_default=True,
    help="An item that is there and differs: skip it, replace it (never a strict one), or refuse the whole file.",
)
@click.option("--dry-run", is_flag=True, help="Say what would happen; change nothing.")
@store_option
@policy_option
def import_command(file: Path, on_conflict: OnConflict, dry_run: bool, **options: Any) -> None:
    """Read what `toolkit mcp export` wrote. Everything is checked first: a faulty line changes nothing."""
    from toolkit.mcp_server.settings import open_services
    from toolkit.mcp_server.transfer import import_jsonl

    services = open_services(settings_of(**options, no_model=True))
    try:
        done = import_jsonl(services.store, services.memory, file, on_conflict, dry_run=dry_run)
    finally:
        services.close()
    say(done.summary)
    if done.kept:
        say("kept: strict items that differ from the file's; a person can delete them first: toolkit mcp delete ID")


@click.command("backup", short_help="Copy the store while others use it.")
@click.argument("file", type=_PATH)
@store_option
def backup(file: Path, store: Path | None) -> None:
    """Copy the whole store to FILE, while servers go on writing. The copy is checked before it takes its name.

    To go back, end all clients and put the copy in the store's place (without the files ending in -wal and -shm).
    """
    with opened_store(store) as opened_file:
        opened_file.backup(file)
    say(f"a checked copy is in {file}")


@click.command("check", short_help="Check the store, byte for byte.")
@store_option
def check(store: Path | None) -> None:
    """Check the file's structure, its references and its full-text index. Exit code 1 when something is wrong."""
    with opened_store(store) as opened_file:
        faults = opened_file.check()
        path = opened_file.path
    for fault in faults:
        click.echo(fault)
    if faults:
        say(f"{path} is damaged. Go back to a backup, or save what can be read: toolkit mcp export FILE")
        sys.exit(1)
    say(f"{path} is healthy")


@click.command("reembed", short_help="Embed everything again with another model.")
@store_option
@model_options[0]
def reembed(store: Path | None, model: Path | None) -> None:
    """Make the model given here the store's own and embed every passage with it. Stopped half-way, a server goes on."""
    from toolkit.mcp_server.embeddings import BackgroundEmbedder, load_embedder
    from toolkit.mcp_server.indexer import Indexer
    from toolkit.mcp_server.indexer import reembed as forget_vectors

    settings = settings_of(store, model=model)
    with opened_store(store) as opened_file:
        embedder = load_embedder(settings.model)
        waiting = forget_vectors(opened_file, embedder)
        say(f"{waiting} passages to embed with {embedder.name}")
        indexer = Indexer(opened_file, BackgroundEmbedder(embedder=embedder))
        done = indexer.flush(progress=lambda now, total: say(f"{now}/{total}"))
        indexer.close()
    say(f"{done} passages embedded")
