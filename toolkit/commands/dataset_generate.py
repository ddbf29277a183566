"""`toolkit dataset generate`: examples from a seed."""

from __future__ import annotations

import click

from toolkit.errors import ToolkitError


@click.command("generate")
def generate() -> None:
    """Make examples from a seed."""
    raise ToolkitError("toolkit dataset generate is not built yet")
