"""report.html: one self-contained page about a run: curves, figures before and after, exported files, sample answers.

An export that comes later changes its own part of the page alone, between two marks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from toolkit.atomic_files import write_atomic
from toolkit.evaluate.charts import exact_match_chart, loss_curve
from toolkit.evaluate.evaluation import Evaluation
from toolkit.evaluate.exports import exported_files, loss_columns, read_entries
from toolkit.evaluate.questions import OVERALL, SINGLE_FAMILY
from toolkit.evaluate.results import EvaluationRow, format_figure
from toolkit.runs import RunFolder

REPORT_NAME = "report.html"
TEMPLATE, EXPORTS_TEMPLATE = "report.html.jinja", "exports.html.jinja"
_BEGIN, _END = "<!-- exports: begin -->", "<!-- exports: end -->"
TABLE_TITLES = {"exact_match": "Exact match in % (95 % interval)", "perplexity": "Perplexity (95 % interval)"}


@dataclass(frozen=True)
class Report:
    """What the page shows.

    run:         the run's name
    subtitle:    model, method, data, device, in one line
    metrics:     rows of metrics.jsonl
    evaluations: by heading (`before`, `after`, …), all of the same suite, in the order of the columns
    samples:     indices of the suite's questions to show with every heading's answer
    footer:      versions and the command that repeats the run
    exports:     entries of export/verification.json
    """

    run: str
    subtitle: str
    metrics: Sequence[Mapping[str, Any]]
    evaluations: Mapping[str, Evaluation]
    samples: Sequence[int]
    footer: str
    exports: Sequence[Mapping[str, Any]] = ()


def write_report(path: Path, report: Report) -> None:
    """Render the page and write it atomically."""
    write_atomic(path, render_report(report))


def refresh_report(run: RunFolder) -> Path:
    """Show a run's exports on its page; write a page of curves and exports where there is none yet.

    Returns the page's path. Raises JobFailed on a full disk.
    """
    path = run.path / REPORT_NAME
    entries = read_entries(run.export / "verification.json")
    page = path.read_text("utf-8", errors="replace") if path.is_file() else ""
    start, end = page.find(_BEGIN), page.find(_END)
    if 0 <= start < end:
        write_atomic(path, page[:start] + _exports(entries) + page[end + len(_END) :])
    else:
        subtitle, footer = about_run(run)
        write_report(path, Report(run.name, subtitle, run.metrics(), {}, (), footer, entries))
    return path


def about_run(run: RunFolder) -> tuple[str, str]:
    """Return the page's subtitle (model, method, data, device) and footer (versions, how to repeat it)."""
    manifest = run.manifest()
    backend, versions = manifest.get("backend") or {}, manifest.get("versions") or {}
    what = [str(manifest[key]) for key in ("model", "method") if manifest.get(key)]
    data = f" on {manifest['data']}" if manifest.get("data") else ""
    device = backend.get("device_name") or backend.get("device", "?")
    steps = f"{manifest.get('total_steps', '?')} steps on {device}"
    subtitle = " · ".join([f"{', '.join(what)}{data}".strip(), steps, str(manifest.get("finished") or "")[:10]])
    packages = ", ".join(f"{package} {version}" for package, version in versions.items())
    return subtitle.strip(" ·"), f"{packages} · to repeat this run: toolkit finetune --config {run.config_path}"


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )


def _exports(entries: Sequence[Mapping[str, Any]]) -> str:
    """Render the part of the page that an export writes, marks included."""
    files = exported_files(entries)
    columns = loss_columns(files)
    for file in files:
        file["losses"] = {key: file["losses"].get(key, "") for key, _ in columns}
    rendered = _environment().get_template(EXPORTS_TEMPLATE).render(files=files, columns=columns)
    return f"{_BEGIN}{rendered}{_END}"


def render_report(report: Report) -> str:
    """Render the page. Every text is escaped: a model may well answer with HTML."""
    environment = _environment()
    rows = {heading: evaluation.rows() for heading, evaluation in report.evaluations.items()}
    by_target = {evaluation.target: heading for heading, evaluation in report.evaluations.items()}
    suites = [evaluation.suite.name for evaluation in report.evaluations.values()]
    chart = exact_match_chart([row for of_heading in rows.values() for row in of_heading], by_target)
    return environment.get_template(TEMPLATE).render(
        run=report.run,
        subtitle=report.subtitle,
        tiles=_tiles(rows),
        curve=Markup(loss_curve(report.metrics)),
        chart=Markup(chart),
        suite=suites[0] if suites else "",
        headings=list(rows),
        tables=[_table(metric, rows) for metric in TABLE_TITLES if _has(metric, rows)],
        exports=Markup(_exports(report.exports)),
        samples=[_sample(index, report.evaluations) for index in report.samples],
        footer=report.footer,
    )


def _has(metric: str, rows: Mapping[str, Sequence[EvaluationRow]]) -> bool:
    return any(row.metric == metric for of_heading in rows.values() for row in of_heading)


def _table(metric: str, rows: Mapping[str, Sequence[EvaluationRow]]) -> dict[str, Any]:
    cells = {
        (heading, row.family): row for heading, of_heading in rows.items() for row in of_heading if row.metric == metric
    }
    shown = [heading for heading in rows if any(key[0] == heading for key in cells)]
    lines = []
    for family in dict.fromkeys(family for _, family in cells):
        present = [cells.get((heading, family)) for heading in shown]
        lines.append(
            {
                "family": family,
                "overall": family == OVERALL,
                "n": max(row.n for row in present if row is not None),
                "cells": [format_figure(row) for row in present],
            }
        )
    return {"title": TABLE_TITLES[metric], "headings": shown, "lines": lines}


def _tiles(rows: Mapping[str, Sequence[EvaluationRow]]) -> list[dict[str, str]]:
    """Show each heading's overall exact match as a large figure."""
    tiles = []
    for heading, of_heading in rows.items():
        for row in of_heading:
            if row.metric == "exact_match" and row.family in (OVERALL, SINGLE_FAMILY):
                note = f"{100 * (row.low or 0):.1f}–{100 * (row.high or 0):.1f}, n {row.n}"
                tiles.append({"label": heading, "value": f"{100 * row.value:.1f} %", "note": note})
    return tiles


def _sample(index: int, evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    answers = [
        {
            "heading": heading,
            "text": evaluation.answers[index].text.strip(),
            "correct": evaluation.answers[index].correct,
        }
        for heading, evaluation in evaluations.items()
    ]
    question = next(iter(evaluations.values())).suite.questions[index]
    return {"question": question.messages[-1].content, "reference": question.reference, "answers": answers}
