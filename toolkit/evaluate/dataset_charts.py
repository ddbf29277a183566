"""Charts of a dataset as inline SVG: histograms and bars, in the manner of a run's report."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from toolkit.evaluate.charts import WIDTH, nice_ticks, svg

_HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 232, 52, 12, 26, 40
_BINS = 40
_BAR_STEP, _BAR_HEIGHT, _LABEL, _FIGURES = 28, 16, 190, 250
_LABEL_CHARACTERS = 28
_MARK_WIDTH = 80


def histogram(values: NDArray, unit: str, *, series: int = 1, marks: Sequence[tuple[str, float]] = ()) -> str:
    """Draw how often values occur; empty without values.

    Args:
        values: (N,) numbers from 0 on; whole numbers get bins of whole numbers.
        unit: what they count, under the axis.
        series: colour, 1 to 4.
        marks: (name, value) of vertical lines, such as the median.
    """
    if not len(values):
        return ""
    edges = _edges(values)
    counts = np.histogram(values, bins=edges)[0]
    ticks = nice_ticks(float(counts.max()))
    width, height = WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    span = edges[-1] - edges[0]

    def across(value: float) -> float:
        return _LEFT + width * (value - edges[0]) / span

    parts = [_across_grid(ticks, height)]
    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        if count:
            tall = height * count / ticks[-1]
            note = f"<title>{left:g} to {right:g} {escape(unit)}: {count:,}</title>"
            wide = max(1.0, across(right) - across(left) - 1)
            place = f'x="{across(left) + 0.5:.1f}" y="{_TOP + height - tall:.1f}" rx="1.5"'
            size = f'width="{wide:.1f}" height="{tall:.1f}"'
            parts.append(f'<rect class="series-{series}" {place} {size}>{note}</rect>')
    parts += [_mark(name, across(value), value, height) for name, value in marks if edges[0] <= value <= edges[-1]]
    whole = np.issubdtype(values.dtype, np.integer)
    for tick in nice_ticks(float(edges[-1])):
        if edges[0] <= tick <= edges[-1] and not (whole and tick % 1):
            place = f'x="{across(tick):.1f}" y="{_TOP + height + 17}"'
            parts.append(f'<text class="axis" {place} text-anchor="middle">{tick:g}</text>')
    middle = _LEFT + width / 2
    parts.append(f'<text class="axis" x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(unit)}</text>')
    return svg(_HEIGHT, f"Histogram of {unit}", parts)


def _edges(values: NDArray) -> NDArray[np.float64]:
    """Return bin edges from 0: of whole numbers when the values are, forty at most."""
    top = float(values.max())
    if np.issubdtype(values.dtype, np.integer):
        step = max(1, int(np.ceil((top + 1) / _BINS)))
        return np.arange(0, top + 1 + step, step, dtype=np.float64)
    return np.linspace(0, max(top, 1.0), 21)


def _across_grid(ticks: Sequence[float], height: float) -> str:
    parts = []
    for tick in ticks:
        y = _TOP + height * (1 - tick / ticks[-1])
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="axis" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    return "".join(parts)


def _mark(name: str, x: float, value: float, height: float) -> str:
    anchor = "end" if x > WIDTH - _RIGHT - _MARK_WIDTH else "start"
    line = f'x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 16}" y2="{_TOP + height}" stroke-dasharray="4 3"'
    place = f'x="{x + (5 if anchor == "start" else -5):.1f}" y="{_TOP - 7}" text-anchor="{anchor}"'
    return f'<line class="line series-2" {line}/><text class="axis" {place}>{escape(name)} {value:,.4g}</text>'


def bars(rows: Sequence[tuple[str, float, str]], title: str) -> str:
    """Draw one bar for each (label, value, figures behind it), below each other; empty without rows."""
    if not rows:
        return ""
    longest = max(value for _, value, _ in rows) or 1.0
    width = WIDTH - _LABEL - _FIGURES
    parts = []
    for index, (label, value, figures) in enumerate(rows):
        y = 6 + index * _BAR_STEP
        short = label if len(label) <= _LABEL_CHARACTERS else f"{label[: _LABEL_CHARACTERS - 1]}…"
        wide = max(1.5, width * value / longest)
        parts.append(
            f"<g><title>{escape(f'{label}: {figures}')}</title>"
            f'<text class="label" x="0" y="{y + 12.5}">{escape(short)}</text>'
            f'<rect class="series-1" x="{_LABEL}" y="{y}" rx="3" height="{_BAR_HEIGHT}" width="{wide:.1f}"/>'
            f'<text class="axis" x="{_LABEL + wide + 8:.1f}" y="{y + 12.5}">{escape(figures)}</text></g>'
        )
    return svg(10 + len(rows) * _BAR_STEP, title, parts)
