"""Charts of a run as inline SVG; colours come from the page's style sheet (classes `series-1` …), hence dark mode."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from toolkit.evaluate.results import EvaluationRow

WIDTH = 760
CURVE_HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 300, 46, 92, 14, 36
ROW_STEP, ROW_GAP = 17, 18
LABEL_WIDTH = 150
LABEL_STEP = 34
FIGURE_WIDTH = 150

Point = tuple[float, float]


def nice_ticks(top: float, count: int = 5) -> list[float]:
    """Return round numbers from 0 to at least `top`, about `count` of them."""
    if top <= 0:
        return [0.0, 1.0]
    raw = top / count
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw * 0.999)
    return [step * index for index in range(math.ceil(top / step - 1e-9) + 1)]


def smooth(points: Sequence[Point], share: float = 0.05) -> list[Point]:
    """Average each point with its neighbours, `share` of the curve to either side: noise must not hide the trend."""
    reach = int(len(points) * share)
    smoothed = []
    for index, (step, _) in enumerate(points):
        near = min(reach, index, len(points) - 1 - index)
        window = points[index - near : index + near + 1]
        smoothed.append((step, sum(value for _, value in window) / len(window)))
    return smoothed


def loss_curve(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Draw training loss (single steps faint, their trend on top) and validation loss; empty without data."""
    training = _points(metrics, "loss")
    validation = _points(metrics, "val_loss")
    if not training and not validation:
        return ""
    last_step = max(step for step, _ in [*training, *validation]) or 1.0
    ticks = nice_ticks(max(value for _, value in [*training, *validation]))

    def place(point: Point) -> Point:
        across = LEFT + (WIDTH - LEFT - RIGHT) * point[0] / last_step
        down = TOP + (CURVE_HEIGHT - TOP - BOTTOM) * (1 - point[1] / ticks[-1])
        return across, down

    parts = [_grid(ticks, last_step, place)]
    if training:
        parts.append(_line([place(point) for point in training], "series-1 faint"))
        parts.append(_line([place(point) for point in smooth(training)], "series-1"))
    if validation:
        parts.append(_line([place(point) for point in validation], "series-2"))
        for point in validation:
            x, y = place(point)
            note = f"<title>step {point[0]:.0f}: validation loss {point[1]:.3f}</title>"
            parts.append(f'<circle class="series-2" cx="{x:.1f}" cy="{y:.1f}" r="4">{note}</circle>')
    parts.append(_end_labels([("training", smooth(training)), ("validation", validation)], place))
    return svg(CURVE_HEIGHT, "Loss by step", parts)


def _points(metrics: Sequence[Mapping[str, Any]], name: str) -> list[Point]:
    rows = ((row.get("step"), row.get(name)) for row in metrics)
    return [
        (float(step), float(value))
        for step, value in rows
        if isinstance(step, int | float) and isinstance(value, int | float) and math.isfinite(value)
    ]


def _grid(ticks: Sequence[float], last_step: float, place: Any) -> str:
    parts = []
    for tick in ticks:
        _, y = place((0, tick))
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="axis" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for step in nice_ticks(last_step):
        if step <= last_step:
            x, _ = place((step, 0))
            y = CURVE_HEIGHT - BOTTOM + 18
            parts.append(f'<text class="axis" x="{x:.1f}" y="{y}" text-anchor="middle">{step:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{CURVE_HEIGHT - 2}" text-anchor="middle">step</text>')
    return "".join(parts)


def _line(points: Sequence[Point], style: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="line {style}" points="{path}"/>'


def _end_labels(curves: Sequence[tuple[str, Sequence[Point]]], place: Any) -> str:
    """Name each curve where it ends, with its last value; pushed apart where two end close together."""
    ends = sorted(
        ((*place(points[-1]), name, points[-1][1]) for name, points in curves if points), key=lambda end: end[1]
    )
    heights: list[float] = []
    for _, y, _, _ in ends:
        heights.append(max(y, heights[-1] + LABEL_STEP) if heights else y)
    # What the pushing drove below the axis goes up again, all of it together.
    overflow = max(0.0, heights[-1] - (CURVE_HEIGHT - BOTTOM - 8)) if heights else 0.0
    return "".join(
        f'<text class="label" x="{x + 10:.1f}" y="{y - overflow - 2:.1f}">{name}</text>'
        f'<text class="axis" x="{x + 10:.1f}" y="{y - overflow + 12:.1f}">{value:.3f}</text>'
        for (x, _, name, value), y in zip(ends, heights, strict=True)
    )


def exact_match_chart(rows: Sequence[EvaluationRow], headings: Mapping[str, str]) -> str:
    """Draw exact match as dots with their 95 % intervals: families below each other, a line for each target."""
    rows = [row for row in rows if row.metric == "exact_match" and row.target in headings]
    if not rows:
        return ""
    families = list(dict.fromkeys(row.family for row in rows))
    targets = list(headings)
    left, right = LABEL_WIDTH, WIDTH - FIGURE_WIDTH

    def across(share: float) -> float:
        return left + (right - left) * share

    parts, y = [], 12.0
    bottom = 12 + sum(ROW_GAP + ROW_STEP * sum(row.family == family for row in rows) for family in families)
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x = across(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{bottom:.1f}"/>')
        parts.append(f'<text class="axis" x="{x:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{tick:.0%}</text>')
    for family in families:
        of_family = sorted((row for row in rows if row.family == family), key=lambda row: targets.index(row.target))
        middle = y + ROW_STEP * (len(of_family) - 1) / 2
        parts.append(f'<text class="label" x="0" y="{middle + 4:.1f}">{escape(family)}</text>')
        for row in of_family:
            parts.append(_whisker(row, targets.index(row.target) + 1, headings[row.target], across, y, right))
            y += ROW_STEP
        y += ROW_GAP
    return svg(int(bottom + 24), "Exact match by family", parts)


def _whisker(row: EvaluationRow, series: int, heading: str, across: Any, y: float, right: float) -> str:
    low = row.value if row.low is None else row.low
    high = row.value if row.high is None else row.high
    figures = f"{100 * row.value:.1f} % ({100 * low:.1f}–{100 * high:.1f})"
    return (
        f"<g><title>{escape(f'{heading}: {figures}, n {row.n}')}</title>"
        f'<line class="line series-{series}" x1="{across(low):.1f}" x2="{across(high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<circle class="series-{series}" cx="{across(row.value):.1f}" cy="{y:.1f}" r="5"/>'
        f'<text class="axis" x="{right + 14}" y="{y + 4:.1f}">{figures}</text></g>'
    )


def svg(height: int, title: str, parts: Sequence[str]) -> str:
    """Wrap drawn parts into a picture of the charts' width."""
    opening = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
    return opening + "".join(parts) + "</svg>"
