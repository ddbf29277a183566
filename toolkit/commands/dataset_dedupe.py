"""`toolkit dataset dedupe`: a new file without what repeats an earlier example."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from toolkit.commands.dataset_options import counter, data_mapping, mapping_option, overwrite_option, paths_argument
from toolkit.datasets.deduplication import Removed, find_repeated
from toolkit.datasets.passing_on import read_records
from toolkit.datasets.validation.sources import Source, find_sources
from toolkit.datasets.writing import check_output, write_records
from toolkit.errors import ToolkitError


@click.command("dedupe")
@paths_argument
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="FILE", help="The file to write.")
@click.option("--exact", is_flag=True, help="Take out exact duplicates alone.")
@click.option(
    "--near",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.8,
    show_default=True,
    help="Similarity of word trigrams (Jaccard) from which on an example repeats an earlier one.",
)
@click.option(
    "--removed", type=click.Path(path_type=Path), metavar="FILE", help="Write what went and why, one JSON line each."
)
@click.option("--show", type=click.IntRange(min=0), default=20, show_default=True, help="Removed examples to print.")
@mapping_option
@overwrite_option
def dedupe(
    paths: tuple[Path, ...],
    out: Path,
    exact: bool,
    near: float,
    removed: Path | None,
    show: int,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Write PATH without exact and near duplicates: the first of them stays, everything else is passed on as it is.

    What went is listed with the example that it repeats. Near duplicates are joined in chains: of three examples of
    which each is like the next, the first stays.
    """
    data = data_mapping(overrides)
    sources = find_sources(paths)
    _check_one_split(sources)
    for path in (out, *([removed] if removed else [])):
        check_output(path, overwrite=overwrite, sources=[source.path for source in sources])
    with counter("comparing") as progress:
        read = (example for _, example in read_records(sources, data))
        counted = (progress(index) or example for index, example in enumerate(read, start=1))
        count, gone = find_repeated(counted, None if exact else near)
    indices = {item.index for item in gone}
    kept = (record for index, (record, _) in enumerate(read_records(sources, data)) if index not in indices)
    written = write_records(out, kept)
    if removed is not None:
        write_records(removed, (_as_record(item) for item in gone))
    for item in gone[:show]:
        click.echo(_line(item))
    if show and len(gone) > show:
        click.echo(f"… and {len(gone) - show:,} more (--removed FILE lists all)")
    exactly = sum(item.jaccard is None for item in gone)
    click.echo(f"{count:,} examples, {exactly:,} exact and {len(gone) - exactly:,} near duplicates taken out")
    click.echo(f"wrote {out}: {written:,} examples", err=True)


def _check_one_split(sources: Sequence[Source]) -> None:
    splits = list(dict.fromkeys(source.split for source in sources))
    if len(splits) > 1:
        hint = "Name one file, or split again: toolkit dataset split"
        raise ToolkitError(f"this is {', '.join(splits)}: which of them should lose an example?", hint=hint)


def _line(item: Removed) -> str:
    why = "the same as" if item.jaccard is None else f"{item.jaccard:.0%} like"
    return f"{item.where}: {why} {item.like}"


def _as_record(item: Removed) -> dict[str, object]:
    kind = "exact" if item.jaccard is None else "near"
    return {"where": item.where, "kind": kind, "like": item.like, "jaccard": item.jaccard}
