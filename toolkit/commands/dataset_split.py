"""`toolkit dataset split`: a dataset into train, valid and test, so that nothing of one stands in another."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from toolkit.commands.dataset_options import (
    counter,
    data_mapping,
    mapping_option,
    overwrite_option,
    paths_argument,
    seed_option,
)
from toolkit.commands.tables import table
from toolkit.datasets.passing_on import read_records
from toolkit.datasets.schema import Example
from toolkit.datasets.splitting import assign_splits, parse_shares
from toolkit.datasets.validation.sources import find_sources
from toolkit.datasets.writing import check_output, write_records
from toolkit.errors import Problem, ToolkitError

_NO_CATEGORY = "(none)"


@click.command("split")
@paths_argument
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="FOLDER", help="Where the files go.")
@click.option(
    "--shares",
    default="80/20",
    show_default=True,
    help="80/20 (train, valid), 80/10/10 (train, valid, test), or any names: train=80,probe=20.",
)
@seed_option
@click.option(
    "--suffix",
    type=click.Choice([".jsonl", ".jsonl.gz", ".json", ".parquet"]),
    default=".jsonl",
    show_default=True,
    help="Kind of file to write.",
)
@click.option(
    "--near",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.8,
    show_default=True,
    help="Similarity of word trigrams (Jaccard) from which on examples stay together.",
)
@mapping_option
@overwrite_option
def split(
    paths: tuple[Path, ...],
    out: Path,
    shares: str,
    seed: int,
    suffix: str,
    near: float,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Split PATH by category, whole groups at a time.

    A group is what has one semantic key (metadata.key), one question, or most of its words in common: it stands in one
    split, so that nothing leaks. The same files and seed give the same split. Records are passed on as they are.
    """
    wanted = parse_shares(shares)
    data = data_mapping(overrides)
    sources = find_sources(paths)
    files = {name: out / f"{name}{suffix}" for name in wanted}
    _check_outputs(list(files.values()), [source.path for source in sources], overwrite=overwrite)
    with counter("reading") as progress:
        categories: list[str] = []

        def examples(example: Example) -> Example:
            categories.append(example.category or _NO_CATEGORY)
            progress(len(categories))
            return example

        split_of = assign_splits((examples(example) for _, example in read_records(sources, data)), wanted, seed, near)
    for name, path in files.items():
        chosen = (record for (record, _), own in zip(read_records(sources, data), split_of, strict=True) if own == name)
        count = write_records(path, chosen)
        click.echo(f"wrote {path}: {count:,} examples", err=True)
    click.echo(_table(categories, split_of, list(wanted)))


def _check_outputs(files: list[Path], sources: list[Path], *, overwrite: bool) -> None:
    problems: list[Problem] = []
    for path in files:
        try:
            check_output(path, overwrite=overwrite, sources=sources)
        except ToolkitError as error:
            problems.extend(error.problems)
    if problems:
        raise ToolkitError.gather(problems)


def _table(categories: list[str], split_of: list[str], names: list[str]) -> str:
    counts = Counter(zip(categories, split_of, strict=True))
    rows = [("category", *names)]
    rows += [(name, *(f"{counts[name, own]:,}" for own in names)) for name in sorted(set(categories))]
    rows.append(("all", *(f"{split_of.count(own):,}" for own in names)))
    return table(rows)
