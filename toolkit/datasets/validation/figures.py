"""The figures of a judged dataset as plain JSON values: for `--json`, the report and the thresholds' script."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.datasets.validation.columns import Columns
from toolkit.datasets.validation.findings import KINDS
from toolkit.datasets.validation.validate import Validation

Figures = dict[str, Any]


def figures_of(validation: Validation) -> Figures:
    """Return counts, lengths, categories, difficulty, diversity, findings by kind and thresholds."""
    columns = validation.columns
    return {
        "records": validation.records,
        "examples": len(columns),
        "good": validation.good,
        "splits": _counts(columns.split, columns.splits.all()),
        "language": validation.language,
        "languages": _counts(columns.language, [name or "unknown" for name in columns.languages.all()]),
        "lengths": {
            "tokens": lengths(np.array(columns.tokens)),
            "prompt_words": lengths(np.array(columns.prompt_words)),
            "answer_words": lengths(np.array(columns.answer_words)),
        },
        "categories": _categories(columns),
        "difficulty": lengths(known(np.array(columns.difficulty))),
        "diversity": asdict(validation.diversity),
        "templates": [{"template": text, "count": count} for text, count in validation.templates],
        "openings": [{"opening": text, "count": count} for text, count in validation.openings],
        "findings": {kind: validation.findings.counts[kind] for kind in KINDS if validation.findings.counts[kind]},
        "thresholds": [asdict(check) | {"good": check.good} for check in validation.checks],
    }


def findings_of(validation: Validation) -> list[Figures]:
    """Return the findings that were kept, each with its kind, severity, place, words and advice."""
    return [
        {"kind": f.kind, "severity": f.severity, "where": f.where, "what": f.what, "advice": f.advice}
        for f in validation.findings
    ]


def lengths(values: NDArray[Any]) -> Figures | None:
    """Return mean, least, most and percentiles of (N,) numbers; None of nothing or of nothing but zeros."""
    if not len(values) or not values.any():
        return None
    names = ("median", "p90", "p99")
    marks = dict(zip(names, np.percentile(values, (50, 90, 99)).tolist(), strict=True))
    return {"mean": round(float(values.mean()), 4), "least": values.min().item(), **marks, "most": values.max().item()}


def known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the numbers among some that may be missing (NaN)."""
    return values[~np.isnan(values)]


def _counts(column: Any, names: list[str]) -> dict[str, int]:
    counts = Counter(column)
    return {names[number]: count for number, count in counts.most_common() if number >= 0}


def _categories(columns: Columns) -> list[Figures]:
    """Return one row for each category, the largest first."""
    names = columns.categories.all()
    category = np.array(columns.category)
    tokens, words = np.array(columns.tokens), np.array(columns.answer_words)
    difficulty = np.array(columns.difficulty)
    rows = []
    for number, count in sorted(Counter(columns.category).items(), key=lambda item: (-item[1], item[0])):
        if number < 0:
            continue
        own = category == number
        levels = known(difficulty[own])
        rows.append(
            {
                "category": names[number],
                "examples": count,
                "share": count / len(category),
                "median_tokens": float(np.median(tokens[own])),
                "median_answer_words": float(np.median(words[own])),
                "mean_difficulty": round(float(levels.mean()), 4) if len(levels) else None,
            }
        )
    return rows
