"""`toolkit dataset`: make, check and mix instruction data; each command is imported when it is called."""

from __future__ import annotations

import click

from toolkit.commands.lazy import Entries, LazyGroup


def _init() -> click.Command:
    from toolkit.commands.dataset_init import init

    return init


def _generate() -> click.Command:
    from toolkit.commands.dataset_generate import generate

    return generate


COMMANDS: Entries = {
    "init": ("Write a commented starter for your own definitions.", _init),
    "generate": ("Make examples from a seed.", _generate),
}


@click.group("dataset", cls=LazyGroup, entries=COMMANDS)
def dataset() -> None:
    """Make, check and mix instruction data.

    Every command reads what the toolkit trains on: JSON lines, JSON, Parquet (gzip too), a folder with train, valid
    and test files. None changes a file in place.
    """
