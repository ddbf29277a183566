"""docs/datasets.md names every kind of finding and gives the limits that apply."""

from __future__ import annotations

import re
from pathlib import Path

from toolkit.datasets.validation.findings import KINDS
from toolkit.datasets.validation.thresholds import Thresholds

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "datasets.md").read_text(encoding="utf-8")
JUDGING = TEXT[TEXT.index("## Judging a dataset") :]


def cells() -> list[list[str]]:
    lines = [line for line in JUDGING.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_kind_of_finding_is_described_with_its_severity_and_no_other() -> None:
    described = {name: row[2] for row in cells() if len(row) == 3 for name in re.findall(r"`([\w-]+)`", row[0])}
    assert described == {name: kind.severity for name, kind in KINDS.items()}


def test_the_table_of_limits_gives_those_that_apply() -> None:
    limits = {re.findall(r"`(\w+)`", row[0])[0]: float(row[3]) for row in cells() if len(row) == 4}
    assert len(limits) == 12
    assert limits == {name: getattr(Thresholds(), name) for name in limits}
