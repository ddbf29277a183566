from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

import toolkit.checkpoints as checkpoints
from toolkit.adapter_files import read_adapter
from toolkit.checkpoints import (
    clean_checkpoints,
    list_checkpoints,
    load_checkpoint,
    newest_good_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    verify_checkpoint,
)
from toolkit.checksums import write_sums
from toolkit.config import LoraConfig
from toolkit.errors import JobFailed, ToolkitError
from toolkit.protocols import TrainerState
from toolkit.tensor_files import StoredTensor, read_tensors

LORA = LoraConfig(rank=2, alpha=4.0)
MODULE = "model.layers.0.self_attn.q_proj"
A, B = (f"base_model.model.{MODULE}.lora_{side}.weight" for side in "AB")


def tensor(name: str, *shape: int, seed: int = 0) -> StoredTensor:
    return StoredTensor(name, "float32", np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def adapter_weights(width: int = 6, rank: int = 2) -> dict[str, StoredTensor]:
    return {A: tensor(A, rank, width), B: tensor(B, width, rank, seed=1)}


def state(updates: int = 10) -> TrainerState:
    weights = adapter_weights()
    moments = {
        f"{name}.{kind}": tensor(name, *weights[name].array.shape)
        for name in weights
        for kind in ("exp_avg", "exp_avg_sq")
    }
    return TrainerState(weights, moments, updates)


def save(root: Path, step: int, lora: LoraConfig | None = LORA) -> Path:
    return save_checkpoint(root, step, state(step - 1), {"seed": 3}, lora=lora, base_model="nano")


@pytest.mark.parametrize("lora", [LORA, None])
def test_a_checkpoint_reads_back_bit_for_bit(tmp_path: Path, lora: LoraConfig | None) -> None:
    path = save(tmp_path, 100, lora)
    assert path.name == "step-000100"
    loaded = load_checkpoint(path)
    assert (loaded.step, loaded.notes["seed"], loaded.notes["update"], loaded.state.updates) == (100, 3, 100, 99)
    for name, expected in {**state().weights, **state().moments}.items():
        found = loaded.state.weights.get(name) or loaded.state.moments[name]
        np.testing.assert_array_equal(found.array, expected.array)


def test_the_sums_are_those_of_sha256sum(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    ran = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    lines = [line for line in (path / "SHA256SUMS").read_text().splitlines() if not line.startswith("#")]
    listed = {line.split("  ")[1] for line in lines}
    on_disk = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert listed == on_disk - {"SHA256SUMS"}


def test_a_missing_file_and_missing_sums_are_named(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / "optimizer.safetensors").unlink()
    (problem,) = verify_checkpoint(path)
    assert str(problem) == f"{path / 'optimizer.safetensors'}: listed in SHA256SUMS, but not here"
    write_sums(path)
    (problem,) = verify_checkpoint(path)
    assert problem.what == "SHA256SUMS does not list optimizer.safetensors"
    (path / "SHA256SUMS").unlink()
    assert "not a whole checkpoint" in verify_checkpoint(path)[0].what
    assert list_checkpoints(tmp_path) == []


def test_the_newest_good_checkpoint_skips_corrupted_and_unfinished_ones(tmp_path: Path) -> None:
    for step in (5, 10, 200_000, 1_000_000):
        save(tmp_path, step)
    assert [path.name for path in list_checkpoints(tmp_path)][-1] == "step-1000000"
    (tmp_path / "step-1000000" / "SHA256SUMS").unlink()
    file = tmp_path / "step-200000" / "state.json"
    file.write_text(file.read_text() + " ")
    assert newest_good_checkpoint(tmp_path) == tmp_path / "step-000010"
    with pytest.raises(ToolkitError, match=r"state\.json: corrupted"):
        load_checkpoint(tmp_path / "step-200000")


def test_a_kill_before_the_rename_leaves_the_older_checkpoints_as_they_were(tmp_path: Path) -> None:
    save(tmp_path, 1)
    child = os.fork()
    if child == 0:
        checkpoints.write_sums = lambda folder: os.kill(os.getpid(), signal.SIGKILL)
        save(tmp_path, 2)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000001"]
    assert verify_checkpoint(tmp_path / "step-000001") == []
    assert any(name.endswith(".partial") for name in os.listdir(tmp_path))
    clean_checkpoints(tmp_path, after_step=1)
    assert os.listdir(tmp_path) == ["step-000001"]


def test_a_full_disk_keeps_every_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(JobFailed, match="the disk is full"):
        save(tmp_path, 2)
    assert os.listdir(tmp_path) == ["step-000001"]


def test_pruning_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in range(1, 7):
        save(tmp_path, step)
    prune_checkpoints(tmp_path, keep=2, needed={3})
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000003", "step-000005", "step-000006"]


def test_going_on_from_an_older_step_removes_the_later_ones(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    clean_checkpoints(tmp_path, after_step=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000001", "step-000002"]


def test_a_checkpoints_adapter_is_an_adapter_of_its_own(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    shutil.copytree(path / "adapter", tmp_path / "copy")
    assert read_adapter(tmp_path / "copy").modules == (MODULE,)
    assert read_tensors(tmp_path / "copy" / "adapter_model.safetensors").metadata == {"format": "pt"}
