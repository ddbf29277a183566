"""What the dataset commands share: options for the mapping and the model, a bar, the files that are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from toolkit.config import DataConfig, FinetuneConfig
from toolkit.config_files import load_config
from toolkit.errors import Problem, ToolkitError

Command = TypeVar("Command", bound=Callable[..., Any])

paths_argument = click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH...")
mapping_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Say how fields are called, as for finetune: data.prompt=question (repeat it for more).",
)
model_option = click.option(
    "--model",
    "model_name",
    default="nano",
    show_default=True,
    metavar="MODEL",
    help="Whose tokens and chat template: a folder, a Hugging Face hub name, or nano.",
)
seed_option = click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Decides the draw.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace files of these names.")


def data_mapping(overrides: Sequence[str]) -> DataConfig:
    """Return the mapping that `--set data.…` texts give. Raises ToolkitError for any other option."""
    wrong = [text for text in overrides if not text.startswith("data.")]
    if wrong:
        problems = [Problem("only data.… options can be set here", f"--set {text}") for text in wrong]
        raise ToolkitError.gather(problems)
    return load_config(FinetuneConfig, None, overrides).data


@contextmanager
def counter(what: str) -> Iterator[Callable[[int], None]]:
    """Show on stderr, where that is a terminal, how many examples have been read."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield lambda done: None
        return
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), console=console, transient=True) as progress:
        task = progress.add_task(what)
        yield lambda done: progress.update(task, description=f"{what}: {done:,} examples")
