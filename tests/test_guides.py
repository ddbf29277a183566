"""docs/training.md names every option with its default; docs/troubleshooting.md quotes what the toolkit really says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import toolkit
from toolkit.config import FinetuneConfig
from toolkit.config_files import option_paths

ROOT = Path(__file__).resolve().parents[1]
TRAINING = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
TROUBLESHOOTING = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
OPTIONS = dict(option_paths(FinetuneConfig))


def rows(text: str) -> list[list[str]]:
    """Return the cells of every table row."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def documented() -> dict[str, str]:
    """Return option → its default as the guide gives it (several options in a row share a cell)."""
    found: dict[str, str] = {}
    for row in rows(TRAINING):
        names = re.findall(r"`([\w.]+)`", row[0])
        if len(row) != 4 or not names:
            continue
        parts = row[1].split(", ") if len(names) > 1 and row[1].count(", ") == len(names) - 1 else [row[1]] * len(names)
        found |= dict(zip(names, parts, strict=True))
    return found


def test_the_guide_names_every_option_and_no_other():
    assert set(OPTIONS) == set(documented())


@pytest.mark.parametrize("path", [path for path, info in OPTIONS.items() if info.default is not None])
def test_the_guide_gives_the_defaults_that_the_config_has(path):
    default = OPTIONS[path].default
    shown = f"{default:g}" if isinstance(default, float) else str(default)
    assert documented()[path] in (shown, "under Guards")


def message_patterns() -> list[re.Pattern[str]]:
    """Return every text in the sources, with whatever is filled in left open."""
    patterns = set()
    for path in Path(toolkit.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts = [node.value]
            elif isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else None for part in node.values]
            else:
                continue
            if sum(len(part) for part in parts if part) > 10:
                patterns.add("".join(".+" if part is None else re.escape(part) for part in parts))
    return [re.compile(pattern, re.DOTALL) for pattern in patterns]


def quoted_messages() -> list[str]:
    """Return what the guide says that the toolkit prints: the lines of its `text` blocks."""
    blocks = re.findall(r"^```text\n(.*?)^```$", TROUBLESHOOTING, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()]


def is_said(text: str, patterns: list[re.Pattern[str]]) -> bool:
    """Say whether the sources can fill a text in, as a whole or behind `where: `."""
    places = [0, *(match.end() for match in re.finditer(": ", text))]
    return any(pattern.fullmatch(text, place) for place in places for pattern in patterns)


def test_every_message_that_the_guide_quotes_stands_in_the_sources():
    """A line is `where: what. hint`; `what` and `hint` are looked up one by one, since they are put together late."""
    patterns, lines = message_patterns(), quoted_messages()
    assert len(lines) >= 20
    for line in lines:
        for text in re.split(r"\. (?=[A-Zld])|(?=; \d)", line):
            assert is_said(text, patterns), f"{line}\n  {text}"


def test_a_message_that_nobody_prints_would_be_noticed():
    patterns = message_patterns()
    assert is_said("runs/mine: this run has no checkpoint", patterns)
    assert not is_said("runs/mine: this run has lost its checkpoints", patterns)


def test_every_test_that_the_table_of_defects_names_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TROUBLESHOOTING)
    assert len(named) >= 14
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{name}"
