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


def _validate() -> click.Command:
    from toolkit.commands.dataset_validate import validate

    return validate


def _report() -> click.Command:
    from toolkit.commands.dataset_report import report

    return report


def _split() -> click.Command:
    from toolkit.commands.dataset_split import split

    return split


def _convert() -> click.Command:
    from toolkit.commands.dataset_convert import convert

    return convert


def _dedupe() -> click.Command:
    from toolkit.commands.dataset_dedupe import dedupe

    return dedupe


def _inspect() -> click.Command:
    from toolkit.commands.dataset_inspect import inspect

    return inspect


COMMANDS: Entries = {
    "init": ("Write a commented starter for your own definitions.", _init),
    "generate": ("Make examples from a seed.", _generate),
    "validate": ("Find what is wrong, with file and line.", _validate),
    "report": ("Describe a dataset: HTML with plots, and JSON.", _report),
    "split": ("Split without leaks.", _split),
    "convert": ("Write another shape of record or kind of file.", _convert),
    "dedupe": ("Write a file without duplicates.", _dedupe),
    "inspect": ("Page through examples as the model sees them.", _inspect),
}


@click.group("dataset", cls=LazyGroup, entries=COMMANDS)
def dataset() -> None:
    """Make, check and mix instruction data.

    Every command reads what the toolkit trains on: JSON lines, JSON, Parquet (gzip too), a folder with train, valid
    and test files. None changes a file in place.
    """
