"""The report page: self-contained, escaped, and its charts drawn from the figures."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from toolkit.evaluate.charts import exact_match_chart, loss_curve, nice_ticks, smooth
from toolkit.evaluate.evaluation import Evaluation
from toolkit.evaluate.exact_match import Answer
from toolkit.evaluate.perplexity import ExampleLoss
from toolkit.evaluate.report import Report, refresh_report, render_report, write_report
from toolkit.evaluate.results import EvaluationRow
from toolkit.evaluate.suites import Suite
from toolkit.runs import RunFolder

METRICS = [{"step": step, "loss": 3.0 / (1 + step), "learning_rate": 1e-3} for step in range(1, 41)] + [
    {"step": step, "val_loss": 3.1 / (1 + step)} for step in (0, 20, 40)
]
HOSTILE = '<script src="https://example.org/x.js">alert(1)</script>'


@pytest.fixture
def report(example) -> Report:
    suite = Suite("starter/validation", (example("What is 1 + 1?", "2", "sums"), example("Why?", "So.", "facts")), 2)
    losses, named = (ExampleLoss(2.0, 1.0), ExampleLoss(1.0, 1.0)), ("sums", "facts")
    before = Evaluation("nano", suite, (Answer(HOSTILE, False, False), Answer("", True, False)), losses, named)
    after = Evaluation("run", suite, (Answer("2", True, True), Answer("So.", True, True)), losses, named)
    return Report("run-001", "nano on starter", METRICS, {"before": before, "after": after}, (0, 1), "torch 2.13")


def test_the_page_needs_nothing_from_elsewhere(report: Report) -> None:
    links: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            links.extend(str(value) for name, value in attrs if name in ("src", "href"))
            assert tag not in ("script", "link", "iframe")

    page = render_report(report)
    Links().feed(page)
    assert links == []
    assert "url(" not in page and "@import" not in page


def test_answers_are_escaped_and_marked_right_or_wrong(report: Report) -> None:
    page = render_report(report)
    assert "<script" not in page
    assert "&lt;script src=" in page
    assert '<dd class="right">2</dd>' in page
    assert '<dd class="wrong">(nothing)</dd>' in page


def test_figures_of_every_family_and_target_are_on_the_page(report: Report, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", report)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert page.count("100.0 (20.7–100.0)") == 2  # Wilson, 1 of 1, for each family
    assert "0.0 (0.0–65.8)" in page and "100.0 (34.2–100.0)" in page  # overall, 0 and 2 of 2
    assert re.search(r'<tr class="overall"><td>overall</td><td>2</td>', page)
    assert "prefers-color-scheme: dark" in page


def test_the_loss_curve_is_well_formed_and_lies_where_the_losses_are() -> None:
    root = ElementTree.fromstring(loss_curve(METRICS))
    dots = [(float(dot.get("cx", 0)), float(dot.get("cy", 0))) for dot in root.iter("circle")]
    assert len(dots) == 3
    assert dots == sorted(dots)  # falling loss: further right, further down
    assert {line.get("class") for line in root.iter("polyline")} == {
        "line series-1 faint",
        "line series-1",
        "line series-2",
    }


def test_labels_never_leave_the_picture_and_never_overlap() -> None:
    low = [{"step": step, "loss": 1e-3 if step else 3.0} for step in range(50)] + [{"step": 49, "val_loss": 2e-3}]
    root = ElementTree.fromstring(loss_curve(low))
    height = float(root.get("viewBox", "").split()[3])
    labels = sorted(float(text.get("y", 0)) for text in root.iter("text") if text.get("class") == "label")
    assert labels[-1] + 14 < height
    assert labels[1] - labels[0] >= 30


@pytest.mark.parametrize("metrics", [[], [{"step": 1}], [{"step": 1, "loss": math.nan}]])
def test_without_losses_there_is_no_curve(metrics: list) -> None:
    assert loss_curve(metrics) == ""


def test_one_logged_step_is_enough_for_a_curve() -> None:
    ElementTree.fromstring(loss_curve([{"step": 1, "loss": 2.0}]))


def test_exact_match_is_drawn_with_its_interval() -> None:
    rows = [EvaluationRow("nano", "s", "a & b", "exact_match", 0.5, 0.25, 0.75, 8)]
    root = ElementTree.fromstring(exact_match_chart(rows, {"nano": "before"}))
    line = next(line for line in root.iter("line") if "series-1" in line.get("class", ""))
    dot = next(root.iter("circle"))
    middle = (float(line.get("x1", 0)) + float(line.get("x2", 0))) / 2
    assert float(dot.get("cx", 0)) == pytest.approx(middle, abs=0.1)
    assert any(text.text == "a & b" for text in root.iter("text"))


@pytest.mark.parametrize(("top", "ticks"), [(3.0, [0, 1, 2, 3]), (0.9, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0, [0, 1])])
def test_axes_have_round_numbers_that_reach_the_top(top: float, ticks: list[float]) -> None:
    assert nice_ticks(top) == pytest.approx(ticks)


def test_smoothing_keeps_a_straight_line_straight() -> None:
    line = [(float(step), 2.0 * step) for step in range(100)]
    np.testing.assert_allclose(smooth(line), line)


GATES = [
    ("structure", True, {"bits_per_weight": 4.9, "bytes": 3_500_000, "sha256": "ab" * 32, "adapter_merged_into": "it"}),
    ("chat", False, {"conversations": 8, "never_ending": ["<|im_end|>"]}),
    ("behaviour", True, {"mean_kl": 0.0123, "top1_agreement": 0.9, "perplexity_ratio": 1.02}),
]


def entries(file: str, **changes: object) -> list[dict[str, object]]:
    rows = [{"file": file, "gate": gate, "passed": good, "figures": figures} for gate, good, figures in GATES]
    return [{**row, **changes} for row in rows]


def test_exported_files_show_their_losses_and_their_gates(report: Report) -> None:
    page = render_report(replace(report, exports=[*entries(f"a{HOSTILE}.gguf"), *entries("b.gguf", passed=True)]))
    assert "<script" not in page
    assert (
        '<td>b.gguf</td><td class="good">3 passed</td><td>4.9</td><td>3.5 MB</td><td>0.0123</td><td>90.0%</td>' in page
    )
    assert '<td class="bad">failed: chat</td>' in page
    assert '<dd class="wrong">conversations 8, never ending &lt;|im_end|&gt;</dd>' in page
    assert "adapter merged into it" in page
    assert "abab" not in page
    assert "Exported files" not in render_report(report)


def test_an_export_changes_its_own_part_of_the_page_alone(report: Report, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run-001")
    run.export.mkdir(parents=True)
    write_report(run.path / "report.html", report)
    before = (run.path / "report.html").read_text("utf-8")
    for name in ("one.gguf", "two.gguf"):
        (run.export / "verification.json").write_text(json.dumps(entries(name)), "utf-8")
        assert refresh_report(run) == run.path / "report.html"
        page = (run.path / "report.html").read_text("utf-8")
        assert page.count("Exported files") == 1
        assert f"<td>{name}</td>" in page
        assert '<dd class="wrong">(nothing)</dd>' in page  # the samples are still there
    assert "one.gguf" not in page
    (run.export / "verification.json").unlink()
    refresh_report(run)
    assert (run.path / "report.html").read_text("utf-8") == before


def test_a_run_without_a_page_gets_one_of_curves_and_exports(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run-001")
    run.export.mkdir(parents=True)
    (run.export / "verification.json").write_text(json.dumps(entries("one.gguf")), "utf-8")
    run.update_manifest({"model": "nano", "method": "lora", "data": "starter", "total_steps": 40})
    for row in METRICS:
        run.append_metrics(row)
    page = refresh_report(run).read_text("utf-8")
    assert "nano, lora on starter · 40 steps on ?" in page
    assert "<svg" in page
    assert "<td>one.gguf</td>" in page
