"""report.html: one self-contained page about a run, with its curves, figures before and after, and sample answers."""

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
from toolkit.evaluate.questions import OVERALL, SINGLE_FAMILY
from toolkit.evaluate.results import EvaluationRow, format_figure

TEMPLATE = "report.html.jinja"
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
    """

    run: str
    subtitle: str
    metrics: Sequence[Mapping[str, Any]]
    evaluations: Mapping[str, Evaluation]
    samples: Sequence[int]
    footer: str


def write_report(path: Path, report: Report) -> None:
    """Render the page and write it atomically."""
    write_atomic(path, render_report(report))


def render_report(report: Report) -> str:
    """Render the page. Every text is escaped: a model may well answer with HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
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
