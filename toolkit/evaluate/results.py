"""The rows of `evaluation.json`: one figure of one target on one family, with its interval."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from toolkit.atomic_files import write_atomic
from toolkit.errors import ToolkitError
from toolkit.evaluate.intervals import Estimate

Metric = Literal["exact_match", "perplexity"]


@dataclass(frozen=True)
class EvaluationRow:
    """One figure.

    target:    what was measured, as the user named it, or `nearest question` for the baseline
    suite:     the data and its split, e.g. `starter/validation`
    family:    `metadata.category`, `all` where the data has none, or `overall`
    metric:    exact_match (0..1) or perplexity (1..)
    low, high: 95 % interval; None where n is too small for one
    n:         examples
    """

    target: str
    suite: str
    family: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int


def make_row(target: str, suite: str, family: str, metric: Metric, estimate: Estimate) -> EvaluationRow:
    """Build a row; what JSON cannot say (NaN) becomes None."""
    low = None if math.isnan(estimate.low) else estimate.low
    high = None if math.isnan(estimate.high) else estimate.high
    return EvaluationRow(target, suite, family, metric, estimate.value, low, high, estimate.n)


def format_figure(row: EvaluationRow | None) -> str:
    """Write a figure with its interval: `97.5 (94.1–99.0)`; a dash where nothing was measured."""
    if row is None:
        return "–"
    write = _percent if row.metric == "exact_match" else _perplexity
    if row.low is None or row.high is None:
        return write(row.value)
    return f"{write(row.value)} ({write(row.low)}–{write(row.high)})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _perplexity(value: float) -> str:
    if math.isinf(value) or value >= 1e6:
        return "over a million"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def rows_as_json(rows: Sequence[EvaluationRow]) -> str:
    """Render rows as JSON text that a strict parser reads; an infinite perplexity becomes null."""
    return json.dumps([_finite(asdict(row)) for row in rows], indent=2, allow_nan=False) + "\n"


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}


def read_rows(path: Path) -> list[EvaluationRow]:
    """Read an `evaluation.json`. Raises ToolkitError when it is not one."""
    names = {field.name for field in fields(EvaluationRow)}
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
        rows = [{key: row[key] for key in names} for row in loaded]
    except (ValueError, KeyError, TypeError) as error:
        raise ToolkitError(
            "is not a list of evaluation rows", where=path, hint="Move it away, or name another file with --out"
        ) from error
    return [EvaluationRow(**{**row, "value": math.inf if row["value"] is None else row["value"]}) for row in rows]


def save_rows(path: Path, rows: Sequence[EvaluationRow]) -> None:
    """Write rows atomically; rows already there stay, unless the same target was measured again on the same suite."""
    fresh = {(row.target, row.suite) for row in rows}
    kept = [row for row in read_rows(path) if (row.target, row.suite) not in fresh] if path.exists() else []
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, rows_as_json([*kept, *rows]))
