"""`toolkit export` as it is typed: where files go, what is printed, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.small_runs import toolkit
from toolkit.adapter_files import write_adapter
from toolkit.config import LoraConfig
from toolkit.tensor_files import StoredTensor

ADAPTER_CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}


@pytest.fixture
def model(tiny_qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny Qwen2 that may be changed, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(tiny_qwen2, tmp_path / "small")).relative_to(tmp_path)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


def test_the_file_is_the_only_line_on_stdout_and_the_gates_stand_on_stderr(model: Path):
    result = toolkit("export", model, "--quant", "q8_0")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "export/small-Q8_0.gguf\n"
    for gate in ("structure", "tokenizer", "chat", "conversion", "weights", "behaviour"):
        assert gate in result.stderr
    assert "6 gates passed" in result.stderr
    assert Path("export/small-Q8_0.gguf").is_file()


def test_out_names_a_file_or_a_folder(model: Path):
    assert toolkit("export", model, "--quant", "F16", "--no-verify", "--out", "there/mine.gguf").exit_code == 0
    assert toolkit("export", model, "--quant", "F16", "--no-verify", "--out", "there").exit_code == 0
    assert sorted(path.name for path in Path("there").iterdir()) == [
        "Modelfile",
        "mine.gguf",
        "mine.md",
        "small-F16.gguf",
        "small.md",
    ]


def test_a_failed_gate_is_named_and_the_exit_code_is_1(model: Path, monkeypatch: pytest.MonkeyPatch):
    real = gguf.GGUFWriter.add_rope_freq_base
    monkeypatch.setattr(gguf.GGUFWriter, "add_rope_freq_base", lambda self, base: real(self, base * 100))
    result = toolkit("export", model, "--quant", "F32")
    assert result.exit_code == 1
    assert "gates that failed: conversion, behaviour" in result.stderr
    assert "small-F32.failed.gguf" in result.stderr
    entries = json.loads(Path("export/verification.json").read_text("utf-8"))
    assert [entry["gate"] for entry in entries if not entry["passed"]] == ["conversion", "behaviour"]


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "architecture": (
        lambda model: edit(model / "config.json", architectures=["MambaForCausalLM"]),
        "architecture MambaForCausalLM cannot be exported to GGUF. Supported: LlamaForCausalLM, "
        "MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM",
    ),
    "sliding window": (lambda model: edit(model / "config.json", use_sliding_window=True), "use_sliding_window"),
    "rope": (
        lambda model: edit(model / "config.json", rope_parameters={"rope_type": "longrope", "factor": 2.0}),
        "rope type longrope cannot be exported; supported: default, linear, llama3, yarn",
    ),
    "activation": (lambda model: edit(model / "config.json", hidden_act="gelu"), "hidden_act gelu"),
    "shape": (
        lambda model: edit(model / "config.json", intermediate_size=100),
        "model.layers.0.mlp.gate_proj.weight has shape [128, 64], config.json says [100, 64]",
    ),
    "more layers than there are": (
        lambda model: edit(model / "config.json", num_hidden_layers=3),
        "the tensor model.layers.2.input_layernorm.weight is missing",
    ),
    "fewer layers than there are": (
        lambda model: edit(model / "config.json", num_hidden_layers=1),
        "the tensor model.layers.1.input_layernorm.weight has no place in a Qwen2ForCausalLM",
    ),
    "no tokenizer": (lambda model: (model / "tokenizer.json").unlink(), "no tokenizer.json"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exported_is_refused_in_one_line_each(model: Path, case: str):
    spoil, message = REFUSED[case]
    spoil(model)
    result = toolkit("export", model)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not Path("export").exists()


def test_runs_show_tells_what_the_exports_of_a_run_lost(tmp_path: Path):
    from toolkit.runs import RunFolder

    record = tmp_path / "run" / "export" / "verification.json"
    record.parent.mkdir(parents=True)
    gates = [
        ("structure", True, {"bits_per_weight": 4.9, "tensors": 3}),
        ("chat", False, {}),
        ("behaviour", False, {"mean_kl": 0.02, "top1_agreement": 0.9, "kl_limit": 1.0}),
    ]
    rows = [{"file": "a.failed.gguf", "gate": gate, "passed": good, "figures": more} for gate, good, more in gates]
    record.write_text(json.dumps(rows), "utf-8")
    assert RunFolder(tmp_path / "run").exports() == [
        {
            "file": "a.failed.gguf",
            "gates": 3,
            "failed": "chat behaviour",
            "bits_per_weight": 4.9,
            "mean_kl": 0.02,
            "top1_agreement": 0.9,
        }
    ]
    record.write_text("{", "utf-8")
    assert RunFolder(tmp_path / "run").exports() == []


def test_an_adapter_of_another_kind_is_refused(model: Path):
    adapter = Path("adapter")
    adapter.mkdir()
    config = {**ADAPTER_CONFIG, "base_model_name_or_path": str(model), "modules_to_save": ["lm_head"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    result = toolkit("export", adapter)
    assert result.exit_code == 2
    assert "modules_to_save" in result.stderr


def test_an_adapter_that_has_learnt_nothing_is_refused(model: Path):
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    weights = {
        f"{name}{side}.weight": StoredTensor(name, "float32", np.full(shape, value, np.float32))
        for side, shape, value in (("A", (2, 64), 1.0), ("B", (64, 2), 0.0))
    }
    lora = LoraConfig(rank=2, target_modules=("model.layers.0.self_attn.q_proj",))
    write_adapter(Path("adapter"), weights, lora, str(model))
    edit(Path("adapter/adapter_config.json"), layers_to_transform=[0])
    result = toolkit("export", "adapter")
    assert result.exit_code == 2
    assert "this adapter has learnt nothing (every lora_B is zero)" in result.stderr
    assert not Path("export").exists()


def test_a_gguf_file_is_not_exported_again(model: Path):
    assert toolkit("export", model, "--quant", "F16", "--no-verify").exit_code == 0
    result = toolkit("export", "export/small-F16.gguf")
    assert result.exit_code == 2
    assert "this is a GGUF file already" in result.stderr


def test_an_unknown_type_is_refused_with_those_there_are(model: Path):
    result = toolkit("export", model, "--quant", "Q3_X")
    assert result.exit_code == 2
    assert "--quant: unknown type Q3_X. Supported: F32, BF16, F16, Q8_0, Q6_K, " in result.stderr


COMBINATIONS: dict[str, tuple[list[str], list[str]]] = {
    "types for safetensors": (
        ["--format", "safetensors", "--quant", "Q8_0", "--bits", "4"],
        [
            "--quant: belongs to --format gguf, not safetensors",
            "--bits: belongs to --format mlx, not safetensors",
        ],
    ),
    "types for mlx": (
        ["--format", "mlx", "--quant", "Q8_0", "--via", "llama"],
        ["--quant: belongs to --format gguf, not mlx. Say --bits and --group-size for mlx", "--via: belongs to"],
    ),
    "bits for gguf": (
        ["--bits", "8", "--group-size", "32"],
        ["--bits: belongs to --format mlx", "--group-size: belongs"],
    ),
    "an adapter as a folder": (
        ["--adapter-only", "--format", "mlx"],
        ["--format: --adapter-only writes GGUF, not mlx. The adapter's own folder is in PEFT's format already"],
    ),
    "an adapter of a type": (
        ["--adapter-only", "--quant", "Q8_0", "--dry-run"],
        ["--quant: has no meaning with --adapter-only", "--dry-run: has no meaning with --adapter-only"],
    ),
}


@pytest.mark.parametrize("case", COMBINATIONS)
def test_options_that_make_no_sense_together_are_all_refused_at_once(model: Path, case: str):
    options, messages = COMBINATIONS[case]
    result = toolkit("export", model, *options)
    assert result.exit_code == 2
    for message in messages:
        assert message in result.stderr
    assert not Path("export").exists()


@pytest.mark.parametrize("form", ["safetensors", "mlx"])
def test_a_model_folder_is_the_only_line_on_stdout_and_its_gates_stand_on_stderr(model: Path, form: str):
    planned = toolkit("export", model, "--format", form, "--group-size", "32", "--dry-run") if form == "mlx" else None
    assert planned is None or ("4-bit" in planned.stdout and not Path("export").exists())
    result = toolkit("export", model, "--format", form, *(["--group-size", "32"] if form == "mlx" else []))
    assert result.exit_code == 0, result.stderr
    name = "small-mlx-4bit" if form == "mlx" else "small-safetensors"
    assert result.stdout == f"export/{name}\n"
    assert "4 gates passed" in result.stderr
    entries = json.loads(Path("export/verification.json").read_text("utf-8"))
    assert entries == json.loads((Path("export") / name / "verification.json").read_text("utf-8"))
    assert [entry["gate"] for entry in entries] == ["structure", "tokenizer", "weights", "behaviour"]
    assert {entry["file"] for entry in entries} == {name}
    card = (Path("export") / name / "README.md").read_text("utf-8")
    assert f"library_name: {'mlx' if form == 'mlx' else 'transformers'}" in card
    assert "| 4 passed |" in card


def test_the_command_lines_of_llama_cpp_ollama_and_lm_studio_are_printed(model: Path):
    result = toolkit("export", model, "--quant", "F16,Q8_0", "--no-verify", "--out", "my models")
    assert result.exit_code == 0, result.stderr
    for line in (
        "llama.cpp: llama-cli -m 'my models/small-F16.gguf' -cnv",
        "Ollama:    cd 'my models' && ollama create small -f Modelfile && ollama run small",
        "LM Studio: lms import 'my models/small-F16.gguf'",
        "toolkit:   toolkit chat 'my models/small-F16.gguf'",
    ):
        assert line in result.stderr
    # Of several files the first is the one for Ollama.
    assert Path("my models/Modelfile").read_text("utf-8").startswith("FROM ./small-F16.gguf\n")
