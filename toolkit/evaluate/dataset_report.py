"""report.html of a dataset: one self-contained page with its verdict, findings, lengths, categories and variety."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from toolkit.datasets.validation.figures import figures_of, known
from toolkit.datasets.validation.findings import KINDS
from toolkit.datasets.validation.validate import Validation
from toolkit.evaluate.dataset_charts import bars, histogram

_TEMPLATE = "dataset_report.html.jinja"
_SHOWN_PLACES = 3
_SHOWN_CATEGORIES = 30
_DIVERSITY = {
    "template_entropy": ("templates of questions, entropy of a hundred", "min_template_entropy"),
    "template_share": ("questions of the commonest template", "max_template_share"),
    "opening_share": ("questions with the commonest three first words", "max_opening_share"),
    "distinct_trigrams": ("distinct word trigrams of two thousand", "min_distinct_trigrams"),
    "trigram_entropy": ("entropy of those trigrams", ""),
}


@dataclass(frozen=True)
class DatasetReport:
    """What the page shows.

    title:      of the dataset
    subtitle:   files and model, in one line
    validation: what was found and measured
    footer:     versions and the command that repeats it
    """

    title: str
    subtitle: str
    validation: Validation
    footer: str


def render_dataset_report(report: DatasetReport) -> str:
    """Render the page. Every text is escaped: a dataset may well hold HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    judged = report.validation
    figures = figures_of(judged)
    return environment.get_template(_TEMPLATE).render(
        title=report.title,
        subtitle=report.subtitle,
        footer=report.footer,
        tiles=_tiles(figures),
        good=judged.good,
        checks=[_check_row(check) for check in figures["thresholds"]],
        findings=_finding_rows(judged),
        charts=_length_charts(judged, figures),
        categories=Markup(_category_chart(figures)),
        difficulty=Markup(_difficulty_chart(judged)),
        diversity=_diversity_rows(figures),
        templates=[row for row in figures["templates"] if row["count"] > 1],
        openings=[row for row in figures["openings"] if row["count"] > 1],
        splits=figures["splits"],
        languages=figures["languages"],
    )


def _tiles(figures: dict[str, Any]) -> list[dict[str, str]]:
    examples = figures["examples"]
    repeated = sum(figures["findings"].get(kind, 0) for kind in ("exact-duplicate", "near-duplicate"))
    tokens = figures["lengths"]["tokens"]
    broken = sum(not check["good"] for check in figures["thresholds"])
    note = f"of {figures['records']:,} records" if figures["records"] != examples else "every record could be read"
    tiles = [{"label": "examples", "value": f"{examples:,}", "note": note}]
    if tokens:
        tiles.append(
            {"label": "tokens, median", "value": f"{tokens['median']:,.0f}", "note": f"longest {tokens['most']:,}"}
        )
    share = f"{repeated / examples:.1%} of the examples" if examples else ""
    tiles.append({"label": "exact and near duplicates", "value": f"{repeated:,}", "note": share})
    names = ", ".join(f"{count:,} {name}" for name, count in figures["splits"].items())
    tiles.append({"label": "thresholds broken", "value": f"{broken}", "note": names})
    return tiles


def _check_row(check: dict[str, Any]) -> dict[str, Any]:
    value, limit = check["value"], check["limit"]
    sign = "≥" if check["name"].startswith("min_") else "≤"
    measured = "–" if value is None else _short(value)
    return {"name": check["name"], "limit": f"{sign} {_short(limit)}", "value": measured, "good": check["good"]}


def _short(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _finding_rows(judged: Validation) -> list[dict[str, Any]]:
    rows = []
    for kind, about in KINDS.items():
        count = judged.findings.counts[kind]
        if count:
            shown = judged.findings.of_kind(kind)[:_SHOWN_PLACES]
            rows.append({"title": about.title, "severity": about.severity, "count": f"{count:,}", "shown": shown})
    return rows


def _length_charts(judged: Validation, figures: dict[str, Any]) -> list[dict[str, Any]]:
    charts = []
    columns = judged.columns
    for name, column, unit, series in (
        ("tokens", columns.tokens, "tokens of an example, its template included", 1),
        ("prompt_words", columns.prompt_words, "words of a question", 3),
        ("answer_words", columns.answer_words, "words of an answer", 3),
    ):
        lengths = figures["lengths"][name]
        if lengths:
            marks = (("median", lengths["median"]), ("99 %", lengths["p99"]))
            drawn = histogram(np.array(column), unit, series=series, marks=marks)
            charts.append({"svg": Markup(drawn), "mean": f"{lengths['mean']:,.1f}", "unit": unit})
    return charts


def _category_chart(figures: dict[str, Any]) -> str:
    rows = figures["categories"]
    shown = rows[:_SHOWN_CATEGORIES]
    drawn = [(row["category"], row["examples"], _category_figures(row)) for row in shown]
    rest = sum(row["examples"] for row in rows[_SHOWN_CATEGORIES:])
    if rest:
        drawn.append((f"{len(rows) - _SHOWN_CATEGORIES} more", rest, f"{rest:,}"))
    return bars(drawn, "Examples by category")


def _category_figures(row: dict[str, Any]) -> str:
    difficulty = "" if row["mean_difficulty"] is None else f", difficulty {row['mean_difficulty']:.2f}"
    return f"{row['examples']:,} ({row['share']:.1%}){difficulty}"


def _difficulty_chart(judged: Validation) -> str:
    values = known(np.array(judged.columns.difficulty))
    inside = values[(values >= 0) & (values <= 1)]
    return histogram(inside, "difficulty", series=2) if len(inside) and inside.any() else ""


def _diversity_rows(figures: dict[str, Any]) -> list[dict[str, str]]:
    limits = {check["name"]: check for check in figures["thresholds"]}
    rows = []
    for name, (title, threshold) in _DIVERSITY.items():
        value = figures["diversity"][name]
        limit = _check_row(limits[threshold])["limit"] if threshold else ""
        rows.append({"title": title, "value": "–" if value is None else f"{value:.3f}", "limit": limit})
    return rows
