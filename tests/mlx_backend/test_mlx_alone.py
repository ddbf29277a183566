"""What only MLX needs: its global state, its caches, its compiled functions, its quantised folders."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models import gpt2
from safetensors.numpy import load_file, save_file

from tests.conformance.batches import batch_of, ragged, random_sequence
from toolkit.adapter_files import write_adapter
from toolkit.config import LoraConfig
from toolkit.errors import ToolkitError
from toolkit.mlx_backend.adapters import base_weight
from toolkit.mlx_backend.devices import use_device
from toolkit.mlx_backend.model import SplitModel, rope_settings
from toolkit.mlx_backend.session import MlxBackend, MlxTrainer
from toolkit.protocols import ScorerSpec, TrainerSpec

LORA = LoraConfig(rank=4, alpha=8.0)


def open_trainer(folder, **fields) -> MlxTrainer:
    return MlxBackend().open_trainer(TrainerSpec(folder, device="cpu", dtype="float32", **fields))


@pytest.fixture
def quantised(tiny_llama, tmp_path):
    """The folder as mlx-lm itself quantises it to 4 bits."""
    from mlx_lm.utils import load_model, quantize_model, save_config, save_model

    model, config = load_model(tiny_llama)
    model, config = quantize_model(model, config, group_size=64, bits=4)
    folder = tmp_path / "quantised"
    folder.mkdir()
    save_model(folder, model)
    save_config(config, folder / "config.json")
    return folder


def test_rope_settings_of_transformers_5_get_the_names_that_mlx_lm_reads():
    plain = {"rope_type": "default", "rope_theta": 500.0}
    scaled = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0}
    assert rope_settings({"rope_parameters": plain}) == {"rope_theta": 500.0}
    expected = {"rope_theta": 500.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}
    assert rope_settings({"rope_parameters": scaled}) == expected
    assert rope_settings({"rope_theta": 1e6}) == {}


def test_every_layer_has_a_dropout_key_of_its_own(tiny_qwen2):
    trainer = open_trainer(tiny_qwen2, lora=LoraConfig(rank=4, dropout=0.5))
    trainer.adapted.draw_dropout_from(3)
    keys = {tuple(layer._dropout_key.tolist()) for layer in trainer.adapted.layers.values()}
    assert len(keys) == len(trainer.adapted.layers) == 14


def test_dropout_in_dora_meets_all_but_the_plain_product_as_in_peft(tiny_qwen2):
    trainer = open_trainer(tiny_qwen2, lora=LoraConfig(rank=4, alpha=8.0, dropout=0.5, variant="dora"))
    layer = trainer.adapted.layers["model.layers.0.self_attn.q_proj"]  # it has a bias
    rng = np.random.default_rng(0)
    layer.lora_B = mx.array(rng.standard_normal(layer.lora_B.shape).astype(np.float32))
    layer.lora_magnitude_vector = layer.lora_magnitude_vector * 1.5
    x = rng.standard_normal((5, 64)).astype(np.float32)
    trainer.base.train()
    layer.draw_dropout_from(mx.random.key(3))
    kept = np.array(mx.random.bernoulli(0.5, x.shape, key=mx.random.key(3))).astype(np.float64)
    down, up, length, weight, bias = (
        np.array(value, dtype=np.float64)
        for value in (
            layer.lora_A, layer.lora_B, layer.lora_magnitude_vector, layer.base_layer.weight, layer.base_layer.bias,
        )
    )  # fmt: skip
    factor = length / np.linalg.norm(weight + 2 * up @ down, axis=1)
    dropped = x * kept / 0.5
    expected = x @ weight.T + bias + (factor - 1) * (dropped @ weight.T) + factor * 2 * (dropped @ down.T @ up.T)
    np.testing.assert_allclose(np.array(layer(mx.array(x))), expected, rtol=1e-4, atol=1e-4)


def test_dora_on_a_quantised_base_follows_the_dequantised_weight(quantised, tiny_llama):
    lora = LoraConfig(rank=4, alpha=8.0, variant="dora", target_modules=("q_proj",))
    layer = open_trainer(quantised, lora=lora).adapted.layers["model.layers.0.self_attn.q_proj"]
    weight = np.array(base_weight(layer.base_layer))
    np.testing.assert_allclose(np.array(layer.lora_magnitude_vector), np.linalg.norm(weight, axis=1), rtol=1e-5)
    rng = np.random.default_rng(0)
    layer.lora_B = mx.array(rng.standard_normal(layer.lora_B.shape).astype(np.float32))
    x = rng.standard_normal((5, 64)).astype(np.float32)
    merged = weight + 2 * np.array(layer.lora_B) @ np.array(layer.lora_A)
    merged *= (np.array(layer.lora_magnitude_vector) / np.linalg.norm(merged, axis=1))[:, None]
    np.testing.assert_allclose(np.array(layer(mx.array(x))), x @ merged.T, rtol=1e-3, atol=1e-3)


def test_dora_measures_its_rows_again_when_the_weights_change(tiny_qwen2):
    lora = LoraConfig(rank=4, alpha=8.0, variant="dora")
    trainer, other = open_trainer(tiny_qwen2, lora=lora), open_trainer(tiny_qwen2, lora=lora)
    batch = ragged(3, [20])
    before = trainer.evaluate(batch)
    trainer.train_step([batch], 1e-2, batch.trained_weight, 0)
    other.evaluate(batch)  # holds the lengths of the weights as they were
    other.set_weights(trainer.state().weights)
    assert other.evaluate(batch) == trainer.evaluate(batch) != before


def test_packing_is_refused_where_sequences_cannot_be_kept_apart():
    args = gpt2.ModelArgs(
        model_type="gpt2", n_ctx=32, n_embd=32, n_head=2, n_layer=2, n_positions=32, layer_norm_epsilon=1e-5,
        vocab_size=400,
    )  # fmt: skip
    use_device(mx.Device(mx.cpu, 0))
    model = gpt2.Model(args)
    mx.eval(model.parameters())
    split = SplitModel(model.eval(), mx.float32)
    packed = batch_of([[random_sequence(1, 5), random_sequence(2, 6)]])
    with pytest.raises(ToolkitError, match="cannot keep packed sequences apart"):
        split.hidden(packed)


def test_training_starts_no_compiler_on_the_cpu(tiny_qwen2, tmp_path):
    code = (
        "import sys, subprocess; from pathlib import Path\n"
        "from tests.conformance.batches import ragged\n"
        "from toolkit.mlx_backend.session import MlxBackend\n"
        "from toolkit.protocols import TrainerSpec\n"
        f"trainer = MlxBackend().open_trainer(TrainerSpec(Path({str(tiny_qwen2)!r}), device='cpu'))\n"
        "batch = ragged(1, [9]); trainer.train_step([batch], 1e-3, batch.trained_weight, 0).read()\n"
        f"print(sorted(path.suffix for path in Path({str(tmp_path)!r}).rglob('*') if path.suffix in ('.cpp', '.so')))\n"
    )
    # MLX keeps what it compiled in a temporary folder, or beside the process where it finds none.
    places = {"TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**_environment(), **places}, cwd=tmp_path
    )
    assert run.stdout.strip().splitlines()[-1] == "[]", run.stderr


def test_importing_mlx_lm_leaves_the_limit_on_open_files_as_it_was():
    code = (
        "import resource; limit = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 4000)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (limit - 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "import toolkit.mlx_backend; print(limit - 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_environment())
    before, after = run.stdout.split()
    assert before == after, run.stderr


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.mark.parametrize("fault", ["lacks", "too many"])
def test_an_adapter_that_lacks_a_layer_or_brings_one_too_many_is_refused(fault, tiny_llama, tmp_path):
    folder = tmp_path / "adapter"
    write_adapter(folder, open_trainer(tiny_llama, lora=LORA).state().weights, LORA, str(tiny_llama))
    tensors = load_file(folder / "adapter_model.safetensors")
    for side in "AB":
        value = tensors.pop(f"base_model.model.model.layers.1.mlp.up_proj.lora_{side}.weight")
        if fault == "too many":
            tensors[f"base_model.model.model.layers.7.mlp.up_proj.lora_{side}.weight"] = value
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    expected = "the adapter lacks .*layers.1.mlp.up_proj.lora_A" if fault == "lacks" else "no place for .*layers.7"
    with pytest.raises(ToolkitError, match=expected):
        MlxBackend().open_scorer(ScorerSpec(tiny_llama, folder, "cpu"))


def test_a_model_that_mlx_quantised_scores_and_trains_adapters(quantised, tiny_llama):
    trainer = open_trainer(quantised, lora=LORA)
    layers = [layer for layer in trainer.base.modules() if isinstance(layer, nn.QuantizedLinear)]
    assert len(layers) == 15
    assert trainer.parameter_counts() == open_trainer(tiny_llama, lora=LORA).parameter_counts()
    batch = ragged(1, [14, 9])
    before = trainer.evaluate(batch)[0]
    for step in range(5):
        trainer.train_step([batch], 1e-2, batch.trained_weight, step)
    assert trainer.evaluate(batch)[0] < before
    exact = {tensor.name: tensor for tensor in open_trainer(tiny_llama).named_weights()}
    rounded = {tensor.name: tensor for tensor in trainer.named_weights()}
    assert rounded.keys() == exact.keys()
    name = "model.layers.0.mlp.up_proj.weight"
    spread = np.ptp(exact[name].array.reshape(-1, 64), axis=1).max()
    assert 0 < np.abs(rounded[name].array - exact[name].array).max() <= spread / 15


def test_an_architecture_whose_weights_mlx_lm_renames_is_refused(tmp_path, tiny_llama):
    folder = tmp_path / "renamed"
    shutil.copytree(tiny_llama, folder)
    trainer = open_trainer(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"].pop("model.norm.weight")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model.norm.weight" in trainer.parameters
    with pytest.raises(ToolkitError, match=r"calls 1 weights otherwise .*model\.norm\.weight"):
        open_trainer(folder)
