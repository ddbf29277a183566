"""`toolkit dataset validate`: what is wrong with a dataset, each with file and line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from toolkit.commands.dataset_judging import judge, judging_options
from toolkit.commands.dataset_options import mapping_option, model_option, paths_argument
from toolkit.commands.tables import table
from toolkit.datasets.validation.figures import figures_of, findings_of
from toolkit.datasets.validation.findings import KINDS, Findings
from toolkit.datasets.validation.validate import Validation


@click.command("validate")
@paths_argument
@model_option
@mapping_option
@judging_options
@click.option(
    "--show",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Findings to print of each kind (with --json all, a thousand of a kind at most).",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: figures, thresholds, findings.")
def validate(
    paths: tuple[Path, ...],
    model_name: str,
    overrides: tuple[str, ...],
    evaluation: tuple[Path, ...],
    thresholds_path: Path | None,
    max_tokens: int | None,
    no_tokens: bool,
    show: int,
    as_json: bool,
) -> None:
    """Find what is wrong with a dataset: PATH is a file or a folder with train, valid and test files.

    Looks at records, keys, lengths, duplicates and near duplicates, leaks between splits, evaluation questions, labels,
    metadata, language, secrets, personal data, answers that break off or loop, and variety. Changes nothing. Several
    files are one set; one that is called valid or test is that split. Exit code 1 when a threshold is broken.
    """
    judged = judge(paths, overrides, model_name, evaluation, thresholds_path, max_tokens, no_tokens)
    if as_json:
        everything = {**figures_of(judged), "all_findings": findings_of(judged)}
        click.echo(json.dumps(everything, ensure_ascii=False, indent=1))
    else:
        _print(judged, show)
    sys.exit(0 if judged.good else 1)


def _print(judged: Validation, show: int) -> None:
    for line in finding_lines(judged.findings, show):
        click.echo(line)
    if judged.findings.counts:
        click.echo()
        click.echo(table([("found", "severity", "times"), *_rows(judged.findings)]))
        click.echo()
    click.echo(f"{len(judged.columns):,} of {judged.records:,} records could be read")
    broken = [check for check in judged.checks if not check.good]
    for check in broken:
        click.echo(f"broken: {check}")
    measured = sum(check.value is not None for check in judged.checks)
    if not broken:
        click.echo(f"good: all {measured} thresholds that could be measured are kept")


def finding_lines(findings: Findings, show: int) -> list[str]:
    """Return the first `show` findings of each kind as lines, and a line that counts the rest."""
    lines: list[str] = []
    for kind in KINDS:
        if not findings.counts[kind]:
            continue
        lines += [str(finding) for finding in findings.of_kind(kind)[:show]]
        rest = findings.counts[kind] - show
        if show and rest > 0:
            lines.append(f"… and {rest:,} more of {kind} (--show {findings.counts[kind]})")
    return lines


def _rows(findings: Findings) -> list[tuple[str, str, str]]:
    return [
        (f"{kind}: {KINDS[kind].title}", KINDS[kind].severity, f"{findings.counts[kind]:,}")
        for kind in KINDS
        if findings.counts[kind]
    ]
