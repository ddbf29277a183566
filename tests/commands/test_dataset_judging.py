from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.datasets.validation.judging import EXCERPT, clean_records, write
from tests.small_runs import toolkit
from toolkit.datasets.validation.thresholds import Thresholds

GSM8K = ("--set", "data.prompt=question", "--set", "data.completion=answer")


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    records = clean_records(12)
    records[4]["metadata"]["difficulty"] = 4
    records.append({**records[2], "metadata": {"id": "again"}})
    return write(tmp_path / "train.jsonl", [*records, b'{"instruction": "?", \n'])


def test_findings_are_printed_with_file_line_and_advice_and_the_exit_code_is_1(faulty: Path) -> None:
    ran = toolkit("dataset", "validate", faulty)
    assert ran.exit_code == 1
    lines = ran.stdout.splitlines()
    assert f"{faulty}:5: metadata: difficulty is 4, not a number from 0 to 1. Scale it to 0 to 1" in lines
    assert f"{faulty}:13: exact-duplicate: the same as {faulty}:3. Take it out: toolkit dataset dedupe" in lines
    assert any(line.startswith(f"{faulty}:14: unreadable: invalid JSON") for line in lines)
    assert "13 of 14 records could be read" in lines
    assert "broken: max_metadata_faults: 1, at most 0 asked for" in lines


def test_a_clean_set_is_good_and_the_exit_code_is_0() -> None:
    ran = toolkit("dataset", "validate", EXCERPT, *GSM8K, "--max-tokens", "700")
    assert (ran.exit_code, ran.stderr) == (0, "")
    assert "300 of 300 records could be read" in ran.stdout and "good: all" in ran.stdout


def test_json_holds_figures_thresholds_and_findings(faulty: Path) -> None:
    ran = toolkit("dataset", "validate", faulty, "--json", "--no-tokens")
    found = json.loads(ran.stdout)
    assert (found["records"], found["examples"], found["good"]) == (14, 13, False)
    assert found["findings"] == {"unreadable": 1, "exact-duplicate": 1, "metadata": 1}
    assert {finding["where"] for finding in found["all_findings"]} == {f"{faulty}:{line}" for line in (5, 13, 14)}
    assert set(found["all_findings"][0]) == {"kind", "severity", "where", "what", "advice"}


def test_thresholds_of_ones_own_decide_the_exit_code(faulty: Path, tmp_path: Path) -> None:
    limits = tmp_path / "limits.yaml"
    limits.write_text("max_unreadable: 1\nmax_metadata_faults: 1\nmax_exact_duplicate_share: 0.1\n")
    again = "max_near_duplicate_share: 0.1\n"
    limits.write_text(limits.read_text() + again)
    assert toolkit("dataset", "validate", faulty, "--no-tokens", "--thresholds", limits).exit_code == 0


def test_the_thresholds_that_are_printed_are_those_that_apply(tmp_path: Path) -> None:
    ran = toolkit("dataset", "validate", "--show-thresholds")
    assert yaml.safe_load(ran.stdout) == Thresholds().model_dump(mode="json")
    (tmp_path / "limits.yaml").write_text(ran.stdout)
    path = write(tmp_path / "train.jsonl", clean_records(3))
    assert toolkit("dataset", "validate", path, "--no-tokens", "--thresholds", tmp_path / "limits.yaml").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.jsonl",), "error: nowhere.jsonl: no such file\n"),
        (("{data}", "--thresholds", "no.yaml"), "error: no.yaml: no such file. Begin one with --show-thresholds\n"),
        (("{data}", "--set", "lora.rank=4"), "error: --set lora.rank=4: only data.… options can be set here\n"),
        (("{data}", "--against", "no.jsonl"), "error: no.jsonl: no such file\n"),
    ],
)
def test_bad_requests_are_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    data = write(tmp_path / "train.jsonl", clean_records(2))
    ran = toolkit("dataset", "validate", *(str(text).format(data=data) for text in arguments), "--no-tokens")
    assert (ran.exit_code, ran.stderr) == (2, message)


def test_a_report_is_one_page_that_loads_nothing_and_json_beside_it(faulty: Path, tmp_path: Path) -> None:
    records = clean_records(1)
    records[0]["metadata"]["category"] = "<script>alert(1)</script>"
    more = write(tmp_path / "part.jsonl", records)
    ran = toolkit("dataset", "report", faulty, more, "--out", tmp_path / "page", "--title", "A & B")
    page = (tmp_path / "page" / "report.html").read_text("utf-8")
    figures = json.loads((tmp_path / "page" / "report.json").read_text("utf-8"))
    assert ran.exit_code == 1 and "broken: max_metadata_faults" in ran.stdout
    assert "A &amp; B" in page and "<script" not in page
    assert not re.search(r"""(?:src|href)=["']|@import|url\(""", page)
    assert page.count("<svg") == 5  # tokens, question, answer, categories, difficulty
    assert f"{faulty}:5" in page and "A threshold is broken" in page
    assert [row["category"] for row in figures["categories"]] == ["sums", "<script>alert(1)</script>"]
    bars = re.findall(r'<rect class="series-1" x="190"[^>]* width="([\d.]+)"', page)
    assert len(bars) == 2 and float(bars[0]) > 10 * float(bars[1])


def test_histograms_count_every_example(tmp_path: Path) -> None:
    toolkit("dataset", "report", EXCERPT, *GSM8K, "--out", tmp_path, "--no-tokens")
    page = (tmp_path / "report.html").read_text("utf-8")
    counts = [int(text.replace(",", "")) for text in re.findall(r"words of a question: ([\d,]+)</title>", page)]
    assert sum(counts) == 300
