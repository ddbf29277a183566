"""Folders in MLX's layout on both backends. The witness is transformers with the same weights written out in full."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tests.conformance.batches import ragged
from toolkit.affine import AffineLayout, quantise
from toolkit.config import LoraConfig
from toolkit.errors import ToolkitError
from toolkit.models import read_model
from toolkit.tensor_files import StoredTensor, write_tensors

LORA = LoraConfig(rank=4, alpha=8.0)
PLAIN_ROPE = (("rope_parameters", {"rope_type": "default", "rope_theta": 500.0}),)


@pytest.fixture(scope="session")
def mlx_quantised(build_tiny_model, tmp_path_factory):
    """Return `quantised(family, tied, bits)`: a folder as mlx-lm quantises it, embedding and head included."""

    def build(family: str, tied: bool, bits: int) -> Path:
        from mlx_lm.utils import load_model, quantize_model, save_config, save_model

        source = build_tiny_model(family=family, tied=tied, changes=PLAIN_ROPE)
        model, config = load_model(source)
        model, config = quantize_model(model, config, group_size=32, bits=bits)
        folder = tmp_path_factory.mktemp(f"{family}-{bits}")
        save_model(folder, model)
        save_config(config, folder / "config.json")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(source / name, folder / name)
        return folder

    return build


def in_full(folder: Path, target: Path) -> Path:
    """Write a quantised folder's weights out as float32, in a folder that transformers reads."""
    facts = read_model(folder)
    config = {key: value for key, value in facts.config.items() if not key.startswith("quantization")}
    target.mkdir()
    (target / "config.json").write_text(json.dumps(config))
    (target / "tokenizer.json").write_text((folder / "tokenizer.json").read_text())
    write_tensors(target / "model.safetensors", dict(facts.tensors.items()), {"format": "pt"})
    return target


@pytest.mark.parametrize(("family", "tied", "bits"), [("qwen2", True, 4), ("llama", False, 8), ("qwen2", True, 3)])
def test_a_packed_model_gives_the_logits_of_its_weights_written_out(
    family, tied, bits, mlx_quantised, open_trainer, plain_model, tmp_path
):
    folder = mlx_quantised(family, tied, bits)
    tokens = ragged(3, (40, 40)).tokens
    with torch.no_grad():
        expected = plain_model(in_full(folder, tmp_path / "full"))(torch.from_numpy(tokens).long()).logits.numpy()
    trainer = open_trainer(folder, lora=LORA)
    found = np.concatenate(list(trainer.logits(tokens)), axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_packed_model_lists_its_weights_in_full_and_counts_them_so(mlx_quantised, open_trainer, tmp_path):
    folder = mlx_quantised("qwen2", True, 4)
    full = in_full(folder, tmp_path / "full")
    packed, plain = open_trainer(folder, lora=LORA), open_trainer(full, lora=LORA)
    found = {tensor.name: tensor.array for tensor in packed.named_weights()}
    expected = {tensor.name: tensor.array for tensor in plain.named_weights()}
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], atol=1e-6, err_msg=name)
    assert packed.parameter_counts() == plain.parameter_counts()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_learn_on_a_packed_model_as_on_its_weights_written_out(
    checkpointing, mlx_quantised, open_trainer, tmp_path
):
    folder = mlx_quantised("llama", False, 4)
    fields = {"lora": LORA, "gradient_checkpointing": checkpointing, "seed": 3}
    packed = open_trainer(folder, **fields)
    plain = open_trainer(in_full(folder, tmp_path / "full"), **fields)
    before = {tensor.name: tensor.array.copy() for tensor in packed.named_weights()}
    for step in range(6):
        batch = ragged(step, (14, 9))
        losses = [t.train_step([batch], 1e-2, batch.trained_weight, step).read().loss for t in (packed, plain)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for tensor in packed.named_weights():
        np.testing.assert_array_equal(tensor.array, before[tensor.name], err_msg=tensor.name)


def test_a_packed_model_is_not_trained_in_full(mlx_quantised, open_trainer):
    with pytest.raises(ToolkitError, match="a quantised model cannot be trained in full.*method: lora"):
        open_trainer(mlx_quantised("llama", False, 4))


def test_the_arithmetic_of_a_packed_model_may_be_bfloat16(mlx_quantised, open_trainer):
    folder = mlx_quantised("qwen2", True, 4)
    exact, rounded = (open_trainer(folder, lora=LORA, dtype=dtype) for dtype in ("float32", "bfloat16"))
    batch = ragged(1, (14, 9))
    losses = [t.train_step([batch], 1e-2, batch.trained_weight, 0).read().loss for t in (exact, rounded)]
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=2e-2)
    assert {tensor.dtype for tensor in rounded.state().weights.values()} == {"float32"}


