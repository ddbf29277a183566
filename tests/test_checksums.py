"""Whatever happens to a checkpoint's files is found, and the file at fault is named."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.checkpoints import newest_good_checkpoint, save_checkpoint, verify_checkpoint
from toolkit.checksums import write_sums
from toolkit.config import LoraConfig
from toolkit.protocols import TrainerState
from toolkit.tensor_files import StoredTensor

A, B = (f"base_model.model.model.layers.0.self_attn.q_proj.lora_{side}.weight" for side in "AB")
SHAPES = {A: (2, 6), B: (6, 2)}
FILES = (
    "SHA256SUMS",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "optimizer.safetensors",
    "state.json",
)


def save(root: Path, step: int) -> Path:
    draw = np.random.default_rng(step)
    weights = {
        name: StoredTensor(name, "float32", draw.random(shape, dtype=np.float32)) for name, shape in SHAPES.items()
    }
    moments = {
        f"{name}.{kind}": StoredTensor(name, "float32", draw.random(shape, dtype=np.float32))
        for name, shape in SHAPES.items()
        for kind in ("exp_avg", "exp_avg_sq")
    }
    notes = {"seed": 3, "data_position": step}
    return save_checkpoint(
        root, step, TrainerState(weights, moments, step), notes, lora=LoraConfig(rank=2), base_model="nano"
    )


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save(tmp_path, 4)


def at_fault(path: Path) -> list[str]:
    """Return the files named, by their names in the checkpoint."""
    return [os.path.relpath(problem.where, path) for problem in verify_checkpoint(path)]


def test_one_changed_byte_anywhere_is_found_and_its_file_named(checkpoint: Path) -> None:
    """Every byte of every file: headers, tensors, JSON, and the list of sums itself."""
    assert at_fault(checkpoint) == []
    bytes_tried = 0
    for name in FILES:
        file = checkpoint / name
        data = file.read_bytes()
        for position in range(len(data)):
            changed = bytearray(data)
            changed[position] ^= 1 << (position % 8)
            file.write_bytes(changed)
            assert at_fault(checkpoint) == [name], f"byte {position} of {name}"
        file.write_bytes(data)
        bytes_tried += len(data)
    assert at_fault(checkpoint) == []
    assert bytes_tried > 1500
    assert {os.path.relpath(path, checkpoint) for path in checkpoint.rglob("*") if path.is_file()} == set(FILES)


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(FILES), data=st.data())
def test_any_other_content_of_a_file_is_found_and_its_file_named(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    """Bytes overwritten, cut off, put in, or put behind."""
    root = tmp_path_factory.getbasetemp() / "any-content"
    path = root / "step-000004" if root.exists() else save(root, 4)
    file = path / name
    before = file.read_bytes()
    start = data.draw(st.integers(0, len(before)), label="start")
    end = data.draw(st.integers(start, min(len(before), start + 40)), label="end")
    after = before[:start] + data.draw(st.binary(max_size=40), label="new bytes") + before[end:]
    try:
        file.write_bytes(after)
        assert at_fault(path) == ([] if after == before else [name])
        file.write_bytes(before[:start])
        assert at_fault(path) == ([] if start == len(before) else [name])
    finally:
        file.write_bytes(before)


def test_swapped_files_are_both_named(checkpoint: Path, tmp_path: Path) -> None:
    one, two = checkpoint / "optimizer.safetensors", checkpoint / "adapter" / "adapter_model.safetensors"
    one.rename(tmp_path / "kept")
    two.rename(one)
    (tmp_path / "kept").rename(two)
    assert sorted(at_fault(checkpoint)) == ["adapter/adapter_model.safetensors", "optimizer.safetensors"]


@pytest.mark.parametrize("name", FILES[1:])
def test_a_file_of_another_checkpoint_is_named(checkpoint: Path, name: str) -> None:
    shutil.copyfile(checkpoint / name, checkpoint / f"{name}.mine")
    (checkpoint / f"{name}.mine").unlink()
    other = save(checkpoint.parent, 5)
    shutil.copyfile(other / name, checkpoint / name)
    assert at_fault(checkpoint) == ([] if name.endswith("config.json") else [name])


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink()
    (problem,) = verify_checkpoint(checkpoint)
    if name == "SHA256SUMS":
        assert str(problem) == f"{checkpoint}: no SHA256SUMS here, so this is not a whole checkpoint"
    else:
        assert str(problem) == f"{checkpoint / name}: listed in SHA256SUMS, but not here"


@pytest.mark.parametrize("name", ["model/model.safetensors", "adapter/notes.txt", ".hidden", "new/deep/file"])
def test_a_file_that_is_not_listed_is_named(checkpoint: Path, name: str) -> None:
    (checkpoint / name).parent.mkdir(parents=True, exist_ok=True)
    (checkpoint / name).write_bytes(b"")
    assert at_fault(checkpoint) == [name]


def test_what_the_finder_leaves_is_nobodys_fault(checkpoint: Path) -> None:
    (checkpoint / "adapter" / ".DS_Store").write_bytes(b"Bud1")
    assert at_fault(checkpoint) == []


@pytest.mark.parametrize("inside", [True, False])
def test_a_link_is_named_wherever_it_leads(checkpoint: Path, tmp_path: Path, inside: bool) -> None:
    """Even to the very same bytes: a link out of the folder changes when its target does."""
    target = checkpoint / "adapter" / "copy" if inside else tmp_path / "elsewhere"
    shutil.copyfile(checkpoint / "state.json", target)
    (checkpoint / "state.json").unlink()
    (checkpoint / "state.json").symlink_to(target)
    assert at_fault(checkpoint)[0] == "state.json"
    target.unlink()
    assert at_fault(checkpoint) == ["state.json"]


def test_a_linked_folder_is_named(checkpoint: Path, tmp_path: Path) -> None:
    shutil.move(checkpoint / "adapter", tmp_path / "adapter")
    (checkpoint / "adapter").symlink_to(tmp_path / "adapter")
    assert "adapter" in at_fault(checkpoint)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "adapter/../../outside"])
def test_a_list_that_leads_out_of_the_folder_is_damaged(checkpoint: Path, name: str) -> None:
    (checkpoint.parent / "outside").write_text("x")
    sums = checkpoint / "SHA256SUMS"
    lines = sums.read_text().splitlines(keepends=True)[1:]
    sums.write_text("".join([*lines, f"{'0' * 64}  {name}\n"]))
    assert at_fault(checkpoint) == ["SHA256SUMS"]


def test_a_list_that_sha256sum_made_is_read_too(checkpoint: Path) -> None:
    names = [name for name in FILES if name != "SHA256SUMS"]
    made = subprocess.run(["sha256sum", *names], cwd=checkpoint, capture_output=True, text=True, check=True)
    (checkpoint / "SHA256SUMS").write_text(made.stdout)
    assert at_fault(checkpoint) == []
    (checkpoint / "state.json").write_text("{}")
    assert at_fault(checkpoint) == ["state.json"]


def test_a_file_that_cannot_be_read_is_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import toolkit.checksums as checksums

    real = checksums.file_sha256

    def unreadable(path: Path) -> str:
        if path.name == "state.json":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(checksums, "file_sha256", unreadable)
    (problem,) = verify_checkpoint(checkpoint)
    assert str(problem) == f"{checkpoint / 'state.json'}: cannot be read: Permission denied"


def test_sums_written_again_make_the_folder_good_and_older_checkpoints_stay_the_fallback(checkpoint: Path) -> None:
    newer = save(checkpoint.parent, 5)
    (newer / "optimizer.safetensors").write_bytes(b"")
    assert newest_good_checkpoint(checkpoint.parent) == checkpoint
    write_sums(newer)
    assert newest_good_checkpoint(checkpoint.parent) == newer
