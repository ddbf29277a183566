"""`toolkit mcp ingest`: read files and folders into the search, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from toolkit.commands.mcp import server_options, settings_of
from toolkit.commands.progress import say, stop_on_signal
from toolkit.errors import ToolkitError

MODEL_SECONDS = 120.0


@click.command("ingest", short_help="Read files and folders into the search.")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--namespace", help="The namespace that the documents go to [default: the policy's].")
@server_options
def ingest(path: Path, namespace: str | None, **options: Any) -> None:
    """Read PATH (Markdown, text, code, HTML, PDF, DOCX) into the search. Without --root, PATH itself is the root.

    Repeated, it reads only what has changed and removes what is gone.
    """
    from toolkit.mcp_server.settings import open_services

    options["roots"] = options["roots"] or (path if path.is_dir() else path.parent,)
    services = open_services(settings_of(**options))
    try:
        with stop_on_signal() as stop:
            chosen = services.policy.namespace_for(namespace)
            done = services.documents.ingest(path.absolute(), namespace=chosen, progress=_progress, cancelled=stop)
            if services.settings.embeds and services.embedder.wait(MODEL_SECONDS) is not None:
                services.indexer.flush(progress=lambda now, total: say(f"embedded {now}/{total}"), cancelled=stop)
    finally:
        services.close()
    for skipped, reason in done.skipped:
        say(f"skipped {skipped}: {reason}")
    say(f"{done.added} added, {done.changed} changed, {done.unchanged} unchanged, {done.removed} removed")
    if services.settings.embeds and services.embedder.error:
        raise ToolkitError(services.embedder.error, hint="The documents are found by their words meanwhile")


def _progress(done: int, total: int) -> None:
    if done % 100 == 0 or done == total:
        say(f"read {done}/{total} files")
