"""`toolkit dataset convert`: the same examples as records of another shape, or in another kind of file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from toolkit.commands.dataset_options import (
    data_mapping,
    mapping_option,
    model_option,
    overwrite_option,
    paths_argument,
)
from toolkit.datasets.conversion import SHAPES, Shape, convert_example
from toolkit.datasets.passing_on import read_records
from toolkit.datasets.problems import condense
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.datasets.validation.sources import find_sources
from toolkit.datasets.writing import check_output, write_records
from toolkit.errors import Problem, ToolkitError
from toolkit.models import find_model


@click.command("convert")
@paths_argument
@click.option("--to", required=True, type=click.Choice(SHAPES), help="The shape of record to write.")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="FILE", help="The file to write.")
@click.option("--lossy", is_flag=True, help="Convert although something gets lost; what and how often is printed.")
@model_option
@mapping_option
@overwrite_option
def convert(
    paths: tuple[Path, ...],
    to: Shape,
    out: Path,
    lossy: bool,
    model_name: str,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Write PATH as records of another shape: .jsonl, .jsonl.gz, .json or .parquet, by the name of --out.

    Every record is read back and compared with what it was. A conversion that loses anything (which turns are trained,
    a rejected answer, tools) is refused with file and line, unless --lossy is given. For --to text the model's chat
    template writes the conversation.
    """
    data = data_mapping(overrides)
    sources = find_sources(paths)
    check_output(out, overwrite=overwrite, sources=[source.path for source in sources])
    tokenizer = Tokenizer.load(find_model(model_name).folder) if to == "text" else None
    losses: Counter[str] = Counter()
    problems: list[Problem] = []

    def converted() -> Iterator[dict[str, Any]]:
        for record, example in read_records(sources, data):
            try:
                written, lost = convert_example(example, record, to, data, tokenizer)
            except ToolkitError as error:
                problems.extend(Problem(p.what, p.where or example.where, p.hint) for p in error.problems)
                continue
            losses.update(lost)
            if lost and not lossy:
                what = f"as {to} it would lose {' and '.join(lost)}"
                problems.append(Problem(what, example.where, "Choose another --to, or add --lossy"))
            yield written
        if problems:
            raise ToolkitError.gather(condense(problems))

    count = write_records(out, converted())
    for what, times in losses.items():
        click.echo(f"warning: {times:,} examples lost {what}", err=True)
    click.echo(f"wrote {out}: {count:,} examples", err=True)
