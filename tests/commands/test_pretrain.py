from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.small_runs import settings, toolkit
from toolkit.config import ArchitectureConfig, PretrainConfig
from toolkit.jobs.pretrain import initial_tensors, write_initial_model
from toolkit.models import read_model
from toolkit.runs import find_run, runs_root
from toolkit.tensor_files import FolderTensors

SHAPE = settings(
    architecture__hidden_size=32,
    architecture__layers=2,
    architecture__ffn_size=48,
    architecture__context=64,
    tokenizer__vocab_size=300,
    row_tokens=24,
    validation=0.2,
    train__batch_size=4,
    train__max_steps=6,
    train__eval_every=3,
)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    documents = [{"text": f"The number {number} comes after {number - 1}. " * 3} for number in range(1, 40)]
    chats = [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": f"Hello {n}"}]}
        for n in range(9)
    ]
    path = tmp_path / "counting.jsonl"
    path.write_text("".join(json.dumps(document) + "\n" for document in [*documents, *chats]))
    return path


def test_a_model_trained_from_scratch_is_a_folder_that_transformers_and_finetune_open(
    corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "counter"
    result = toolkit("pretrain", "--corpus", corpus, *SHAPE, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert f"toolkit finetune --model {out}" in result.stdout
    run = find_run("pretrain-counting-001")
    evaluations = [row["val_loss"] for row in run.metrics() if "val_loss" in row]
    assert evaluations[-1] < evaluations[0]
    assert {entry.dtype for entry in FolderTensors(out).entries.values()} == {"bfloat16"}
    facts = read_model(out)
    assert (facts.architecture, facts.context, facts.config["torch_dtype"]) == ("Qwen2ForCausalLM", 64, "bfloat16")

    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert model.config.max_position_embeddings == 64
    assert model.config.rope_parameters["rope_theta"] == 10_000.0
    assert (run.model / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_a_resumed_pretraining_ends_with_the_same_bits(corpus: Path) -> None:
    assert toolkit("pretrain", "--corpus", corpus, *SHAPE, "--name", "whole").exit_code == 0
    assert toolkit("pretrain", "--corpus", corpus, *SHAPE, "--name", "half").exit_code == 0
    half, whole = find_run("half"), find_run("whole")
    (half.model / "model.safetensors").unlink()
    result = toolkit("pretrain", "--resume", half.checkpoints / "step-000003")
    assert result.exit_code == 0, result.stderr
    assert "training a tokenizer" not in result.stderr
    assert (half.model / "model.safetensors").read_bytes() == (whole.model / "model.safetensors").read_bytes()


def test_a_folder_in_the_way_of_out_is_refused_before_anything_is_trained(corpus: Path, tmp_path: Path) -> None:
    result = toolkit("pretrain", "--corpus", corpus, *SHAPE, "--out", tmp_path)
    assert result.exit_code == 2
    assert result.stderr == f"error: --out {tmp_path}: this folder exists. Choose another, or give --overwrite\n"
    assert not runs_root().exists()


def test_a_missing_corpus_is_one_line() -> None:
    result = toolkit("pretrain", "--corpus", "nowhere.txt", *SHAPE)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "error: corpus: nowhere.txt: no such file or folder"


def test_initial_weights_depend_on_seed_and_name_alone(tmp_path: Path) -> None:
    small, deep = (
        ArchitectureConfig(hidden_size=32, layers=1, ffn_size=48),
        ArchitectureConfig(hidden_size=32, layers=4, ffn_size=48),
    )
    one, four = ({tensor.name: tensor.array for tensor in initial_tensors(shape, 300, 5)} for shape in (small, deep))
    name = "model.layers.0.self_attn.q_proj.weight"
    np.testing.assert_array_equal(one[name], four[name])
    other = {tensor.name: tensor.array for tensor in initial_tensors(small, 300, 6)}
    assert not np.array_equal(one[name], other[name])
    assert one[name].std() == pytest.approx(0.02, rel=0.1)
    # GPT-2's scaling of what is added to the residual stream: 1/√(2·layers).
    for projection in ("self_attn.o_proj", "mlp.down_proj"):
        stds = [weights[f"model.layers.0.{projection}.weight"].std() for weights in (one, four)]
        assert stds[0] / stds[1] == pytest.approx(2.0)


@pytest.mark.parametrize("tied", [True, False])
def test_the_initial_model_has_every_tensor_that_transformers_expects(tied: bool, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    config = PretrainConfig.model_validate(
        {
            "architecture": {
                "hidden_size": 32,
                "layers": 2,
                "ffn_size": 48,
                "tie_embeddings": tied,
                "rope_theta": 500.0,
            },
            "tokenizer": {"vocab_size": 300},
        }
    )
    write_initial_model(config, ["one two three", "four five six"] * 9, tmp_path / "initial")
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "initial", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert model.config.rope_parameters["rope_theta"] == 500.0
