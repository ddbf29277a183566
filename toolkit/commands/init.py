"""`toolkit init`: a folder to begin with."""

from __future__ import annotations

from pathlib import Path

import click

from toolkit.config import FinetuneConfig
from toolkit.new_project.project import create_project


@click.command("init", short_help="Make a folder to begin with.")
@click.argument("folder", type=click.Path(path_type=Path), default=".")
@click.option(
    "--model",
    default=FinetuneConfig().model,
    show_default=True,
    metavar="MODEL",
    help="The model to train: a folder, a Hugging Face hub name, or nano.",
)
@click.option("--force", is_flag=True, help="Replace the files of these names where they exist.")
def init(folder: Path, model: str, force: bool) -> None:
    """Write run.yaml (every option, commented), ten examples and a README into FOLDER (default: this one).

    What it writes works as it is. Nothing is overwritten without --force.
    """
    project = create_project(folder, model, force=force)
    for path in project.files:
        click.echo(f"wrote {path}", err=True)
    click.echo("next:")
    for command in project.next_commands:
        click.echo(f"  {command}")
