"""`toolkit dataset init`: a commented starter for one's own definitions."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from toolkit.datasets.generate.registry import TEAM_NAME, write_new_team


@click.command("init")
@click.argument("folder", type=click.Path(path_type=Path), default=".")
@click.option("--force", is_flag=True, help=f"Replace {TEAM_NAME} where it exists. [default: refuse]")
def init(folder: Path, force: bool) -> None:
    """Write team.yaml into FOLDER (default: this one): terms, procedures, rules and tools, each explained.

    What it writes works as it is; put your own definitions in its place. Nothing is overwritten without --force.
    """
    path = write_new_team(folder, force=force)
    click.echo(f"wrote {path}", err=True)
    place = shlex.quote(str(path))
    click.echo("next:")
    click.echo(f"  toolkit dataset generate --from {place} --dry-run")
    click.echo(f"  toolkit dataset generate --from {place} --out {shlex.quote(str(folder / 'team.jsonl'))}")
    click.echo(f"  toolkit finetune --model nano --data {shlex.quote(str(folder / 'team.jsonl'))} --dry-run")
