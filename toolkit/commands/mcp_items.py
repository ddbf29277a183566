"""`toolkit mcp search`, `list`, `show`, `delete` and `forget`: what a person does with what is remembered."""

from __future__ import annotations

import json
import re
import sys
from datetime import timedelta
from typing import Any

import click

from toolkit.commands.mcp import model_options, policy_option, store_option
from toolkit.commands.mcp_store import opened
from toolkit.commands.progress import say
from toolkit.commands.tables import table
from toolkit.errors import ToolkitError
from toolkit.preservation import PRESERVATION_LEVELS, Preservation

UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1), "y": timedelta(days=365)}
MODEL_SECONDS = 60.0


class Duration(click.ParamType):
    """A time such as `90d`, `12h`, `6w` or `1y`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a timedelta."""
        found = re.fullmatch(r"(\d{1,5})([hdwy])", str(value).strip())
        if found is None:
            self.fail(f"{value!r} is not a time such as 90d, 12h, 6w or 1y", param, ctx)
        return int(found[1]) * UNITS[found[2]]


@click.command("search", short_help="Search the memory and the documents.")
@click.argument("query")
@click.option("--limit", type=click.IntRange(1, 50), default=10, show_default=True, help="How many results at most.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@store_option
@policy_option
@model_options[0]
@model_options[1]
def search(query: str, limit: int, as_json: bool, **options: Any) -> None:
    """Search by words and meaning, as clients do. `--no-model` searches by words alone, at once."""
    with opened(**options) as services:
        if services.settings.embeds:
            services.embedder.wait(MODEL_SECONDS)
        found = services.search.find(query, limit=limit)
    for note in found.notes:
        say(note)
    if as_json:
        keys = ("kind", "owner_id", "namespace", "text", "heading", "start_line", "end_line", "score", "similarity")
        rows = [{key: getattr(hit, key) for key in keys} for hit in found.hits]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for hit in found.hits:
        lines = f":{hit.start_line}" if hit.start_line else ""
        click.echo(f"{hit.kind} {hit.owner_id}{lines} ({hit.namespace})\n  {_one_line(hit.text)}")
    if not found.hits:
        say("nothing was found")


@click.command("list", short_help="List the items of the memory.")
@click.option("--namespace", help="Items of this namespace.")
@click.option("--tag", "tags", multiple=True, help="Items that have this tag (repeat it: all of them).")
@click.option("--preservation", type=click.Choice(PRESERVATION_LEVELS), help="Items of this level.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many at most.")
@store_option
@policy_option
def list_command(namespace: str | None, tags: tuple[str, ...], preservation: Any, limit: int, **options: Any) -> None:
    """List items, newest first."""
    items: list[Any] = []
    cursor: str | None = None
    with opened(**options, no_model=True) as services:
        while len(items) < limit:
            page = services.memory.list(
                namespace=namespace,
                tags=tags,
                preservation=preservation,
                limit=min(100, limit - len(items)),
                cursor=cursor,
            )
            items += page.items
            cursor = page.next_cursor
            if cursor is None:
                break
    if not items:
        say("no items")
        return
    rows = [
        (item.id, item.namespace, item.preservation, ",".join(item.tags), _one_line(item.text, 60)) for item in items
    ]
    click.echo(table([("id", "namespace", "level", "tags", "text"), *rows]))
    if cursor is not None:
        say("there are more: --limit")


@click.command("show", short_help="Show one item and its history.")
@click.argument("item_id", metavar="ID")
@store_option
@policy_option
def show(item_id: str, **options: Any) -> None:
    """Show an item word for word, and what it was before."""
    with opened(**options, no_model=True) as services:
        item = services.memory.get(item_id)
        history = list(services.memory.history(item_id))
    for key in ("id", "namespace", "preservation", "version", "source", "created_at", "updated_at", "expires_at"):
        value = getattr(item, key)
        if value is not None:
            click.echo(f"{key.replace('_', ' ') + ':':<14}{value}")
    click.echo(f"{'tags:':<14}{', '.join(item.tags) or '–'}")
    if item.metadata:
        click.echo(f"{'metadata:':<14}{json.dumps(dict(item.metadata), ensure_ascii=False)}")
    click.echo(f"\n{item.text}")
    for entry in history:
        click.echo(f"\n-- version {entry.version}, until {entry.at:%Y-%m-%d %H:%M} ({entry.operation}: {entry.reason})")
        click.echo(entry.text)


@click.command("delete", short_help="Delete an item; strict ones too, after asking.")
@click.argument("item_id", metavar="ID")
@store_option
@policy_option
def delete(item_id: str, **options: Any) -> None:
    """Delete an item for good, with its history. What the policy leaves to a person is asked at the terminal.

    No option answers the question, so that a program that may run commands cannot answer in your place.
    """
    with opened(**options, no_model=True) as services:
        item = services.memory.get(item_id)
        asks = services.policy.may("delete", item, by_person=False).needs_person
        if asks:
            _ask(item, "delete it for good")
        services.memory.delete(item_id, by_person=asks)
    say(f"deleted {item.id}")


@click.command("level", short_help="Change how an item is preserved.")
@click.argument("item_id", metavar="ID")
@click.argument("preservation", type=click.Choice(PRESERVATION_LEVELS))
@store_option
@policy_option
def level(item_id: str, preservation: Preservation, **options: Any) -> None:
    """Raise or lower the level of an item. To lower a strict one is asked at the terminal, as with `delete`."""
    with opened(**options, no_model=True) as services:
        item = services.memory.get(item_id)
        lowers = PRESERVATION_LEVELS.index(preservation) > PRESERVATION_LEVELS.index(item.preservation)
        asks = lowers and services.policy.may("lower", item, by_person=False).needs_person
        if asks:
            _ask(item, f"make it {preservation}")
        changed = services.memory.update(item_id, preservation=preservation, by_person=asks)
    say(f"{changed.id} is {changed.preservation}")


def _ask(item: Any, what: str) -> None:
    """Ask a person at a terminal. Raises ToolkitError when there is none, or another answer than the right one."""
    if not sys.stdin.isatty():
        hint = "Type the command at a terminal; nothing was changed"
        raise ToolkitError(f"a {item.preservation} item: only a person can {what}", where=item.id, hint=hint)
    click.echo(f"{item.preservation} item {item.id} in {item.namespace}:\n\n{item.text}\n", err=True)
    if click.prompt(f"To {what}, type its last four characters", err=True) != item.id[-4:]:
        raise ToolkitError("these are not its last four characters; nothing was changed", where=item.id)


@click.command("forget", short_help="Delete what is old or unused, as the policy allows.")
@click.option("--older-than", type=Duration(), help="Flexible items stored longer ago than this: 90d, 12h, 6w, 1y.")
@click.option("--unused", type=Duration(), help="Flexible items not used for as long as this.")
@click.option("--namespace", help="Only in this namespace.")
@click.option("--dry-run", is_flag=True, help="Show what would be deleted; delete nothing.")
@store_option
@policy_option
def forget(
    older_than: timedelta | None, unused: timedelta | None, namespace: str | None, dry_run: bool, **options: Any
) -> None:
    """Delete flexible items that are old or unused; strict and moderate ones are never touched."""
    if older_than is None and unused is None:
        raise click.UsageError("say what is to be forgotten: --older-than 180d, --unused 90d")
    with opened(**options, no_model=True) as services:
        forgotten = services.memory.forget(older_than=older_than, namespace=namespace, unused=unused, dry_run=dry_run)
    for gone in forgotten.items:
        click.echo(f"{gone.id}  {gone.namespace}  {gone.reason}")
    say(f"{forgotten.count} items {'would be' if dry_run else 'were'} forgotten, about {forgotten.tokens:,} tokens")
    for level, count in forgotten.kept.items():
        if count:
            say(f"{count} {level} items as old are kept")


def _one_line(text: str, width: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"
