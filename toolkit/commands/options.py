"""Command-line options made from the config models: their names and help texts are declared there, once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from pydantic import BaseModel

from toolkit.config import BackendChoice
from toolkit.config_files import config_reader, expected, option_paths
from toolkit.recipes import recipe_names

Command = TypeVar("Command", bound=Callable[..., Any])

backend_option = click.option(
    "--backend",
    type=click.Choice(get_args(BackendChoice)),
    default="auto",
    show_default=True,
    help="Framework that runs the model; a .gguf file always goes through llama.cpp.",
)

full_base_option = click.option(
    "--full-base",
    is_flag=True,
    help="Put the adapter of a qlora run on the full-precision model, not on the quantised base it was trained on.",
)


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
        text = f"A YAML file, or a recipe: {', '.join(recipe_names(config_reader(model)))}."
        return click.option(
            "--config", "config_path", metavar="FILE|RECIPE", type=click.Path(path_type=Path), help=text
        )(command)

    return decorate


class ConfigCommand(click.Command):
    """A command whose help ends with every key of its config model."""

    config_model: type[BaseModel]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the keys, what they mean and what they default to."""
        rows = []
        for path, info in option_paths(self.config_model):
            default = info.get_default(call_default_factory=True)
            shown = "" if default is None else f" [default: {default}]"
            rows.append((path, f"{_one_line(info.description)}{shown}"))
        with formatter.section("Keys for --set and --config"):
            formatter.write_dl(rows)


def config_command(model: type[BaseModel]) -> type[ConfigCommand]:
    """Return a command class that documents the keys of `model`."""
    return type("ConfigCommand", (ConfigCommand,), {"config_model": model})


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
