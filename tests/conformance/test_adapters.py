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
VARIANTS = ("lora", "rslora", "dora")
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.fixture
def train(tiny_llama, open_trainer, tmp_path):
    """Return `train(lora)`: a trainer that has learnt something, and its adapter on disk."""

    def train_it(lora):
        trainer = open_trainer(tiny_llama, lora=lora)
        batch = ragged(4, [16, 12])
        for step in range(3):
            trainer.train_step([batch], 1e-2, batch.trained_weight, step)
        folder = tmp_path / "adapter"
        write_adapter(folder, trainer.state().weights, lora, str(tiny_llama))
        return trainer, folder

    return train_it


@pytest.fixture
def trained(train):
    """A plain LoRA."""
    return train(LORA)


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


def test_dora_starts_from_the_lengths_of_the_rows_in_float32(tiny_llama, open_trainer):
    lora = LoraConfig(rank=2, variant="dora")
    exact, rough = (open_trainer(tiny_llama, lora=lora, dtype=dtype) for dtype in ("float32", "bfloat16"))
    plain = open_trainer(tiny_llama, lora=LoraConfig(rank=2)).state().weights
    bases = [{tensor.name: tensor.to_float32() for tensor in trainer.named_weights()} for trainer in (exact, rough)]
    for trainer, base in zip((exact, rough), bases, strict=True):
        found = trainer.state().weights
        magnitudes = [name for name in found if name.endswith(".lora_magnitude_vector")]
        assert set(found) == {*plain, *magnitudes} and len(magnitudes) == 14
        for name in magnitudes:
            module = name.removeprefix("base_model.model.").removesuffix(".lora_magnitude_vector")
            expected = np.linalg.norm(base[f"{module}.weight"].astype(np.float64), axis=1)
            np.testing.assert_allclose(found[name].array, expected, rtol=1e-6, err_msg=name)


def test_dora_refuses_a_row_of_zeros_by_name(tiny_llama, open_trainer, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    name = "model.layers.1.mlp.up_proj.weight"
    file = folder / json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"][name]
    tensors = load_file(file)
    tensors[name][3] = 0
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ToolkitError, match=r"lora\.variant: dora cannot adapt model\.layers\.1\.mlp\.up_proj: rows"):
        open_trainer(folder, lora=LoraConfig(rank=2, variant="dora"))
    open_trainer(folder, lora=LoraConfig(rank=2, variant="dora", target_modules=("q_proj", "layers.0.mlp.up_proj")))


def test_modules_are_named_by_the_ends_of_their_names(tiny_llama, open_trainer):
    lora = LoraConfig(rank=2, target_modules=("mlp.up_proj", "model.layers.1.self_attn.q_proj"))
    weights = open_trainer(tiny_llama, lora=lora).state().weights
    modules = {name.removeprefix("base_model.model.model.layers.").rpartition(".lora_")[0] for name in weights}
    assert modules == {"0.mlp.up_proj", "1.mlp.up_proj", "1.self_attn.q_proj"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_written_adapter_scores_like_the_trainer_and_like_peft(kit, train, variant, tiny_llama, plain_model):
    import peft

    trainer, folder = train(LoraConfig(rank=4, alpha=12.0, variant=variant))
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["use_dora"], config["use_rslora"]) == (variant == "dora", variant == "rslora")
    tokens = ragged(8, [18]).tokens
    (ours,) = kit.backend.open_scorer(ScorerSpec(tiny_llama, folder, "cpu", "float32")).logits(tokens)
    (held,) = trainer.logits(tokens)
    with torch.no_grad():
        witness = peft.PeftModel.from_pretrained(plain_model(tiny_llama), folder)(torch.from_numpy(tokens).long())
    np.testing.assert_allclose(
        ours, held, rtol=0, atol=1e-5 if variant == "dora" else 0
    )  # DoRA's lengths are measured once
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


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_goes_on_from_an_adapter_on_disk(train, variant, tiny_llama, open_trainer):
    lora = LoraConfig(rank=4, alpha=12.0, variant=variant)
    trainer, folder = train(lora)
    again = open_trainer(tiny_llama, lora=lora, adapter_folder=folder)
    held = trainer.state().weights
    for name, tensor in again.state().weights.items():
        np.testing.assert_array_equal(tensor.array, held[name].array, err_msg=name)
    batch = ragged(5, [9])
    again.train_step([batch], 1e-2, batch.trained_weight, 0)
    for name, tensor in again.state().weights.items():
        assert not np.array_equal(tensor.array, held[name].array), name


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
