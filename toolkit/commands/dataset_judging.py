"""From the command line to a judged dataset: what `validate` and `report` have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from toolkit.commands.dataset_options import counter, data_mapping
from toolkit.config_files import config_text, load_config
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.datasets.validation.sources import find_sources
from toolkit.datasets.validation.thresholds import Thresholds
from toolkit.datasets.validation.validate import Request, Validation, validate
from toolkit.errors import ToolkitError
from toolkit.models import find_model

Command = TypeVar("Command", bound=Callable[..., Any])

_MOST_TOKENS = 2048


def _show_thresholds(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        click.echo(config_text(Thresholds()), nl=False)
        context.exit()


def judging_options(command: Command) -> Command:
    """Add the options that say by what a dataset is judged."""
    options = (
        click.option(
            "--against",
            "evaluation",
            multiple=True,
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="An evaluation set whose questions must not stand in the data (repeat it for more).",
        ),
        click.option(
            "--thresholds",
            "thresholds_path",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="YAML with limits of your own. [default: those that --show-thresholds prints]",
        ),
        click.option(
            "--max-tokens",
            type=click.IntRange(min=2),
            help="Longest example. [default: the thresholds' max_tokens, else the model's context, at most 2,048]",
        ),
        click.option("--no-tokens", is_flag=True, help="Count no tokens and render no template: half the time."),
        click.option(
            "--show-thresholds",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_show_thresholds,
            help="Print the limits as YAML, to begin a file of your own with, and exit.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def judge(
    paths: Sequence[Path],
    overrides: Sequence[str],
    model_name: str,
    evaluation: Sequence[Path],
    thresholds_path: Path | None,
    max_tokens: int | None,
    no_tokens: bool,
) -> Validation:
    """Judge the files, showing progress. Raises ToolkitError where the request itself is wrong."""
    data = data_mapping(overrides)
    limits = read_thresholds(thresholds_path)
    sources = find_sources(paths)
    tokenizer = limit = None
    if not no_tokens:
        facts = find_model(model_name)
        tokenizer = Tokenizer.load(facts.folder)
        limit = max_tokens or limits.max_tokens or min(facts.context, _MOST_TOKENS)
    request = Request(sources, data, limits, tokenizer, limit, tuple(evaluation))
    with counter("judging") as progress:
        return validate(request, progress)


def read_thresholds(path: Path | None) -> Thresholds:
    """Read limits from a YAML file, strictly. Raises ToolkitError with every mistake and its line."""
    if path is None:
        return Thresholds()
    if not path.is_file():
        raise ToolkitError("no such file", where=path, hint="Begin one with --show-thresholds")
    return load_config(Thresholds, path)
