from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.peft_adapters import KINDS
from toolkit.adapter_files import Adapter, check_adapter_keys, read_adapter, write_adapter
from toolkit.config import LoraConfig
from toolkit.errors import ToolkitError
from toolkit.models import read_model
from toolkit.tensor_files import StoredTensor

LORA = LoraConfig(rank=2, alpha=4.0)
MODULE = "model.layers.0.self_attn.q_proj"
A, B = (f"base_model.model.{MODULE}.lora_{side}.weight" for side in "AB")
M = f"base_model.model.{MODULE}.lora_magnitude_vector"


def tensor(name: str, *shape: int, seed: int = 0) -> StoredTensor:
    return StoredTensor(name, "float32", np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def adapter_weights(width: int = 6, rank: int = 2) -> dict[str, StoredTensor]:
    return {A: tensor(A, rank, width), B: tensor(B, width, rank, seed=1)}


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
    assert (adapter.rank(MODULE), adapter.scale(MODULE), adapter.magnitude(MODULE)) == (2, 2.0, None)
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
        (M, (6,), "does not say use_dora"),
    ],
)
def test_an_adapter_key_that_would_be_ignored_is_an_error(name: str, shape: tuple[int, ...], message: str) -> None:
    shapes = {A: (2, 6), B: (6, 2), name: shape}
    problems = check_adapter_keys(shapes, {"r": 2}, Path("adapter"))
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
        ({"r": None}, "only LoRA adapters"),
        ({"use_dora": True}, "but not base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"),
        ({"init_lora_weights": "pissa_niter_4"}, "began as pissa_niter_4 fits a changed base alone"),
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
    assert read_adapter(tmp_path / "adapter").scale(MODULE) == pytest.approx(4.0 / 2**0.5)


@pytest.fixture
def of_peft(tiny_qwen2: Path, build_peft_adapter: Callable[..., Path]) -> Callable[..., Path]:
    """Return `make(**fields of PEFT's LoraConfig) -> folder` for a Qwen2-shaped model."""
    return functools.partial(build_peft_adapter, tiny_qwen2)


@pytest.mark.parametrize("kind", KINDS)
def test_merging_is_pefts_for_every_kind_of_adapter(kind: str, tiny_qwen2: Path, of_peft: Callable[..., Path]) -> None:
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    folder = of_peft(**KINDS[kind])
    base = read_model(tiny_qwen2).tensors
    adapter = read_adapter(folder, base.entries)
    assert len(adapter.modules) == (2 if kind == "one layer" else 4)
    plain = AutoModelForCausalLM.from_pretrained(tiny_qwen2, dtype=torch.float32)
    witness = peft.PeftModel.from_pretrained(plain, folder).merge_and_unload().state_dict()
    for module in adapter.modules:
        weight = base[f"{module}.weight"].to_float32()
        merged = adapter.merged(module, weight)
        assert merged.dtype == np.float32
        np.testing.assert_allclose(merged, witness[f"{module}.weight"].numpy(), atol=2e-6, err_msg=module)
        assert np.abs(merged - weight).max() > 0.05


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_row_blocks_merge_to_the_whole_matrix(kind: str, tiny_qwen2: Path, of_peft: Callable[..., Path]) -> None:
    adapter = read_adapter(of_peft(**KINDS[kind]))
    weight = read_model(tiny_qwen2).tensors[f"{MODULE}.weight"].to_float32()
    blocks = [
        adapter.merged(MODULE, weight[start : start + 24], slice(start, start + 24))
        for start in range(0, len(weight), 24)
    ]
    assert len(blocks) == 3
    np.testing.assert_allclose(np.concatenate(blocks), adapter.merged(MODULE, weight), atol=1e-6)


def test_a_row_of_zeros_stays_one_under_dora(of_peft: Callable[..., Path], tmp_path: Path) -> None:
    adapter = read_adapter(of_peft(use_dora=True))
    down, up = (factor.to_float32() for factor in adapter.factors(MODULE))
    weight = np.ones((64, 64), np.float32)
    weight[5] = -np.float32(adapter.scale(MODULE)) * (up @ down)[5]
    merged = adapter.merged(MODULE, weight)
    assert np.isfinite(merged).all()


def test_an_adapter_whose_b_is_zero_everywhere_is_known_as_untrained(tmp_path: Path) -> None:
    def written(b: StoredTensor) -> Adapter:
        write_adapter(tmp_path / "adapter", {A: tensor(A, 2, 6), B: b}, LORA, "nano")
        return read_adapter(tmp_path / "adapter")

    assert written(StoredTensor(B, "float32", np.zeros((6, 2), np.float32))).is_untrained
    assert not written(tensor(B, 6, 2)).is_untrained
