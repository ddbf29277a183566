from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tests.conformance.batches import ragged
from tests.peft_adapters import KINDS
from toolkit.adapter_files import write_adapter
from toolkit.config import LoraConfig
from toolkit.errors import ToolkitError
from toolkit.initial_values import draw_kaiming_uniform
from toolkit.protocols import ScorerSpec

LORA = LoraConfig(rank=4, alpha=12.0)
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.fixture
def trained(tiny_llama, open_trainer, tmp_path):
    """A trainer that has learnt something, and its adapter on disk."""
    trainer = open_trainer(tiny_llama, lora=LORA)
    batch = ragged(4, [16, 12])
    for step in range(3):
        trainer.train_step([batch], 1e-2, batch.trained_weight, step)
    folder = tmp_path / "adapter"
    write_adapter(folder, trainer.state().weights, LORA, str(tiny_llama))
    return trainer, folder


def test_all_linear_layers_of_the_blocks_are_adapted_and_not_the_head(tiny_llama, open_trainer):
    names = set(open_trainer(tiny_llama, lora=LORA).state().weights)
    expected = set()
    for layer in range(2):
        for module in LINEAR:
            part = "self_attn" if module in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
            for side in "AB":
                expected.add(f"base_model.model.model.layers.{layer}.{part}.{module}.lora_{side}.weight")
    assert names == expected


def test_initial_values_depend_on_seed_and_name_alone_and_b_is_zero(kit, tiny_llama, open_trainer):
    kit.disturb_random_state()
    few = open_trainer(tiny_llama, lora=LoraConfig(rank=4, target_modules=("v_proj",)), seed=7).state().weights
    many = open_trainer(tiny_llama, lora=LORA, seed=7).state().weights
    assert len(few) == 4
    for name, tensor in few.items():
        np.testing.assert_array_equal(tensor.array, many[name].array)
        expected = draw_kaiming_uniform(7, name, tensor.array.shape) if ".lora_A." in name else 0 * tensor.array
        np.testing.assert_array_equal(tensor.array, expected)


def test_an_unknown_target_module_is_refused_with_the_nearest_name(tiny_llama, open_trainer):
    with pytest.raises(ToolkitError) as error:
        open_trainer(tiny_llama, lora=LoraConfig(target_modules=("q_porj", "lm_head", "zzz")))
    assert [problem.where for problem in error.value.problems] == ["lora.target_modules"] * 3
    assert "did you mean q_proj?" in str(error.value)


def test_a_written_adapter_scores_like_the_trainer_and_like_peft(kit, trained, tiny_llama, plain_model):
    import peft

    trainer, folder = trained
    tokens = ragged(8, [18]).tokens
    (ours,) = kit.backend.open_scorer(ScorerSpec(tiny_llama, folder, "cpu", "float32")).logits(tokens)
    (held,) = trainer.logits(tokens)
    with torch.no_grad():
        witness = peft.PeftModel.from_pretrained(plain_model(tiny_llama), folder)(torch.from_numpy(tokens).long())
    np.testing.assert_array_equal(ours, held)
    np.testing.assert_allclose(ours, witness.logits.numpy(), atol=2e-5)
    with trainer.adapters(False):
        assert np.abs(next(trainer.logits(tokens)) - ours).max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_pefts_answers_as_in_peft(kit, kind, tiny_qwen2, build_peft_adapter, plain_model):
    import peft

    folder = build_peft_adapter(tiny_qwen2, **KINDS[kind])
    tokens = ragged(8, [18, 12]).tokens
    (ours,) = kit.backend.open_scorer(ScorerSpec(tiny_qwen2, folder, "cpu", "float32")).logits(tokens)
    with torch.no_grad():
        witness = peft.PeftModel.from_pretrained(plain_model(tiny_qwen2), folder)(torch.from_numpy(tokens).long())
    np.testing.assert_allclose(ours, witness.logits.numpy(), atol=1e-4)
    (plain,) = kit.backend.open_scorer(ScorerSpec(tiny_qwen2, None, "cpu", "float32")).logits(tokens)
    assert np.abs(plain - ours).max() > 0.5


def test_an_adapter_opens_silently_whatever_its_base_is_called(kit, trained, tiny_llama, tmp_path):
    shutil.copytree(trained[1], tmp_path / "renamed")
    config = tmp_path / "renamed" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": "nano"}))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT's words when it asks the hub for the base in vain
        kit.backend.open_scorer(ScorerSpec(tiny_llama, tmp_path / "renamed", "cpu", "float32"))


def test_training_goes_on_from_an_adapter_on_disk(trained, tiny_llama, open_trainer):
    trainer, folder = trained
    again = open_trainer(tiny_llama, lora=LORA, adapter_folder=folder)
    held = trainer.state().weights
    for name, tensor in again.state().weights.items():
        np.testing.assert_array_equal(tensor.array, held[name].array, err_msg=name)
    batch = ragged(5, [9])
    again.train_step([batch], 1e-2, batch.trained_weight, 0)
    name = next(iter(held))
    assert not np.array_equal(again.state().weights[name].array, held[name].array)


@pytest.mark.parametrize("fault", ["misnamed", "missing"])
def test_an_adapter_whose_tensors_do_not_fit_one_to_one_is_refused(kit, trained, tiny_llama, fault):
    _, folder = trained
    tensors = load_file(folder / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    value = tensors.pop(name)
    if fault == "misnamed":
        tensors["base_model.model.model.layers.1.mlp.up_prox.lora_B.weight"] = value
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(ToolkitError, match=f"(the adapter lacks|but not) {name}"):
        kit.backend.open_scorer(ScorerSpec(tiny_llama, folder, "cpu"))


def test_a_folder_that_is_no_adapter_is_refused(kit, tiny_llama, tmp_path, trained):
    with pytest.raises(ToolkitError, match="adapter_config.json is missing"):
        kit.backend.open_scorer(ScorerSpec(tiny_llama, tmp_path, "cpu"))
    broken = tmp_path / "broken"
    shutil.copytree(trained[1], broken)
    config = json.loads((broken / "adapter_config.json").read_text())
    (broken / "adapter_config.json").write_text(json.dumps({**config, "r": 3}))
    with pytest.raises(ToolkitError, match=r"PEFT cannot load this adapter|which is not of rank 3"):
        kit.backend.open_scorer(ScorerSpec(tiny_llama, broken, "cpu"))
