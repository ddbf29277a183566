"""`toolkit dataset generate`: examples from a seed, from the toolkit's own generators or from a team's file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from toolkit.commands.tables import table
from toolkit.datasets.generate.generation import CategoryStatistics, Shape, as_messages, make_set, read_counts
from toolkit.datasets.generate.generator import Generator
from toolkit.datasets.generate.process import read_cycle
from toolkit.datasets.generate.reasoning import FAMILIES
from toolkit.datasets.generate.registry import FAMILY_COUNT, check_families, generators, team_generators
from toolkit.datasets.writing import check_output, write_records
from toolkit.errors import ToolkitError
from toolkit.preservation import PRESERVATION_LEVELS as LEVELS

_SHOWN_REJECTED = 3


def _counts_help() -> str:
    listed = ", ".join(f"{name}={count}" for name, count in read_counts((), generators()).items())
    return f"How many of a category; then only the named categories are made (repeatable). [default: {listed}]"


@click.command("generate")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The file to write: .jsonl, .jsonl.gz, .json or .parquet. [required, but for --dry-run]",
)
@click.option("--count", "counts", multiple=True, metavar="CATEGORY=N", help=_counts_help())
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Decides every example.")
@click.option(
    "--from",
    "team_file",
    type=click.Path(path_type=Path),
    help="Make examples of your own terms, procedures, rules and tools (`toolkit dataset init` writes such a file). "
    "[default: the toolkit's own categories]",
)
@click.option(
    "--cycle",
    type=click.Path(path_type=Path),
    help="Stages of the process examples. [default: the OODATCAA cycle that ships]",
)
@click.option(
    "--reasoning",
    "families",
    multiple=True,
    metavar="FAMILY",
    help=f"Add a family of the package reasoning-gym, {FAMILY_COUNT} examples of each (repeatable): "
    f"{', '.join(FAMILIES)}. [default: none]",
)
@click.option(
    "--format",
    "shape",
    type=click.Choice(["records", "messages"]),
    default="records",
    show_default=True,
    help="As instruction records (conversations only where tools are called), or all as conversations.",
)
@click.option(
    "--dry-run", is_flag=True, help="Make everything, show counts and statistics, write nothing. [default: write]"
)
@click.option("--overwrite", is_flag=True, help="Replace the file where it exists. [default: refuse]")
def generate(
    out: Path | None,
    counts: tuple[str, ...],
    seed: int,
    team_file: Path | None,
    cycle: Path | None,
    families: tuple[str, ...],
    shape: Shape,
    dry_run: bool,
    overwrite: bool,
) -> None:
    """Make instruction data from a seed: the same seed and counts give the same bytes on every machine.

    Without --from and --count the core set is made: all categories, within the counts that each is meant for.
    """
    if out is None and not dry_run:
        raise ToolkitError(
            "where to? No file is named", where="--out", hint="For example: --out examples.jsonl, or --dry-run"
        )
    available = _available(team_file, cycle, families)
    wanted = read_counts(counts, available)
    if families and "reasoning" not in wanted:
        wanted["reasoning"] = available["reasoning"].default_count
    if out is not None and not dry_run:
        check_output(out, overwrite=overwrite)
    statistics: dict[str, CategoryStatistics] = {}
    with _progress(wanted) as advance:
        records = make_set(available, wanted, seed, statistics, advance, _rejections())
        shaped = map(as_messages, records) if shape == "messages" else records
        written = sum(1 for _ in shaped) if dry_run or out is None else write_records(out, shaped)
    _show(statistics)
    _warn_of_sizes(wanted, available)
    click.echo(
        f"nothing written (--dry-run): {written:,} examples" if dry_run else f"wrote {out}: {written:,} examples",
        err=True,
    )


def _available(team_file: Path | None, cycle: Path | None, families: tuple[str, ...]) -> dict[str, Generator]:
    if team_file is None:
        return generators(cycle=read_cycle(cycle) if cycle else None, families=check_families(families))
    for option, given in (("--cycle", cycle), ("--reasoning", families)):
        if given:
            hint = f"Leave out --from or {option}"
            raise ToolkitError(f"{option} belongs to the toolkit's own categories", where=option, hint=hint)
    return team_generators(team_file)


def _rejections() -> Callable[[str, str], None]:
    """Return what tells of the first few candidates of each category that were not kept."""
    told: dict[str, int] = {}

    def tell(name: str, why: str) -> None:
        told[name] = told.get(name, 0) + 1
        if told[name] <= _SHOWN_REJECTED:
            click.echo(f"{name}: left out: {why}", err=True)

    return tell


@contextmanager
def _progress(wanted: Mapping[str, int]) -> Iterator[Callable[[str, int], None]]:
    """Show a bar on stderr where that is a terminal; else a line for each category."""
    total = sum(wanted.values())
    if not sys.stderr.isatty():
        seen: set[str] = set()

        def line(name: str, done: int) -> None:
            if name not in seen:
                seen.add(name)
                click.echo(f"making {wanted[name]:,} of {name}", err=True)

        yield line
        return
    columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("making", total=total)
        yield lambda name, done: progress.update(task, advance=done, description=name)


def _show(statistics: Mapping[str, CategoryStatistics]) -> None:
    """Print what each category holds; the lengths are means in characters."""
    head = ("category", "examples", "keys", "verified", "left out", "difficulty", "question", "answer")
    rows: list[tuple[str, ...]] = [(*head, "/".join(LEVELS))]
    for name, one in statistics.items():
        count = max(1, one.count)
        figures = [one.count, len(one.keys), one.verified, one.rejected]
        means = (f"{one.difficulty / count:.2f}", f"{one.asked / count:.0f}", f"{one.answered / count:.0f}")
        levels = "/".join(f"{one.levels[level]:,}" for level in LEVELS)
        rows.append((name, *(f"{figure:,}" for figure in figures), *means, levels))
    rows.append(("all", f"{sum(one.count for one in statistics.values()):,}", *[""] * 7))
    click.echo(table(rows))


def _warn_of_sizes(wanted: Mapping[str, int], available: Mapping[str, Generator]) -> None:
    for name, count in wanted.items():
        low, high = available[name].count_range
        if not low <= count <= high:
            click.echo(f"note: {name} is meant for {low:,} to {high:,} examples", err=True)
