"""`toolkit gguf`: look into .gguf files, and compare two of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from toolkit.quantize.inspect import GgufFacts, compare_gguf, inspect_gguf, shown

_FILE = click.Path(path_type=Path)


@click.group()
def gguf() -> None:
    """Look into .gguf files and compare them."""


@gguf.command()
@click.argument("files", nargs=-1, required=True, type=_FILE)
@click.option("--tensors", is_flag=True, help="List every tensor.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: one object a file, long lists in full.")
def inspect(files: tuple[Path, ...], tensors: bool, as_json: bool) -> None:
    """Show what stands in FILES: size, true bits per weight, types, metadata."""
    facts = [inspect_gguf(file) for file in files]
    if as_json:
        click.echo(json.dumps([_as_json(fact) for fact in facts], indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    for fact in facts:
        _show(console, fact, tensors)


@gguf.command()
@click.argument("first", type=_FILE)
@click.argument("second", type=_FILE)
@click.option("--values/--no-values", default=True, show_default=True, help="Compare the numbers in the tensors too.")
def diff(first: Path, second: Path, values: bool) -> None:
    """Show how two files differ, and exit with 1 when they do: metadata, types, shapes, values.

    Values are dequantised; 'apart' is the root mean square of the difference, relative to FIRST's.
    """
    table = Table("what", escape(str(first)), escape(str(second)))
    for difference in compare_gguf(first, second, values=values):
        table.add_row(*(escape(text) for text in (difference.name, difference.first, difference.second)))
    if not table.row_count:
        click.echo("no difference")
        return
    Console(highlight=False).print(table)
    sys.exit(1)


def _show(console: Console, fact: GgufFacts, tensors: bool) -> None:
    console.print(
        f"[bold]{escape(str(fact.path))}[/]: {fact.byte_count / 1e6:,.1f} MB, {fact.parameter_count:,} weights, "
        f"{fact.bits_per_weight:.2f} bits per weight"
    )
    kinds = Table("type", "tensors", "weights", "MB")
    for kind, (count, weights, size) in fact.by_kind().items():
        kinds.add_row(kind, f"{count:,}", f"{weights:,}", f"{size / 1e6:,.1f}")
    console.print(kinds)
    keys = Table("key", "value")
    for key, value in fact.metadata.items():
        keys.add_row(escape(key), escape(shown(value)))
    console.print(keys)
    if tensors:
        rows = Table("tensor", "type", "shape")
        for tensor in fact.tensors:
            rows.add_row(escape(tensor.name), tensor.kind, "×".join(str(size) for size in tensor.shape))
        console.print(rows)


def _as_json(fact: GgufFacts) -> dict[str, Any]:
    return {
        "file": str(fact.path),
        "bytes": fact.byte_count,
        "weights": fact.parameter_count,
        "bits_per_weight": round(fact.bits_per_weight, 4),
        "metadata": dict(fact.metadata),
        "tensors": [{"name": t.name, "type": t.kind, "shape": t.shape, "bytes": t.byte_count} for t in fact.tensors],
    }
