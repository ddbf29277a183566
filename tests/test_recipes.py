"""Every packaged recipe loads, and plans a run on its model's shape within the memory that it promises."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.small_runs import settings, toolkit
from tests.sparse_models import SHAPES, build_sparse
from toolkit.config import FinetuneConfig, PretrainConfig
from toolkit.config_files import load_config
from toolkit.jobs.finetune import prepare_finetune
from toolkit.jobs.plan import make_plan
from toolkit.recipes import recipe_names

ROOT = Path(__file__).resolve().parents[1]
GIB = 2**30
# recipe → the memory that it promises to stay within, in bytes
PROMISED = {
    "qwen2.5-coder-0.5b-lora": 8e9,
    "qwen2.5-coder-1.5b-lora": 8e9,
    "qwen2.5-coder-3b-qlora": 8e9,
    "qwen2.5-coder-7b-qlora": 16e9,
}


@pytest.fixture(scope="module")
def long_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Examples of which some are longer than any recipe's max_seq_tokens."""
    path = tmp_path_factory.mktemp("data") / "long.jsonl"
    records = [
        {"instruction": f"Question {number}?", "input": "", "output": "word " * (3 if number else 9000)}
        for number in range(40)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder for each published shape."""
    root = tmp_path_factory.mktemp("sparse")
    return {name: build_sparse(root / name.rpartition("/")[2], name) for name in SHAPES}


def documented() -> dict[str, list[str]]:
    """Return the rows of docs/recipes.md by recipe."""
    text = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return {row[0].strip("`"): row[1:] for row in rows if row[0].startswith("`")}


def test_every_recipe_loads_by_its_name():
    for name in recipe_names("finetune"):
        load_config(FinetuneConfig, name)
    for name in recipe_names("pretrain"):
        load_config(PretrainConfig, name)
    assert set(PROMISED) == {name for name in recipe_names("finetune") if name.startswith("qwen")}


def test_the_7b_recipe_is_what_it_is_called():
    config = load_config(FinetuneConfig, "qwen2.5-coder-7b-qlora")
    assert config.model == "Qwen/Qwen2.5-Coder-7B-Instruct"
    assert (config.method, config.base.bits) == ("qlora", 4)
    assert (config.lora.rank, config.lora.alpha) == (16, 32.0)
    assert (config.train.batch_size, config.train.accumulation) == (1, 16)
    assert config.train.gradient_checkpointing is True


@pytest.mark.parametrize("name", PROMISED)
def test_a_recipe_dry_runs_on_its_model_s_shape(name, sparse, long_data):
    model = sparse[load_config(FinetuneConfig, name).model]
    assert (model / "model.safetensors").stat().st_blocks * 512 < 1e6  # nothing but a header on the disk
    result = toolkit("finetune", "--config", name, "--model", model, "--data", long_data, "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert "gradient checkpointing" in result.stdout and "memory:" in result.stdout


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", PROMISED)
def test_a_recipe_s_planned_memory_is_what_the_document_says_and_within_its_promise(name, dtype, sparse, long_data):
    config = load_config(FinetuneConfig, name)
    overrides = [value for value in settings(train__dtype=dtype) if value != "--set"]
    flags = {"model": str(sparse[config.model]), "data.path": str(long_data)}
    job = prepare_finetune(load_config(FinetuneConfig, name, overrides, flags))
    plan = make_plan(job)
    assert plan.length_percentiles[-1] == config.data.max_seq_tokens
    assert plan.memory_bytes < PROMISED[name]
    cell = documented()[name][{"bfloat16": 2, "float32": 3}[dtype]]
    assert cell == f"{plan.memory_bytes / GIB:.1f} GiB"


def test_the_document_lists_the_recipes_that_are_there():
    rows = documented()
    assert set(rows) == set(PROMISED)
    for name, row in rows.items():
        config = load_config(FinetuneConfig, name)
        assert row[0] == config.model
        assert re.sub(r"\D", "", row[1].split("×")[2]) == str(config.data.max_seq_tokens)
