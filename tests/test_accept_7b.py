"""`make accept-7b`, the whole way, on the bundled model in place of seven billion parameters."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts.accept_7b import BEGIN, END, Acceptance, announce_download, check_table, get_model, measure, write_row
from toolkit.errors import JobFailed, ToolkitError
from toolkit.runs import RunFolder

ROOT = Path(__file__).resolve().parents[1]
SMALL = "data.max_seq_tokens=64 train.accumulation=2"


def accept(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TOOLKIT_RUNS_DIR": str(folder / "runs"),
        "ACCEPT_TABLE": str(folder / "benchmarks.md"),
        **variables,
    }
    return subprocess.run(
        [sys.executable, "-m", "scripts.accept_7b"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=400,
    )


def rows(table: Path) -> list[list[str]]:
    inside = table.read_text().partition(BEGIN)[2].partition(END)[0]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in inside.strip().splitlines()]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return Path(shutil.copy(ROOT / "docs" / "benchmarks.md", tmp_path / "benchmarks.md"))


@pytest.mark.slow
def test_it_trains_exports_asks_and_writes_one_row_and_a_second_time_goes_on_from_what_is_there(tmp_path, table):
    before = rows(table)
    done = accept(tmp_path, ACCEPT_MODEL="nano", ACCEPT_SET=SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    *old, row = rows(table)
    assert old == before
    assert len(row) == len(before[0]) == 11
    assert row[4] == f"nano (qwen2.5-coder-7b-qlora, {SMALL.replace(' ', ', ')})"
    assert row[5].endswith("on cpu, 128 tokens an update")  # 2 rows of 64: nothing but full ones
    assert (
        row[6].endswith("GiB (process)") and float(row[7].removesuffix(" s")) > 0 and float(row[8].replace(",", "")) > 0
    )
    passed, of, total, *_ = row[9].split()
    assert passed == total and of == "of" and int(total) >= 5
    assert row[10].startswith("answers, ")
    assert (tmp_path / "runs" / "accept-nano" / "export" / "accept-nano-Q4_K_M.gguf").is_file()
    written = table.stat().st_mtime_ns
    again = accept(tmp_path, ACCEPT_MODEL="nano", ACCEPT_SET=SMALL)
    assert again.returncode == 0, again.stderr[-3000:]
    assert (
        "finished already" in again.stderr and "exporting" not in again.stderr.partition("[4/5]")[2].partition("\n")[2]
    )
    assert len(rows(table)) == len(before) + 1
    assert table.stat().st_mtime_ns > written


def test_without_the_hub_it_says_so_and_what_to_type():
    with pytest.raises(ToolkitError) as caught:
        get_model("Qwen/Qwen2.5-Coder-7B-Instruct")
    (problem,) = caught.value.problems
    assert str(problem).startswith(
        "Qwen/Qwen2.5-Coder-7B-Instruct: the Hugging Face hub does not answer for this model"
    )
    assert "ACCEPT_MODEL=" in problem.hint


def test_the_download_is_announced_with_its_size_and_refused_where_the_disk_is_too_small(monkeypatch, capsys):
    files = [
        SimpleNamespace(rfilename="model-00001-of-00002.safetensors", size=4_000_000_000_000_000),
        SimpleNamespace(rfilename="config.json", size=700),
        SimpleNamespace(rfilename="pytorch_model.bin", size=9_000_000_000),  # never asked for
    ]
    found = SimpleNamespace(siblings=files)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, name, files_metadata: found)
    with pytest.raises(JobFailed, match="not enough room"):
        announce_download("someone/large")
    assert "downloading 4000000.0 GB in 2 files to " in capsys.readouterr().err
    files[0].size = 1_000_000
    announce_download("someone/small")
    assert "downloading 0.0 GB in 2 files" in capsys.readouterr().err


def test_a_table_that_cannot_be_written_is_refused_before_anything_is_done(tmp_path):
    with pytest.raises(ToolkitError, match="no table between"):
        check_table(tmp_path / "none.md")
    (tmp_path / "benchmarks.md").write_text(f"{END} {BEGIN}")
    done = accept(tmp_path)
    assert done.returncode == 2 and "[1/5]" not in done.stderr


def test_a_row_replaces_the_one_of_the_same_day_machine_and_model(tmp_path, table):
    first = "| 2026-11-21 | Mac | 16 GiB | v | m (r) | b | 1 | 2 | 3 | 4 | – |"
    write_row(table, first)
    write_row(table, first.replace("| – |", "| answers |"))
    write_row(table, first.replace("Mac", "PC"))
    found = rows(table)[-2:]
    assert [row[1] for row in found] == ["Mac", "PC"] and found[0][-1] == "answers"
    before, _, after = (ROOT / "docs" / "benchmarks.md").read_text().partition(END)
    assert table.read_text().startswith(before.rstrip()) and table.read_text().endswith(END + after)


def test_the_step_time_is_the_median_without_the_first_update(tmp_path):
    run = RunFolder(tmp_path)
    run.update_manifest({"backend": {"name": "mlx", "device": "mps"}})
    for step, seconds in enumerate((60.0, 2.0, 3.0, 2.5)):
        row = {"step": step + 1, "loss": 1.0, "step_seconds": seconds, "tokens": 5000, "peak_memory_bytes": 7 * 2**30}
        run.append_metrics(row)
    found = Acceptance("model", "recipe", ())
    measure(run, found)
    assert (found.figures["step"], found.figures["speed"]) == ("2.50 s", "2,000")
    assert found.figures["peak"] == "7.0 GiB (mps)"
    assert found.figures["run"] == "mlx on mps, 5,000 tokens an update"
