"""NF4 on torch. The witness is transformers, quantising the same folder by itself as it loads it."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.conformance.batches import ragged
from toolkit import packed_folders
from toolkit.base_cache import bases_folder, cached_base
from toolkit.config import BaseConfig, LoraConfig
from toolkit.errors import ToolkitError
from toolkit.models import read_model
from toolkit.protocols import ScorerSpec, TrainerSpec
from toolkit.tensor_files import FolderTensors, StoredTensor, write_tensors
from toolkit.torch_backend.nf4 import LABEL, Nf4Packer
from toolkit.torch_backend.session import TorchBackend

NF4 = BaseConfig(layout="nf4")
LORA = LoraConfig(rank=4, alpha=8.0)
CPU = {"device": "cpu", "dtype": "float32"}


def prepare(folder):
    return cached_base(read_model(folder), Nf4Packer(), LABEL, lambda _: None)


def by_transformers(folder, dtype):
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
        llm_int8_skip_modules=["lm_head"],
    )
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, dtype=getattr(torch, dtype), device_map="cpu"
    ).eval()


@pytest.mark.parametrize(
    ("family", "tied", "stored", "dtype"),
    [
        ("qwen2", True, "float32", "float32"),
        ("llama", False, "bfloat16", "bfloat16"),
        ("qwen2", True, "bfloat16", "float32"),
    ],
)
def test_weights_and_logits_are_those_of_transformers_own_quantising_bit_for_bit(
    family, tied, stored, dtype, build_tiny_model
):
    folder = build_tiny_model(family=family, tied=tied, dtype=stored)
    witness = by_transformers(folder, dtype)
    scorer = TorchBackend().open_scorer(ScorerSpec(folder, device="cpu", dtype=dtype, base=NF4))
    ours, theirs = dict(scorer.base.named_modules()), dict(witness.named_modules())
    packed = [name for name, layer in theirs.items() if type(layer).__name__ == "Linear4bit"]
    assert len(packed) == 14
    for name in packed:
        assert torch.equal(ours[name].weight.data, theirs[name].weight.data), name
        for part in ("absmax", "code", "offset", "dtype", "shape"):
            mine, other = (getattr(layer[name].weight.quant_state, part) for layer in (ours, theirs))
            assert torch.equal(mine, other) if isinstance(mine, torch.Tensor) else mine == other, (name, part)
    if dtype == "float32":
        tokens = ragged(3, (40, 40)).tokens
        for layer in theirs.values():  # by the same road as when it trains: see `settle_nf4`
            if type(layer).__name__ == "Linear4bit":
                layer.support_avx512bf16_for_cpu = False
        with torch.no_grad():
            expected = witness(torch.from_numpy(tokens).long(), use_cache=False).logits.numpy()
        found = np.concatenate(list(scorer.logits(tokens)), axis=1)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_copy_in_small_pieces_is_the_same(tiny_qwen2, monkeypatch):
    whole = {name: tensor.array.copy() for name, tensor in FolderTensors(prepare(tiny_qwen2)).items()}
    shutil.rmtree(bases_folder())
    monkeypatch.setattr(packed_folders, "PIECE_WEIGHTS", 1000)
    pieces = FolderTensors(prepare(tiny_qwen2))
    assert pieces.keys() == whole.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(pieces[name].array, array, err_msg=name)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_learn_on_it_and_the_base_stays(checkpointing, tiny_llama):
    trainer = TorchBackend().open_trainer(
        TrainerSpec(tiny_llama, **CPU, base=NF4, lora=LORA, gradient_checkpointing=checkpointing)
    )
    plain = TorchBackend().open_trainer(TrainerSpec(tiny_llama, **CPU, lora=LORA))
    assert trainer.parameter_counts() == plain.parameter_counts()
    before = {tensor.name: tensor.array for tensor in trainer.named_weights()}
    assert before.keys() == {tensor.name for tensor in plain.named_weights()}
    batch = ragged(1, (14, 9))
    losses = [trainer.train_step([batch], 1e-2, batch.trained_weight, step).read().loss for step in range(8)]
    assert np.isfinite(losses).all() and losses[-1] < 0.8 * losses[0]
    for tensor in trainer.named_weights():
        np.testing.assert_array_equal(tensor.array, before[tensor.name], err_msg=tensor.name)


def test_a_resumed_run_has_the_same_bits_also_when_it_was_evaluated_on_the_way(tiny_llama):
    def trainer(seed):
        return TorchBackend().open_trainer(TrainerSpec(tiny_llama, **CPU, base=NF4, lora=LORA, seed=seed))

    def step(one, number):
        batch = ragged(number, (14, 9))
        return one.train_step([batch], 1e-2, batch.trained_weight, number).read().loss

    whole, resumed = trainer(1), trainer(2)
    for number in range(3):
        step(whole, number)
    resumed.restore(whole.state())
    resumed.evaluate(ragged(50, (14, 9)))
    assert [step(resumed, n) for n in range(3, 6)] == [step(whole, n) for n in range(3, 6)]


def test_a_model_in_nf4_is_not_trained_in_full(tiny_llama):
    with pytest.raises(ToolkitError, match="a quantised model cannot be trained in full"):
        TorchBackend().open_trainer(TrainerSpec(tiny_llama, **CPU, base=NF4))


def test_a_weight_that_is_not_a_number_is_named(tiny_qwen2, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_qwen2, model)
    tensors = dict(FolderTensors(model).items())
    name = "model.layers.1.mlp.up_proj.weight"
    broken = tensors[name].array.copy()
    broken[3, 3] = np.inf
    tensors[name] = StoredTensor(name, "float32", broken)
    write_tensors(model / "model.safetensors", tensors, {"format": "pt"})
    with pytest.raises(ToolkitError, match=f"{name} holds NaN or infinity"):
        prepare(model)
