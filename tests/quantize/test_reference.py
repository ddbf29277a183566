"""The layer-by-layer reference against transformers, and the proof of models that do not fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.quantize.conftest import LLAMA3_ROPE, transformers_logits
from toolkit.backends import Target
from toolkit.gguf_backend.weights import GgufTensors
from toolkit.quantize import prove
from toolkit.quantize.export import ExportRequest, export_files, export_model
from toolkit.quantize.reference import layerwise_logits
from toolkit.quantize.source import open_source

Build = Callable[..., Path]
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2 with yarn": {"changes": (("rope_parameters", YARN),)},
    "qwen2 with linear rope": {
        "changes": (("rope_parameters", {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),)
    },
    "qwen3": {"family": "qwen3", "tied": False},
    "llama with llama3 rope and biases": {
        "family": "llama",
        "changes": (("rope_parameters", LLAMA3_ROPE), ("attention_bias", True), ("mlp_bias", True)),
    },
    "mistral": {"family": "mistral"},
}


def rows() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 384, (2, 80)).astype(np.int32)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_reference_gives_the_logits_of_transformers(build_tiny_model: Build, shape: str):
    folder = build_tiny_model(**SHAPES[shape])
    source = open_source("tiny", folder, None)
    ours = np.stack(layerwise_logits(source.decoder, source.tensors, rows().tolist()))
    assert np.abs(ours - transformers_logits(folder, rows())).max() < 1e-4


def test_the_files_own_numbers_are_read_back_to_those_of_the_source(build_tiny_model: Build, tmp_path: Path):
    folder = build_tiny_model(family="llama", tied=False)
    source = open_source("tiny", folder, None)
    file = export_model(ExportRequest(Target("model", "tiny", folder), "F32", tmp_path, check=False)).path
    back = GgufTensors(file)
    for name in source.tensors:
        unit = source.decoder.row_unit(name)
        assert (back.load(name).array == source.tensors.load(name).array).all()
        assert (back.rows(name, unit, 2 * unit).array == source.tensors.rows(name, unit, 2 * unit).array).all()


def figures(report: Any) -> dict[str, dict[str, Any]]:
    return {gate.gate: dict(gate.figures) for gate in report.gates}


def test_a_model_too_big_for_memory_is_proved_layer_by_layer(
    build_tiny_model: Build, adapter_for: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = build_tiny_model(family="llama", layers=3, tied=False)
    target = Target("adapter", "tiny", folder, adapter_for(folder))
    whole = export_files(ExportRequest(target, "Q8_0", tmp_path / "whole"))[0]
    (plan,) = prove.plan_files(open_source("tiny", folder, None), [prove_kind()], {})
    small = type("Memory", (), {"available": int(plan.file_bytes * 1.9)})
    monkeypatch.setattr(prove.psutil, "virtual_memory", small)

    def refuse() -> Any:
        raise AssertionError("the whole model was opened")

    parts = export_files(ExportRequest(target, "Q8_0", tmp_path / "parts"), open_reference=refuse)[0]
    assert parts.failed == whole.failed == ()
    assert figures(parts)["conversion"]["layers"] == "2 of 3"
    assert "layers" not in figures(whole)["conversion"]
    ours, theirs = figures(parts)["behaviour"], figures(whole)["behaviour"]
    assert ours["mean_kl"] == pytest.approx(theirs["mean_kl"], rel=1e-3)
    assert ours["perplexity_ratio"] == theirs["perplexity_ratio"]


def prove_kind() -> Any:
    from toolkit.quantize.plan import QUANT_TYPES

    return QUANT_TYPES["F32"]


@pytest.mark.parametrize("hidden", [64, 256])
def test_llama_cpp_agrees_with_the_files_own_numbers_better_than_with_the_model(
    build_tiny_model: Build, tmp_path: Path, hidden: int
):
    target = Target("model", "tiny", build_tiny_model(family="llama", hidden_size=hidden))
    for report in export_files(ExportRequest(target, "Q4_K_M,Q2_K", tmp_path)):
        assert report.failed == ()
        behaviour = figures(report)["behaviour"]
        assert behaviour["kl_to_the_files_own_numbers"] < 2e-3
        assert behaviour["kl_to_the_files_own_numbers"] < behaviour["mean_kl"] / 4
        assert len(figures(report)["structure"]["sha256"]) == 64
        assert figures(report)["structure"]["versions"].keys() == {"llama-cpp-python", "gguf", "local-training-toolkit"}
