"""Folders that the toolkit did not write go the whole way to llama.cpp; transformers and PEFT bear witness."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.small_runs import settings, toolkit, write_questions
from toolkit.gguf_backend.session import GgufScorer
from toolkit.runs import RunFolder, find_run

SHAPES: dict[str, dict[str, Any]] = {
    "Qwen2.5, tied": {"family": "qwen2"},
    "Qwen2.5, untied, sharded, bfloat16": {
        "family": "qwen2",
        "tied": False,
        "dtype": "bfloat16",
        "max_shard_size": "200KB",
    },
    "Llama, tied, sharded": {"family": "llama", "max_shard_size": "200KB"},
    "Llama, untied, sharded": {"family": "llama", "tied": False, "max_shard_size": "200KB"},
}
SHORT = settings(train__max_steps=4, train__batch_size=4, data__validation=0.2)


def trained_logits(folder: Path, run: RunFolder, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return transformers' logits (B, T, V) of the trained model, its adapter merged by PEFT."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if run.adapter.is_dir():
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, str(run.adapter)).merge_and_unload()
    else:
        model = AutoModelForCausalLM.from_pretrained(run.model, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.from_numpy(tokens.astype(np.int64))).logits.float().numpy()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_foreign_folder_is_finetuned_exported_and_answers_in_llama_cpp(
    build_tiny_model: Callable[..., Path], tmp_path: Path, shape: str, method: str
) -> None:
    folder = build_tiny_model(**SHAPES[shape])
    data = write_questions(tmp_path / "sums.jsonl")
    trained = toolkit("finetune", "--model", folder, "--data", data, "--method", method, "--name", "mine", *SHORT)
    assert trained.exit_code == 0, trained.stderr
    run = find_run("mine")
    exported = toolkit("export", "mine", "--quant", "F32")
    assert exported.exit_code == 0, exported.stderr
    gguf = run.export / "mine-F32.gguf"

    tokens = np.random.default_rng(2).integers(0, 384, (2, 60)).astype(np.int32)
    scorer = GgufScorer(gguf, exact=True)
    in_llama_cpp = np.concatenate(list(scorer.logits(tokens)), axis=1)
    scorer.close()
    assert np.abs(in_llama_cpp - trained_logits(folder, run, tokens)).max() < 1e-2

    answer = toolkit("chat", gguf, "--prompt", "What is 1 plus 2?", "--max-tokens", 8)
    assert answer.exit_code == 0, answer.stderr
    assert toolkit("chat", "mine", "--prompt", "What is 1 plus 2?", "--max-tokens", 8).stdout == answer.stdout
