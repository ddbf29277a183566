"""A dataset by its name on the hub: told apart from a path, its splits alone downloaded, pinned; refusals in words."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.utils import filter_repo_objects

from toolkit.config import DataConfig, FinetuneConfig
from toolkit.datasets.formats import load_splits
from toolkit.datasets.hub import HubDataset, parse_hub_name
from toolkit.errors import JobFailed, ToolkitError
from toolkit.jobs.finetune import prepare_finetune

COMMIT = "0123456789abcdef0123456789abcdef01234567"
README = "README.md"


def lines(*names: str) -> str:
    return "".join(json.dumps({"prompt": name, "completion": "a"}) + "\n" for name in names)


class Hub:
    """What the hub holds, and what was asked of it. Errors are raised in place of answers."""

    def __init__(self, folder: Path) -> None:
        self.files = {
            README: "# Sums",
            "main/train-00000-of-00001.jsonl": lines(*"abcdefghijklmnopqrstuvwxyz"),
            "main/test.jsonl": lines("t"),
            "socratic/train.jsonl": lines("s"),
        }
        self.cache = folder / "datasets--some--sums" / "snapshots" / COMMIT
        self.error: Exception | None = None
        self.revisions: list[str | None] = []

    def info(self, name: str, revision: str | None) -> Any:
        self.revisions.append(revision)
        if self.error is not None:
            raise self.error
        assert name == "some/sums"
        return SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename=file) for file in self.files])

    def snapshot_download(
        self, name: str, *, repo_type: str, revision: str | None, allow_patterns: list[str], local_files_only: bool
    ) -> str:
        assert (name, repo_type) == ("some/sums", "dataset")
        if local_files_only:
            if not self.cache.is_dir():
                raise huggingface_hub.errors.LocalEntryNotFoundError("nothing here")
            return str(self.cache)
        for file in filter_repo_objects(self.files, allow_patterns=allow_patterns):
            (self.cache / file).parent.mkdir(parents=True, exist_ok=True)
            (self.cache / file).write_text(self.files[file], encoding="utf-8")
        return str(self.cache)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    stub = Hub(tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda _, name, revision: stub.info(name, revision))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", stub.snapshot_download)
    monkeypatch.chdir(tmp_path)
    return stub


def problem_of(path: str) -> str:
    with pytest.raises(ToolkitError) as caught:
        load_splits(DataConfig(path=path), 0)
    assert len(caught.value.problems) == 1
    return str(caught.value.problems[0])


def response_error(kind: Callable[..., Exception]) -> Exception:
    """Build one of the hub's own errors without the response that it wants to be given."""
    return kind.__new__(kind, "refused")  # type: ignore[arg-type]


def test_a_subset_is_downloaded_and_nothing_else_and_the_run_is_pinned_to_the_commit(hub: Hub) -> None:
    splits = load_splits(DataConfig(path="some/sums:main"), 0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (25, 1, 1)
    assert splits.path == f"some/sums@{COMMIT}:main"
    assert sorted(p.relative_to(hub.cache).as_posix() for p in hub.cache.rglob("*.*")) == [
        "main/test.jsonl",
        "main/train-00000-of-00001.jsonl",
    ]
    job = prepare_finetune(FinetuneConfig(data=DataConfig(path="some/sums:main")))
    assert isinstance(job.config, FinetuneConfig) and job.config.data.path == f"some/sums@{COMMIT}:main"
    assert job.data_label == "sums-main"
    again = load_splits(job.config.data, 0)
    assert again.train == splits.train and hub.revisions[-1] == COMMIT


def test_a_dataset_of_several_sets_asks_which_before_anything_is_downloaded(hub: Hub) -> None:
    assert problem_of("some/sums") == (
        "some/sums: there are several sets: main, socratic. Choose one: --data some/sums:main"
    )
    assert problem_of("some/sums:other").endswith("this dataset has no folder or file other. There are: main, socratic")
    assert not hub.cache.exists()


def test_a_single_file_can_be_named(hub: Hub) -> None:
    hub.files["data/train_sft.jsonl"] = lines(*"abc")
    assert len(load_splits(DataConfig(path="some/sums:data/train_sft.jsonl", validation=0.0), 0).train) == 3


def test_without_a_connection_the_cache_is_taken_and_without_a_cache_it_is_said(hub: Hub) -> None:
    hub.error = huggingface_hub.errors.OfflineModeIsEnabled("offline")
    line = problem_of("some/sums:main")
    assert line.startswith("data.path: some/sums:main: no such file or folder here, and the Hugging Face hub cannot be")
    hub.error = None
    first = load_splits(DataConfig(path="some/sums:main"), 0)
    hub.error = ConnectionError("no route")
    assert load_splits(DataConfig(path="some/sums:main"), 0) == first


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "GatedRepoError",
            "wants its licence accepted first. Accept its licence at https://huggingface.co/datasets/some/s",
        ),
        (
            "RepositoryNotFoundError",
            "no such file or folder here, and none on the hub. Give a file, a folder or OWNER/",
        ),
        ("RevisionNotFoundError", "the dataset has no revision v9. Give a branch, a tag or a commit after the @"),
        ("HfHubHTTPError", "the Hugging Face hub cannot be reached and it is not in the cache"),
    ],
)
def test_each_refusal_of_the_hub_says_what_to_do(kind: str, message: str, hub: Hub) -> None:
    hub.error = response_error(getattr(huggingface_hub.errors, kind))
    assert message in problem_of("some/sums@v9")


def test_a_full_disk_is_a_failed_job_and_not_a_missing_dataset(hub: Hub) -> None:
    hub.error = OSError(errno.ENOSPC, "full")
    with pytest.raises(JobFailed, match="the disk is full"):
        load_splits(DataConfig(path="some/sums:main"), 0)


def test_a_dataset_without_data_files_says_so(hub: Hub) -> None:
    hub.files = {README: "# Nothing"}
    assert "some/sums: the folder has no train.jsonl. Expected train.jsonl (or .json, .parquet" in problem_of(
        "some/sums"
    )


def test_an_existing_path_wins_and_a_misspelt_one_is_never_looked_for_on_the_hub(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "some" / "sums").mkdir(parents=True)
    (tmp_path / "some" / "sums" / "train.jsonl").write_text(lines(*"abc"))
    assert len(load_splits(DataConfig(path="some/sums", validation=0.0), 0).train) == 3
    assert "no such file or folder. Did you mean some/sums?" in problem_of("some/sum")
    assert "no such file or folder" in problem_of("other/data.jsonl")
    for path in ("./some/thing", "/some/thing", "some/thing/else", "thing", "~/thing", "some\\thing", "a b/c"):
        assert parse_hub_name(path) is None
    assert hub.revisions == []


def test_a_name_is_taken_apart_and_put_together_again() -> None:
    for text in ("a/b", "a/b@v1.0", "a/b@refs/convert/parquet:main", "a/b:data/train.jsonl"):
        assert str(parse_hub_name(text)) == text
    assert parse_hub_name("HuggingFaceH4/ultrachat_200k@main:data") == HubDataset(
        "HuggingFaceH4/ultrachat_200k", "main", "data"
    )