@pytest.mark.parametrize("missing", ["scales", "biases", "weight"])
def test_a_packed_layer_that_lacks_a_tensor_is_refused(missing, mlx_quantised, open_trainer, tmp_path, kit):
    folder = tmp_path / "broken"
    shutil.copytree(mlx_quantised("llama", False, 4), folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors[f"model.layers.1.mlp.up_proj.{missing}"]
    save_file(tensors, folder / "model.safetensors")
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    with pytest.raises(ToolkitError, match=r"up_proj"):
        open_trainer(folder, lora=LORA)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_product_with_a_packed_weight_and_its_gradient_are_those_of_float64(bits):
    from toolkit.torch_backend.affine_layers import AffineLinear

    rng = np.random.default_rng(bits)
    layout = AffineLayout(bits, 32)
    words, scales, biases = quantise(rng.standard_normal((48, 96)).astype(np.float32), layout)
    layer = AffineLinear(torch.nn.Linear(96, 48), layout)
    layer.weight, layer.scales, layer.biases = (
        torch.from_numpy(part) for part in (words.view(np.uint8), scales, biases)
    )
    x, dy = rng.standard_normal((2, 5, 96)).astype(np.float32), rng.standard_normal((2, 5, 48)).astype(np.float32)
    variable = torch.from_numpy(x).requires_grad_()
    y = layer(variable)
    y.backward(torch.from_numpy(dy))
    steps = (words[:, :, None] >> (bits * np.arange(32 // bits, dtype=np.uint32))) & ((1 << bits) - 1)
    exact = steps.reshape(48, 3, 32).astype(np.float64) * scales[:, :, None] + biases[:, :, None]
    exact = exact.reshape(48, 96)
    bias = layer.bias.detach().numpy().astype(np.float64)
    np.testing.assert_allclose(y.detach().numpy(), x.astype(np.float64) @ exact.T + bias, atol=1e-5)
    np.testing.assert_allclose(variable.grad.numpy(), dy.astype(np.float64) @ exact, atol=1e-5)


def test_no_weight_in_full_waits_for_the_backward_pass():
    from toolkit.torch_backend.affine_layers import AffineLinear

    layout = AffineLayout(4, 32)
    layer = AffineLinear(torch.nn.Linear(256, 256, bias=False), layout)
    parts = quantise(np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32), layout)
    layer.weight, layer.scales, layer.biases = (torch.from_numpy(part) for part in parts)
    layer.weight = layer.weight.view(torch.uint8)
    kept: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(torch.zeros(2, 256, requires_grad=True)).sum()
    assert sum(kept) <= 256 * 256 // 2 + 2 * 256 * 8 * 4


def test_peft_puts_dora_on_a_packed_layer_as_on_a_plain_one(mlx_quantised, plain_model, tmp_path):
    import peft

    from toolkit.torch_backend.model import load_model

    folder = mlx_quantised("llama", False, 4)
    config = peft.LoraConfig(r=4, use_dora=True, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    tokens = torch.from_numpy(ragged(3, (20, 20)).tokens).long()
    logits = []
    for model in (
        load_model(folder, torch.float32, torch.device("cpu")),
        plain_model(in_full(folder, tmp_path / "full")),
    ):
        torch.manual_seed(5)
        with torch.no_grad():
            logits.append(peft.get_peft_model(model, config)(tokens).logits)
    torch.testing.assert_close(*logits, atol=1e-4, rtol=0)


def test_a_model_s_facts_are_those_of_its_weights_in_full(mlx_quantised, build_tiny_model):
    packed = read_model(mlx_quantised("llama", False, 4))
    plain = read_model(build_tiny_model(family="llama", tied=False, changes=PLAIN_ROPE))
    assert packed.parameter_count == plain.parameter_count
    assert packed.linear_modules == plain.linear_modules
    assert {n: e.shape for n, e in packed.block_matrices.items()} == {
        n: e.shape for n, e in plain.block_matrices.items()
    }
    assert packed.dtype == "float32"
    assert isinstance(packed.tensors["model.norm.weight"], StoredTensor)
