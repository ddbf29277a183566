from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from toolkit.errors import JobFailed, ToolkitError
from toolkit.runs import RunFolder, create_run, find_run, list_runs, package_versions, runs_root


def make(name: str | None = None, **manifest: object) -> RunFolder:
    run = create_run(name, "Qwen/Qwen2.5-0.5B", "my data")
    run.update_manifest({"status": "finished", **manifest})
    return run


def test_runs_are_counted_up_and_never_share_a_folder() -> None:
    names = [make().name for _ in range(3)]
    assert names == ["qwen-qwen2.5-0.5b-my-data-001", "qwen-qwen2.5-0.5b-my-data-002", "qwen-qwen2.5-0.5b-my-data-003"]


def test_a_name_that_exists_is_refused_with_what_to_do() -> None:
    make("mine")
    with pytest.raises(ToolkitError) as caught:
        create_run("mine", "m", "d")
    assert str(caught.value) == (
        f"{runs_root()}/mine: a run of this name exists. "
        "Choose another name, go on with it (--resume mine) or replace it (--overwrite)"
    )


def test_overwriting_empties_a_run_but_never_another_folder() -> None:
    run = make("mine")
    (run.path / "old").write_text("")
    assert os.listdir(create_run("mine", "m", "d", overwrite=True).path) == []
    foreign = runs_root() / "photos"
    foreign.mkdir()
    (foreign / "cat.jpg").write_text("")
    with pytest.raises(ToolkitError, match="not a run, so it is not overwritten"):
        create_run("photos", "m", "d", overwrite=True)
    assert os.listdir(foreign) == ["cat.jpg"]


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "", "a b"])
def test_a_name_cannot_leave_the_runs_folder(name: str) -> None:
    with pytest.raises(ToolkitError, match="letters, digits"):
        create_run(name, "m", "d")


def test_metrics_survive_a_torn_last_line_but_not_a_torn_middle() -> None:
    run = make()
    for step in (1, 2):
        run.append_metrics({"step": step, "loss": 1.0})
    with run.metrics_path.open("a") as file:
        file.write('{"step": 3, "lo')
    assert [row["step"] for row in run.metrics()] == [1, 2]
    run.trim_metrics(1)
    assert run.metrics_path.read_text() == '{"step": 1, "loss": 1.0}\n'
    run.metrics_path.write_text('{"step": 1\n{"step": 2}\n')
    with pytest.raises(ToolkitError, match=r"metrics\.jsonl:1: invalid JSON"):
        run.metrics()


def test_a_row_after_a_torn_line_starts_on_its_own_line_once_trimmed() -> None:
    run = make()
    run.append_metrics({"step": 1})
    with run.metrics_path.open("a") as file:
        file.write('{"step"')
    run.trim_metrics(1)
    run.append_metrics({"step": 2})
    assert [json.loads(line)["step"] for line in run.metrics_path.read_text().splitlines()] == [1, 2]


def test_a_run_is_found_by_name_by_path_and_by_a_path_inside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make("mine")
    checkpoint = run.checkpoints / "step-000001"
    checkpoint.mkdir(parents=True)
    for text in ("mine", str(run.path), str(checkpoint), "mine/checkpoints/step-000001"):
        assert find_run(text).path.resolve() == run.path.resolve()
    with pytest.raises(ToolkitError, match=r"mint: no such run in .*\. Did you mean mine\?"):
        find_run("mint")


def test_runs_are_listed_oldest_first_and_other_folders_are_not_runs() -> None:
    make("late", started="2026-02-01")
    make("early", started="2026-01-01")
    (runs_root() / "stray").mkdir()
    assert [run.name for run in list_runs()] == ["early", "late"]


def test_a_run_whose_process_is_gone_was_killed() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert make("dead", status="running", process_id=child).status() == "killed"
    assert make("alive", status="running", process_id=os.getpid()).status() == "running"
    assert make("done").status() == "finished"


def test_a_damaged_manifest_is_refused_by_name() -> None:
    run = make("mine")
    run.manifest_path.write_text("{")
    with pytest.raises(ToolkitError, match=r"manifest\.json: invalid JSON"):
        run.manifest()


def test_a_runs_folder_that_cannot_be_made_is_a_failed_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TOOLKIT_RUNS_DIR", str(tmp_path / "file"))
    with pytest.raises(JobFailed, match="cannot write"):
        create_run(None, "m", "d")


def test_versions_name_what_is_installed_only() -> None:
    versions = package_versions()
    assert {"torch", "transformers", "numpy"} <= set(versions)
    assert all(versions.values())
