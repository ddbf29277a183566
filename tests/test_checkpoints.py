from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

import toolkit.checkpoints as checkpoints
from toolkit.checkpoints import (
    check_adapter_keys,
    clean_checkpoints,
    list_checkpoints,
    load_checkpoint,
    newest_good_checkpoint,
    prune_checkpoints,
    read_adapter,
    save_checkpoint,
    verify_checkpoint,
    write_adapter,
)
from toolkit.checksums import write_sums
from toolkit.config import LoraConfig
from toolkit.errors import JobFailed, ToolkitError
from toolkit.models import read_model
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
    prune_checkpoints(tmp_path, keep=2, best_step=3)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000003", "step-000005", "step-000006"]


def test_going_on_from_an_older_step_removes_the_later_ones(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    clean_checkpoints(tmp_path, after_step=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000001", "step-000002"]


def lora_on(model: Path, **changes: StoredTensor | None) -> dict[str, StoredTensor]:
    weights: dict[str, StoredTensor] = {}
    for name, entry in read_model(model).block_matrices.items():
        if ".q_proj." not in name:
            continue
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        rows, columns = entry.shape
        weights[f"{stem}.lora_A.weight"] = tensor(name, 2, columns)
        weights[f"{stem}.lora_B.weight"] = tensor(name, rows, 2)
    return weights


def test_peft_loads_an_adapter_written_here_onto_every_layer(tiny_qwen2: Path, tmp_path: Path) -> None:
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    weights = lora_on(tiny_qwen2)
    write_adapter(tmp_path / "adapter", weights, LORA, "nano")
    base = AutoModelForCausalLM.from_pretrained(tiny_qwen2)
    adapted = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    loaded = peft.get_peft_model_state_dict(adapted)
    assert set(loaded) == set(weights)
    for name, expected in weights.items():
        assert torch.equal(loaded[name], torch.from_numpy(expected.array))
    assert adapted.peft_config["default"].lora_alpha == 4.0


def test_an_adapter_reads_back_with_its_rank_scale_and_factors(tiny_qwen2: Path, tmp_path: Path) -> None:
    facts = read_model(tiny_qwen2)
    write_adapter(tmp_path / "adapter", lora_on(tiny_qwen2), LORA, "nano")
    adapter = read_adapter(tmp_path / "adapter", facts.tensors.entries)
    assert (adapter.rank, adapter.scale) == (2, 2.0)
    assert adapter.modules == ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj")
    down, up = adapter.factors(MODULE)
    assert (down.array.shape, up.array.shape) == ((2, 64), (64, 2))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight",
            (2, 6),
            "a key that PEFT would ignore",
        ),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", (2, 6), "a key that PEFT would ignore"),
        ("base_model.model.model.layers.9.mlp.up_proj.lora_A.weight", (2, 6), "but not base_model"),
        (A, (3, 6), "which is not of rank 2"),
    ],
)
def test_an_adapter_key_that_would_be_ignored_is_an_error(name: str, shape: tuple[int, ...], message: str) -> None:
    shapes = {A: (2, 6), B: (6, 2), name: shape}
    problems = check_adapter_keys(shapes, 2, Path("adapter"))
    assert any(message in problem.what for problem in problems)


def test_an_adapter_that_does_not_fit_the_model_is_refused_with_every_misfit(tiny_qwen2: Path, tmp_path: Path) -> None:
    entries = read_model(tiny_qwen2).tensors.entries
    weights = lora_on(tiny_qwen2)
    lost = "base_model.model.model.layers.1.self_attn.q_proj"
    write_adapter(
        tmp_path / "adapter",
        {name: value for name, value in weights.items() if not name.startswith(lost)},
        LORA,
        "nano",
    )
    with pytest.raises(
        ToolkitError, match=r"targets model\.layers\.1\.self_attn\.q_proj, but the adapter has no weights"
    ):
        read_adapter(tmp_path / "adapter", entries)
    foreign = {name.replace("layers.1", "layers.7"): value for name, value in weights.items()}
    write_adapter(tmp_path / "adapter", foreign, LORA, "nano")
    with pytest.raises(
        ToolkitError, match=r"the adapter has model\.layers\.7\.self_attn\.q_proj, which the model has not"
    ):
        read_adapter(tmp_path / "adapter", entries)
    wide = dict(weights)
    wide[A] = tensor(A, 2, 65)
    write_adapter(tmp_path / "adapter", wide, LORA, "nano")
    with pytest.raises(ToolkitError, match=r"fits \[64, 65\], but the model's weight is \[64, 64\]"):
        read_adapter(tmp_path / "adapter", entries)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "only LoRA adapters"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "trained biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ],
)
def test_kinds_of_adapters_that_cannot_be_applied_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    write_adapter(tmp_path / "adapter", adapter_weights(), LORA, "nano")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ToolkitError, match=message):
        read_adapter(tmp_path / "adapter")


def test_an_adapter_folder_without_its_files_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match=r"no adapter_config\.json here"):
        read_adapter(tmp_path)
    write_adapter(tmp_path / "adapter", adapter_weights(), LORA, "nano")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(ToolkitError, match=r"adapter_model\.safetensors: cannot be read: No such file"):
        read_adapter(tmp_path / "adapter")


def test_scale_follows_rslora_when_the_config_says_so(tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter", adapter_weights(rank=2), LORA, "nano")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "use_rslora": True}))
    assert read_adapter(tmp_path / "adapter").scale == pytest.approx(4.0 / 2**0.5)


def test_a_checkpoints_adapter_is_an_adapter_of_its_own(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    shutil.copytree(path / "adapter", tmp_path / "copy")
    assert read_adapter(tmp_path / "copy").modules == (MODULE,)
    assert read_tensors(tmp_path / "copy" / "adapter_model.safetensors").metadata == {"format": "pt"}
