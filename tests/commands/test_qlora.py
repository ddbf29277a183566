"""`method: qlora` from the command line: what is written, what a run is asked on, what is exported and refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.small_runs import settings, toolkit, write_questions
from toolkit.backends import open_target, resolve_target
from toolkit.base_cache import bases_folder
from toolkit.checksums import file_sha256
from toolkit.runs import RunFolder, find_run, runs_root

SHORT = settings(train__max_steps=4, train__batch_size=4, train__device="cpu", data__validation=0.2, backend="torch")

CONSTANT = settings(
    train__schedule="constant", train__save_every=3, train__eval_every=3, train__warmup=0, lora__dropout=0.2
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_questions(tmp_path / "sums.jsonl")


def finetune(name: str, *arguments: object) -> RunFolder:
    result = toolkit("finetune", "--method", "qlora", "--name", name, *SHORT, *arguments)
    assert result.exit_code == 0, result.stderr
    return find_run(name)


def test_a_run_saves_the_resolved_base_and_names_the_full_precision_model(tiny_llama, data):
    run = finetune("mine", "--model", tiny_llama, "--data", data)
    config = yaml.safe_load(run.config_path.read_text())
    assert config["method"] == "qlora"
    assert config["base"] == {"bits": 4, "layout": "affine", "group_size": 64}
    adapter = json.loads((run.adapter / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(tiny_llama)
    assert run.manifest()["model_folder"] == str(tiny_llama)
    again = toolkit("finetune", "--config", run.config_path, "--name", "again")
    assert again.exit_code == 0, again.stderr
    assert "quantising" not in again.stderr  # the copy is kept
    assert file_sha256(find_run("again").adapter / "adapter_model.safetensors") == file_sha256(
        run.adapter / "adapter_model.safetensors"
    )


def test_quantising_is_announced_on_stderr(tiny_llama, data):
    result = toolkit("finetune", "--method", "qlora", "--name", "loud", *SHORT, "--model", tiny_llama, "--data", data)
    assert "quantising " in result.stderr and str(bases_folder()) in result.stderr


def logits_of(name: str, **options: bool) -> np.ndarray:
    opened = open_target(resolve_target(name, runs_root()), "cpu", "float32", "torch", **options)
    return np.concatenate(list(opened.scorer.logits(np.arange(40, dtype=np.int32)[None])), axis=1)


def test_a_run_is_asked_on_the_base_that_it_was_trained_on_unless_told_otherwise(tiny_llama, data):
    run = finetune("mine", "--model", tiny_llama, "--data", data, "--set", "lora.rank=4")
    trained, full = logits_of("mine"), logits_of("mine", full_base=True)
    assert np.abs(trained - full).max() > 1e-2
    np.testing.assert_array_equal(logits_of(str(run.adapter)), trained)  # the folder lies in its run
    spoken = [
        toolkit("chat", "mine", "--prompt", "1 plus 2?", "--max-tokens", 3, *more) for more in ((), ("--full-base",))
    ]
    assert [result.exit_code for result in spoken] == [0, 0]
    table = [
        json.loads(toolkit("evaluate", "mine", "--json", "--max-examples", 4, "--device", "cpu", *more).stdout)["rows"]
        for more in ((), ("--full-base",))
    ]
    perplexities = [next(row["value"] for row in rows if row["metric"] == "perplexity") for rows in table]
    assert perplexities[0] != perplexities[1]


def test_the_export_merges_into_the_full_precision_model_and_is_verified_against_it(tiny_llama, data):
    run = finetune("mine", "--model", tiny_llama, "--data", data)
    exported = toolkit("export", "mine", "--quant", "F32")
    assert exported.exit_code == 0, exported.stderr
    gates = json.loads((run.export / "verification.json").read_text())
    conversion = next(gate for gate in gates if gate["gate"] == "conversion")
    assert conversion["passed"] and conversion["figures"]["max_logit_difference"] < 1e-3


def test_a_resumed_run_has_the_bits_of_one_that_was_not_interrupted(tiny_llama, data):
    first = finetune("first", "--model", tiny_llama, "--data", data, *CONSTANT, *settings(train__max_steps=3))
    result = toolkit("finetune", "--resume", "first", *settings(train__max_steps=6))
    assert result.exit_code == 0, result.stderr
    straight = finetune("straight", "--model", tiny_llama, "--data", data, *CONSTANT, *settings(train__max_steps=6))
    names = ("first", "straight")
    digests = {
        file_sha256(find_run(name).path / "checkpoints/step-000006/adapter/adapter_model.safetensors") for name in names
    }
    assert len(digests) == 1, (first.path, straight.path)


def test_a_packed_folder_is_used_as_it_is_and_nothing_is_cached(tiny_llama, data, tmp_path):
    finetune("mine", "--model", tiny_llama, "--data", data)
    (copy,) = [path for path in bases_folder().iterdir() if path.is_dir()]
    packed = copy.rename(tmp_path / "packed")
    run = finetune("packed", "--model", packed, "--data", data)
    assert not [path for path in bases_folder().iterdir() if path.is_dir()]
    losses = [[row["loss"] for row in one.metrics() if "loss" in row] for one in (find_run("mine"), run)]
    assert losses[0] == losses[1]
    exported = toolkit("export", "packed", "--quant", "F32")
    assert exported.exit_code == 0, exported.stderr


def test_the_plan_of_a_dry_run_knows_the_size_of_a_quantised_base(tiny_llama, data):
    arguments = ("--model", tiny_llama, "--data", data, *SHORT, "--dry-run")
    shown = toolkit("finetune", "--method", "qlora", *arguments).stdout
    assert "qlora, affine, 4 bits" in shown
    assert not bases_folder().exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "qlora", "--set", "base.layout=nf4", "--backend", "mlx"), "MLX cannot read it"),
        (("--method", "qlora", "--set", "base.layout=nf4", "--set", "base.bits=8"), "nf4 has 4 bits, not 8"),
        (("--method", "lora", "--set", "base.bits=4"), "base applies to method qlora, not lora"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_before_anything_is_written(arguments, message, tiny_llama, data):
    result = toolkit("finetune", "--model", tiny_llama, "--data", data, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr and "Traceback" not in result.stderr
    assert not bases_folder().exists() and not runs_root().exists()
