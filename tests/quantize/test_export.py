"""Folders that transformers and PEFT wrote, exported and asked in llama.cpp, with both as witnesses."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.quantize.conftest import LLAMA3_ROPE, transformers_logits
from toolkit.backends import Target
from toolkit.errors import JobFailed, ToolkitError
from toolkit.gguf_backend.session import GgufScorer
from toolkit.gguf_backend.weights import metadata_value, open_gguf
from toolkit.protocols import Sampling
from toolkit.quantize import export as export_module
from toolkit.quantize import places
from toolkit.quantize.export import ExportReport, ExportRequest, export_model
from toolkit.quantize.plan import QUANT_TYPES

SHAPES: dict[str, dict[str, Any]] = {
    "qwen2 tied": {},
    "qwen2 untied sharded bf16": {"tied": False, "max_shard_size": "200KB", "dtype": "bfloat16"},
    "qwen2 with linear rope": {
        "changes": (("rope_parameters", {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),)
    },
    "qwen2 with yarn": {
        "changes": (
            (
                "rope_parameters",
                {
                    "rope_type": "yarn",
                    "rope_theta": 1000000.0,
                    "factor": 4.0,
                    "original_max_position_embeddings": 64,
                },
            ),
        )
    },
    "llama untied sharded": {"family": "llama", "tied": False, "max_shard_size": "200KB"},
    "llama tied with llama3 rope and biases": {
        "family": "llama",
        "changes": (("rope_parameters", LLAMA3_ROPE), ("attention_bias", True), ("mlp_bias", True)),
    },
    "llama with wide heads": {"family": "llama", "changes": (("head_dim", 32),)},
    "qwen2 of 96 columns": {"hidden_size": 96},
    "qwen3 tied": {"family": "qwen3"},
    "qwen3 untied": {"family": "qwen3", "tied": False},
    "mistral": {"family": "mistral", "tied": False},
}
Build = Callable[..., Path]
ExportOnce = Callable[..., ExportReport]


def rows(count: int = 2, length: int = 80) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 384, (count, length)).astype(np.int32)


def file_logits(path: Path, tokens: np.ndarray) -> np.ndarray:
    scorer = GgufScorer(path, exact=True)
    try:
        return np.concatenate(list(scorer.logits(tokens)), axis=1)
    finally:
        scorer.close()


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_files_give_the_logits_of_transformers(build_tiny_model: Build, export_once: ExportOnce, shape: str):
    folder = build_tiny_model(**SHAPES[shape])
    report = export_once(folder)
    assert report.failed == ()
    difference = np.abs(file_logits(report.path, rows()) - transformers_logits(folder, rows())).max()
    assert difference < 1e-3


@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True}, {"use_dora": True, "target_modules": ("q_proj", "down_proj")}]
)
def test_adapters_are_merged_as_peft_merges_them(
    build_tiny_model: Build, adapter_for: Callable[..., Path], export_once: ExportOnce, family: str, options: dict
):
    folder = build_tiny_model(family=family, tied=family == "qwen2")
    adapter = adapter_for(folder, **options)
    report = export_once(folder, "F32", adapter)
    assert report.failed == ()
    merged = transformers_logits(folder, rows(), adapter)
    assert np.abs(file_logits(report.path, rows()) - merged).max() < 1e-3
    assert np.abs(transformers_logits(folder, rows()) - merged).max() > 0.1


def test_greedy_text_from_a_float32_file_is_that_of_transformers(build_tiny_model: Build, export_once: ExportOnce):
    import torch
    from transformers import AutoModelForCausalLM

    folder = build_tiny_model(family="llama", tied=False, max_shard_size="200KB")
    scorer = GgufScorer(export_once(folder).path, exact=True)
    prompts = [[3, 50, 7], list(range(40, 60)), [200]]
    answers: list[list[int]] = [[] for _ in prompts]
    for item in scorer.generate(prompts, Sampling(max_new_tokens=20)):
        if item.token is not None:
            answers[item.row].append(item.token)
    scorer.close()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for prompt, answer in zip(prompts, answers, strict=True):
        made = model.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=None)
        assert answer == made[0, len(prompt) :].tolist()


@pytest.mark.parametrize("quant", ["F16", "BF16", "Q8_0", "Q4_K_M"])
@pytest.mark.parametrize("hidden", [64, 256])
def test_every_type_loads_generates_and_passes_its_gates(
    build_tiny_model: Build, export_once: ExportOnce, quant: str, hidden: int
):
    report = export_once(build_tiny_model(family="llama", hidden_size=hidden), quant)
    assert report.failed == ()
    scorer = GgufScorer(report.path)
    made = [item for item in scorer.generate([[1, 2, 3]], Sampling(max_new_tokens=4)) if item.token is not None]
    scorer.close()
    assert len(made) == 4
    assert metadata_value(open_gguf(report.path), "general.file_type") == int(QUANT_TYPES[quant].file_type)


def test_rows_that_are_no_multiple_of_256_are_counted_as_fallbacks(build_tiny_model: Build, export_once: ExportOnce):
    def figures(hidden: int) -> dict[str, Any]:
        report = export_once(build_tiny_model(family="llama", hidden_size=hidden), "Q4_K_M")
        return dict(next(gate.figures for gate in report.gates if gate.gate == "structure"))

    narrow, wide = figures(64), figures(256)
    assert narrow["fallbacks"] == narrow["matrices"]
    assert wide["fallbacks"] == 0
    assert set(wide["types"]) == {"F32", "Q4_K", "Q6_K"}
    assert wide["bits_per_weight"] < 5.2 < narrow["bits_per_weight"]


def test_bfloat16_weights_are_copied_bit_for_bit(build_tiny_model: Build, export_once: ExportOnce):
    from safetensors.torch import load_file

    folder = build_tiny_model(dtype="bfloat16")
    stored = load_file(folder / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
    tensors = {tensor.name: tensor for tensor in open_gguf(export_once(folder, "BF16").path).tensors}
    written = tensors["blk.1.ffn_down.weight"].data.view(np.uint16).reshape(stored.shape)
    import torch

    assert (written == stored.view(torch.uint16).numpy()).all()


def test_a_sliding_window_ends_the_context_that_llama_cpp_is_told(build_tiny_model: Build, tmp_path: Path):
    folder = Path(shutil.copytree(build_tiny_model(family="mistral"), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text("utf-8"))
    for window, context in ((128, 128), (None, 256), (4096, 256)):
        (folder / "config.json").write_text(json.dumps({**config, "sliding_window": window}), "utf-8")
        request = ExportRequest(Target("model", "tiny", folder), "F32", tmp_path, check=False, overwrite=True)
        assert metadata_value(open_gguf(export_model(request).path), "llama.context_length") == context


def test_tied_embeddings_are_written_once_and_untied_ones_twice(build_tiny_model: Build, export_once: ExportOnce):
    def names(**shape: Any) -> set[str]:
        return {tensor.name for tensor in open_gguf(export_once(build_tiny_model(**shape)).path).tensors}

    assert "output.weight" not in names()
    assert "output.weight" in names(family="llama", tied=False, max_shard_size="200KB")


def test_the_verification_is_written_gate_by_gate_and_keeps_other_files(build_tiny_model: Build, tmp_path: Path):
    folder = build_tiny_model()
    for quant in ("F32", "Q8_0"):
        export_model(ExportRequest(Target("model", "tiny", folder), quant, tmp_path))
    entries = json.loads((tmp_path / "verification.json").read_text("utf-8"))
    gates = {name: [e["gate"] for e in entries if e["file"] == f"tiny-{name}.gguf"] for name in ("F32", "Q8_0")}
    assert gates["F32"] == ["structure", "tokenizer", "chat", "conversion", "weights", "behaviour"]
    assert gates["Q8_0"] == gates["F32"]
    assert all(entry["passed"] and entry["figures"] for entry in entries)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "Modelfile",
        "tiny-F32.gguf",
        "tiny-Q8_0.gguf",
        "tiny.md",
        "verification.json",
    ]


def test_the_modelfile_names_file_template_and_stop_tokens(build_tiny_model: Build, export_once: ExportOnce):
    llama = (export_once(build_tiny_model(family="llama")).path.parent / "Modelfile").read_text("utf-8")
    assert llama.startswith("FROM ./tiny-F32.gguf\n")
    assert "<|start_header_id|>{{ .Role }}<|end_header_id|>" in llama
    assert 'PARAMETER stop "<|eot_id|>"' in llama
    qwen = (export_once(build_tiny_model()).path.parent / "Modelfile").read_text("utf-8")
    assert "<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>" in qwen


def test_an_existing_file_is_replaced_only_when_asked(build_tiny_model: Build, tmp_path: Path):
    request = ExportRequest(Target("model", "tiny", build_tiny_model()), "F32", tmp_path, check=False)
    path = export_model(request).path
    path.write_bytes(b"precious")
    with pytest.raises(ToolkitError, match="exists already.*--overwrite"):
        export_model(request)
    assert path.read_bytes() == b"precious"
    replaced = export_model(ExportRequest(request.target, "F32", path, check=False, overwrite=True))
    assert replaced.path == path
    assert path.read_bytes()[:4] == b"GGUF"


@contextmanager
def files_limited_to(byte_count: int) -> Iterator[None]:
    """Make the system refuse to let files grow further: writes fail half-way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (byte_count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("quant", ["F32", "Q4_K_M"])
@pytest.mark.parametrize("limit", [10, 5_000, 60_000])
def test_a_disk_that_fills_up_leaves_nothing_behind(
    build_tiny_model: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quant: str, limit: int
):
    real = export_module.write_gguf

    def limited(*arguments: Any) -> None:
        with files_limited_to(limit):
            real(*arguments)

    folder = build_tiny_model()
    monkeypatch.setattr(export_module, "write_gguf", limited)
    with pytest.raises(JobFailed, match="cannot"):
        export_model(ExportRequest(Target("model", "tiny", folder), quant, tmp_path, check=False))
    assert list(tmp_path.iterdir()) == []


def test_a_plan_that_finds_no_room_is_told_in_one_line(build_tiny_model: Build, tmp_path: Path):
    folder = build_tiny_model()
    with files_limited_to(10), pytest.raises(JobFailed, match="cannot write"):
        export_model(ExportRequest(Target("model", "tiny", folder), "F32", tmp_path, check=False))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_quantisation_is_told_in_llama_cpps_words_and_leaves_nothing(
    build_tiny_model: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = build_tiny_model()
    real = export_module.quantise

    def limited(source: Path, target: Path, *rest: Any) -> None:
        with files_limited_to(60_000):
            real(source, target, *rest)

    monkeypatch.setattr(export_module, "quantise", limited)
    with pytest.raises(JobFailed, match="llama.cpp could not quantise to Q8_0: .*iostream.*disk full"):
        export_model(ExportRequest(Target("model", "tiny", folder), "Q8_0", tmp_path, check=False, via="llama"))
    assert list(tmp_path.iterdir()) == []


def test_too_little_free_space_is_told_before_any_work(
    build_tiny_model: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(places.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(JobFailed, match="the disk is full: the export needs"):
        export_model(ExportRequest(Target("model", "tiny", build_tiny_model()), "F32", tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_quantised_files_keep_the_metadata_that_decides_behaviour(build_tiny_model: Build, export_once: ExportOnce):
    folder = build_tiny_model(family="llama")
    keys = ["tokenizer.ggml.pre", "tokenizer.chat_template", "tokenizer.ggml.eot_token_id", "llama.rope.freq_base"]
    whole, small = (open_gguf(export_once(folder, quant).path) for quant in ("F32", "Q4_K_M"))
    for key in [*keys, "tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.add_bos_token"]:
        assert metadata_value(whole, key) == metadata_value(small, key)
        if key in keys:
            assert metadata_value(whole, key) is not None
    assert isinstance(whole, gguf.GGUFReader)
