"""`toolkit dataset init`: a commented starter for one's own definitions."""

from __future__ import annotations

import click

from toolkit.errors import ToolkitError


@click.command("init")
def init() -> None:
    """Write a commented starter for your own definitions."""
    raise ToolkitError("toolkit dataset init is not built yet")
