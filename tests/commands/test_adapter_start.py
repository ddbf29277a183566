"""`toolkit finetune --adapter`: what the adapter decides, what is refused, and that nothing learnt is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.small_runs import settings, toolkit, write_questions
from toolkit.adapter_files import read_adapter
from toolkit.checkpoints import load_checkpoint
from toolkit.checksums import file_sha256
from toolkit.config import FinetuneConfig
from toolkit.config_files import load_config
from toolkit.models import read_model
from toolkit.runs import RunFolder, find_run

SHORT = settings(train__max_steps=4, train__eval_every=2, train__batch_size=4, data__validation=0.2)
DORA = settings(lora__rank=3, lora__alpha=5, lora__variant="dora", lora__dropout=0.1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_questions(tmp_path / "sums.jsonl")


def finetune(name: str, *arguments: object) -> RunFolder:
    result = toolkit("finetune", "--name", name, *SHORT, *arguments)
    assert result.exit_code == 0, result.stderr
    return find_run(name)


def refusal(*arguments: object) -> list[str]:
    result = toolkit("finetune", *SHORT, *arguments)
    assert result.exit_code == 2, result.stderr
    return result.stderr.splitlines()


def validation(run: RunFolder) -> list[float]:
    return [row["val_loss"] for row in run.metrics() if "val_loss" in row]


@pytest.fixture
def first(tiny_qwen2: Path, data: Path) -> RunFolder:
    """A run that trained DoRA on torch."""
    return finetune("first", "--model", tiny_qwen2, "--data", data, *DORA)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_run_goes_on_where_the_adapter_stood_with_its_model_rank_and_variant(
    first: RunFolder, data: Path, tiny_qwen2: Path, backend: str
) -> None:
    run = finetune("second", "--adapter", "first", "--data", data, "--backend", backend)
    assert validation(run)[0] == pytest.approx(min(validation(first)), rel=1e-5)
    assert validation(run)[-1] < validation(run)[0] < validation(first)[0]
    config = load_config(FinetuneConfig, run.config_path)
    assert config.model == str(tiny_qwen2)
    assert config.lora == load_config(FinetuneConfig, first.config_path).lora
    manifest = run.manifest()
    assert manifest["parent_run"] == "first"
    assert manifest["adapter"] == {
        "path": str(first.adapter.resolve()),
        "sha256": file_sha256(first.adapter / "adapter_model.safetensors"),
    }
    adapter = read_adapter(run.adapter, read_model(tiny_qwen2).tensors.entries)
    assert adapter.is_dora and adapter.config["r"] == 3


def test_the_run_a_checkpoint_and_a_copied_folder_name_an_adapter_too(
    first: RunFolder, data: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(first.adapter, tmp_path / "mine")
    checkpoint = first.checkpoints / "step-000002"
    places = ((first.path, first.adapter), (checkpoint, checkpoint / "adapter"), (copy, copy))
    for place, folder in places:
        result = toolkit("finetune", "--adapter", place, "--data", data, "--dry-run", *SHORT)
        assert result.exit_code == 0, result.stderr
        assert f"adapter:         goes on from {folder}" in result.stdout
    run = finetune("second", "--adapter", checkpoint, "--data", data)
    assert validation(run)[0] == pytest.approx(validation(first)[1], rel=1e-6)
    assert run.manifest()["parent_run"] == "first"


def test_a_resumed_run_needs_the_adapter_no_more_and_ends_with_the_same_bits(
    first: RunFolder, data: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(first.adapter, tmp_path / "mine")
    whole = finetune("whole", "--adapter", folder, "--data", data, *settings(train__schedule="constant"))
    cut = finetune(
        "cut", "--adapter", folder, "--data", data, *settings(train__schedule="constant", train__max_steps=2)
    )
    shutil.rmtree(folder)
    result = toolkit("finetune", "--resume", "cut", *settings(train__max_steps=4))
    assert result.exit_code == 0, result.stderr
    ends = [load_checkpoint(run.checkpoints / "step-000004").state for run in (whole, cut)]
    for name, tensor in ends[0].weights.items():
        np.testing.assert_array_equal(ends[1].weights[name].array, tensor.array, err_msg=name)
    assert cut.manifest()["adapter"]["path"] == str(folder)


def test_an_adapter_of_a_quantised_base_goes_on_on_one_unless_told_otherwise(tiny_qwen2: Path, data: Path) -> None:
    first = finetune("first", "--model", tiny_qwen2, "--data", data, "--method", "qlora", *settings(base__bits=8))
    second = finetune("second", "--adapter", "first", "--data", data)
    config = load_config(FinetuneConfig, second.config_path)
    assert (config.method, config.base.bits) == ("qlora", 8)
    assert validation(second)[0] == pytest.approx(min(validation(first)), rel=1e-6)
    plain = toolkit("finetune", "--adapter", "first", "--data", data, "--method", "lora", "--dry-run", *SHORT)
    assert "method:          lora," in plain.stdout


def test_options_that_contradict_the_adapter_are_refused_at_once_with_both_values(first: RunFolder, data: Path) -> None:
    wrong = settings(lora__rank=8, lora__alpha=5, lora__variant="lora", lora__target_modules="[q_proj]")
    found = refusal("--adapter", "first", "--data", data, "--method", "full", *wrong)
    leave = ". Leave it out: an adapter goes on as it began"
    assert found == [
        "error: method: full trains every weight, so it cannot go on from an adapter. "
        "Choose method: lora, or train the merged model",
        f"error: lora.rank: 8 was asked for, but the adapter has 3{leave}",
        f"error: lora.variant: lora was asked for, but the adapter has dora{leave}",
        "error: lora.target_modules: q_proj was asked for, but the adapter has "
        f"down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj{leave}",
    ]
    agreeing = settings(lora__rank=3, lora__alpha=5, lora__variant="dora", lora__dropout=0.3)
    run = finetune("second", "--adapter", "first", "--data", data, *agreeing)
    assert load_config(FinetuneConfig, run.config_path).lora.dropout == 0.3


def test_another_base_is_refused_by_its_shapes_or_its_hash(
    first: RunFolder, data: Path, tiny_qwen2: Path, build_tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    other = build_tiny_model(family="qwen2", seed=5)
    message = f"error: {other}: the adapter was trained on another model, {tiny_qwen2}. Leave --model out, or give"
    assert refusal("--adapter", "first", "--model", other, "--data", data)[0].startswith(message)
    copy = shutil.copytree(first.adapter, tmp_path / "mine")  # no run beside it says which model it was
    assert refusal("--adapter", copy, "--model", other, "--data", data)[0].startswith(message)
    config = copy / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": None}))
    wide = build_tiny_model(family="qwen2", hidden_size=96)
    assert "but the model's weight is [" in refusal("--adapter", copy, "--model", wide, "--data", data)[0]
    moved = shutil.copytree(tiny_qwen2, tmp_path / "moved")
    assert toolkit("finetune", "--adapter", copy, "--model", moved, "--data", data, "--dry-run").exit_code == 0


def test_what_is_not_there_is_refused_in_one_line_with_what_to_type(
    first: RunFolder, data: Path, tiny_qwen2: Path, tmp_path: Path
) -> None:
    assert refusal("--adapter", "frist", "--data", data) == [
        f"error: frist: no adapter, checkpoint or run of this name (runs are looked for in {first.path.parent}). "
        "Did you mean first?"
    ]
    full = finetune("full", "--model", tiny_qwen2, "--data", data, "--method", "full")
    assert refusal("--adapter", "full", "--data", data) == [
        f"error: full: this run trained every weight and has no adapter. Go on from its model: --model {full.model}"
    ]
    shutil.rmtree(first.adapter)
    assert refusal("--adapter", "first", "--data", data) == [
        "error: first: this run has no finished adapter yet. Go on with the run itself: toolkit finetune --resume first"
    ]
    adapter = first.checkpoints / "step-000004" / "adapter"
    config = json.loads((adapter / "adapter_config.json").read_text())
    lost = shutil.copytree(adapter, tmp_path / "lost")
    (lost / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "./gone"}))
    assert refusal("--adapter", lost, "--data", data) == [
        f"error: {lost}: the adapter's base model cannot be had: ./gone: no such model folder. "
        "Give a folder, a Hugging Face hub name, or nano. Say where it is now: --model"
    ]
    (lost / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    assert "the adapter does not name its base model" in refusal("--adapter", lost, "--data", data)[0]
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "r": 4}))
    assert "its SHA-256 is not the one" in refusal("--adapter", adapter, "--data", data)[0]


def test_adapters_of_pefts_go_on_as_far_as_lora_rslora_and_dora_go(
    tiny_qwen2: Path, build_peft_adapter: Callable[..., Path], data: Path
) -> None:
    few = build_peft_adapter(tiny_qwen2, use_rslora=True, layers_to_transform=[1], target_modules=["q_proj", "up_proj"])
    run = finetune("few", "--adapter", few, "--model", tiny_qwen2, "--data", data)
    before, after = (read_adapter(folder, read_model(tiny_qwen2).tensors.entries) for folder in (few, run.adapter))
    assert (
        set(after.modules) == set(before.modules) == {"model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj"}
    )
    assert after.is_rslora and after.config["lora_alpha"] == 6
    patterned = build_peft_adapter(tiny_qwen2, rank_pattern={"q_proj": 2})
    (line,) = refusal("--adapter", patterned, "--model", tiny_qwen2, "--data", data)
    assert "an adapter with rank_pattern can be used and exported, but not trained on" in line
