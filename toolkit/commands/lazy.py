"""A group whose commands are imported when they are called, so that its help costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import click

from toolkit.errors import ToolkitError

Entries = dict[str, tuple[str, Callable[[], click.Command]]]
"""By name: the line that the group's help shows, and what imports and returns the command."""


class LazyGroup(click.Group):
    """A group of commands, each loaded when it is needed."""

    def __init__(self, *arguments: Any, entries: Entries, **settings: Any) -> None:
        """Take the commands as `entries`; everything else is click's."""
        super().__init__(*arguments, **settings)
        self.entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which a newcomer meets them."""
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        entry = self.entries.get(cmd_name)
        return entry[1]() if entry else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one may have been meant."""
        if args and args[0] not in self.entries and not args[0].startswith("-"):
            near = get_close_matches(args[0], self.entries, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Commands: {', '.join(self.entries)}"
            raise ToolkitError(f"no such command: {args[0]}", hint=hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (text, _) in self.entries.items()])
