from __future__ import annotations

import json

from tests.small_runs import toolkit
from toolkit.runs import RunFolder, create_run


def finished(name: str) -> RunFolder:
    run = create_run(name, "m", "d")
    run.append_metrics({"step": 0, "val_loss": 3.0})
    run.append_metrics({"step": 5, "loss": 2.5})
    run.append_metrics({"step": 5, "val_loss": 2.0})
    run.update_manifest(
        {
            "name": name,
            "kind": "finetune",
            "status": "finished",
            "method": "lora",
            "model": "nano",
            "data": "starter",
            "started": f"2026-01-01 {name}",
            "total_steps": 5,
            "result": "adapter",
            "result_step": 5,
            "backend": {"name": "torch", "device": "cpu", "device_name": "A CPU"},
            "final": {"best_val_loss": 2.0, "peak_memory_bytes": 3 * 2**30},
        }
    )
    return run


def test_list_prints_one_row_for_each_run() -> None:
    finished("a")
    finished("b")
    lines = toolkit("runs", "list").stdout.splitlines()
    assert lines[0].split() == ["run", "status", "method", "model", "data", "steps", "val", "loss", "started"]
    assert lines[1].split()[:7] == ["a", "finished", "lora", "nano", "starter", "5/5", "2.0000"]
    assert [line.split()[0] for line in lines[1:]] == ["a", "b"]


def test_list_without_runs_keeps_stdout_empty() -> None:
    result = toolkit("runs", "list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no runs in" in result.stderr
    assert json.loads(toolkit("runs", "list", "--json").stdout) == []


def test_list_shows_a_run_with_a_damaged_manifest_instead_of_failing() -> None:
    finished("good")
    finished("bad").manifest_path.write_text("{")
    result = toolkit("runs", "list")
    assert result.exit_code == 0
    assert "damaged manifest.json" in result.stdout and "good" in result.stdout


def test_show_tells_how_a_run_went() -> None:
    run = finished("a")
    run.write_evaluation([{"target": "a", "suite": "starter", "metric": "exact_match", "value": 0.5, "n": 10}])
    text = toolkit("runs", "show", "a").stdout
    assert "torch cpu A CPU" in text
    assert "adapter/ (step 5)" in text
    assert "peak memory bytes 3.0 GiB" in text
    assert "exact_match" in text
    assert text.splitlines()[-1].split() == ["5", "2.5000", "2.0000"]


def test_show_and_list_in_json_hold_the_same_figures() -> None:
    finished("a")
    shown = json.loads(toolkit("runs", "show", "a", "--json").stdout)
    assert shown["losses"] == [
        {"step": 0, "val_loss": 3.0, "loss": None},
        {"step": 5, "val_loss": 2.0, "loss": 2.5},
    ]
    (listed,) = json.loads(toolkit("runs", "list", "--json").stdout)
    assert {key: shown[key] for key in listed} == listed


def test_show_suggests_the_nearest_name() -> None:
    finished("granite")
    result = toolkit("runs", "show", "granit")
    assert result.exit_code == 2
    assert "Did you mean granite?" in result.stderr
