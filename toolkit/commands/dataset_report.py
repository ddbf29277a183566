"""`toolkit dataset report`: a page and a JSON file that describe a dataset."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

import toolkit
from toolkit.atomic_files import write_atomic, write_failed
from toolkit.commands.dataset_judging import judge, judging_options
from toolkit.commands.dataset_options import mapping_option, model_option, paths_argument
from toolkit.datasets.formats import data_label
from toolkit.datasets.validation.figures import figures_of, findings_of
from toolkit.evaluate.dataset_report import DatasetReport, render_dataset_report


@click.command("report")
@paths_argument
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="dataset-report",
    show_default=True,
    metavar="FOLDER",
    help="Where report.html and report.json go; files of these names are replaced.",
)
@click.option("--title", help="Heading of the page. [default: the name of the first PATH]")
@model_option
@mapping_option
@judging_options
def report(
    paths: tuple[Path, ...],
    out: Path,
    title: str | None,
    model_name: str,
    overrides: tuple[str, ...],
    evaluation: tuple[Path, ...],
    thresholds_path: Path | None,
    max_tokens: int | None,
    no_tokens: bool,
) -> None:
    """Describe PATH on one page: verdict, findings, lengths, categories, difficulty, variety; the same as JSON.

    The page needs nothing else: plots are drawn into it. Exit code 1 when a threshold is broken.
    """
    judged = judge(paths, overrides, model_name, evaluation, thresholds_path, max_tokens, no_tokens)
    name = title or data_label(str(paths[0]))
    model = "no tokens counted" if no_tokens else f"tokens of {model_name}"
    page = DatasetReport(
        title=name,
        subtitle=f"{', '.join(path.name or str(path) for path in paths)} · {model}",
        validation=judged,
        footer=f"toolkit {toolkit.__version__} · toolkit dataset report {' '.join(str(path) for path in paths)}",
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_failed(error, out) from error
    everything = {**figures_of(judged), "all_findings": findings_of(judged)}
    write_atomic(out / "report.html", render_dataset_report(page))
    write_atomic(out / "report.json", json.dumps(everything, ensure_ascii=False, indent=1) + "\n")
    for file in ("report.html", "report.json"):
        click.echo(f"wrote {out / file}", err=True)
    for check in judged.checks:
        if not check.good:
            click.echo(f"broken: {check}")
    sys.exit(0 if judged.good else 1)
