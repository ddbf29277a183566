"""Command-line options made from the config models: their names and help texts are declared there, once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import BaseModel

from toolkit.config_files import RECIPES, expected, option_paths

Command = TypeVar("Command", bound=Callable[..., Any])


def config_options(model: type[BaseModel], flags: dict[str, str]) -> Callable[[Command], Command]:
    """Add `--config`, `--set` and one flag for each (flag name → dotted path of the option) in `flags`."""

    def decorate(command: Command) -> Command:
        options = dict(option_paths(model))
        for name, path in reversed(flags.items()):
            info = options[path]
            takes = f" ({expected(info)})" if expected(info).startswith("one of") else ""
            text = f"{_one_line(info.description)}{takes}"
            command = click.option(f"--{name}", default=None, metavar=name.upper(), help=text)(command)
        command = click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            help="Set any option of the config, e.g. train.max_steps=200 (repeat it for more).",
        )(command)
        return click.option("--config", "config_path", type=click.Path(path_type=Path), help="A YAML file.")(command)

    return decorate


def keys_epilog(model: type[BaseModel]) -> str:
    """List every option of a config model for the end of `--help`."""
    lines = []
    for path, info in option_paths(model):
        default = info.get_default(call_default_factory=True)
        shown = "" if default is None else f" [default: {default}]"
        lines.append(f"{path}: {_one_line(info.description)}{shown}")
    return "\b\nKeys for --set and --config:\n" + "\n".join(f"  {line}" for line in lines)


def recipe(name: str) -> Path | None:
    """Return a packaged recipe's path, or None where it is not shipped."""
    path = RECIPES / name
    return path if path.is_file() else None


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
