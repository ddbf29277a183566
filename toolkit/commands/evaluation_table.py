"""Evaluations as tables for the terminal, one for each metric; families in rows, targets in columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from toolkit.evaluate.evaluation import Comparison
from toolkit.evaluate.questions import OVERALL
from toolkit.evaluate.results import EvaluationRow, format_figure

PIPED_WIDTH = 120
TITLES = {"exact_match": "Exact match in % (95 % interval)", "perplexity": "Perplexity (95 % interval)"}


def console_for_results() -> Console:
    """Open stdout; where it is not a terminal, lines may be as long as the tables need."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPED_WIDTH)


def tables(rows: Sequence[EvaluationRow], headings: Mapping[str, str] | None = None) -> list[Table]:
    """Lay out rows of one suite. `headings` renames targets; their columns stand in the order of the rows."""
    targets = list(dict.fromkeys(row.target for row in rows))
    metrics = [metric for metric in TITLES if any(row.metric == metric for row in rows)]
    return [
        _table(metric, [row for row in rows if row.metric == metric], targets, headings or {}) for metric in metrics
    ]


def _table(metric: str, rows: Sequence[EvaluationRow], targets: Sequence[str], headings: Mapping[str, str]) -> Table:
    table = Table(title=f"{TITLES[metric]} · {rows[0].suite}", title_justify="left", title_style="bold")
    table.add_column("family")
    table.add_column("n", justify="right")
    shown = [target for target in targets if any(row.target == target for row in rows)]
    for target in shown:
        table.add_column(headings.get(target, target), justify="right")
    cells = {(row.family, row.target): row for row in rows}
    for family in dict.fromkeys(row.family for row in rows):
        present = [cells[family, target] for target in shown if (family, target) in cells]
        if family == OVERALL:
            table.add_section()
        figures = [format_figure(cells.get((family, target))) for target in shown]
        table.add_row(family, str(max(row.n for row in present)), *figures, style="bold" if family == OVERALL else "")
    return table


def format_comparison(comparison: Comparison, first: str | None = None, second: str | None = None) -> str:
    """Write a paired difference: `after against before, overall: +85.0 points (+79.1 to +90.2), McNemar p < 0.001`.

    `first` and `second` rename the targets.
    """
    paired = comparison.exact_match
    p_value = "p < 0.001" if paired.p_value < 0.001 else f"p = {paired.p_value:.3f}"
    points = f"{100 * paired.difference:+.1f} points ({100 * paired.low:+.1f} to {100 * paired.high:+.1f})"
    sides = f"{second or comparison.second} against {first or comparison.first}"
    return f"{sides}, {comparison.family}: {points}, McNemar {p_value}"
