"""The layer-by-layer reference against transformers, and the proof of models that do not fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.quantize.conftest import LLAMA3_ROPE, transformers_logits
from toolkit.backends import Target
from toolkit.gguf_backend.session import GgufScorer
from toolkit.gguf_backend.weights import GgufTensors
from toolkit.models import NANO_FOLDER
from toolkit.quantize import prove, verify_behaviour
from toolkit.quantize.activations import kernel_products
from toolkit.quantize.comparison import reference_logits
from toolkit.quantize.export import ExportRequest, export_files, export_model
from toolkit.quantize.plan import QUANT_TYPES
from toolkit.quantize.reference import layerwise_logits
from toolkit.quantize.source import open_source
from toolkit.quantize.verify_behaviour import MAX_ENGINE_KL, Agreement, engine_agreement

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
    (plan,) = prove.plan_files(open_source("tiny", folder, None), [QUANT_TYPES["F32"]], {})
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


@pytest.mark.parametrize("hidden", [64, 256])
def test_llama_cpp_agrees_with_the_files_own_numbers_better_than_with_the_model(
    build_tiny_model: Build, tmp_path: Path, hidden: int
):
    """Rows of 64 numbers fall back to kinds of 32, one of them (Q5_1) with minima."""
    target = Target("model", "tiny", build_tiny_model(family="llama", hidden_size=hidden))
    for report in export_files(ExportRequest(target, "Q5_K_M,Q2_K", tmp_path)):
        assert report.failed == ()
        behaviour = figures(report)["behaviour"]
        assert behaviour["activations"] == "rounded"
        assert behaviour["kl_to_the_files_own_numbers"] < 3e-4
        assert behaviour["kl_to_the_files_own_numbers"] < behaviour["mean_kl"] / 4
        structure = figures(report)["structure"]
        assert len(structure["sha256"]) == len(figures(report)["chat"]["sha256"]) == 64
        assert structure["versions"].keys() >= {"llama-cpp-python", "gguf", "local-training-toolkit", "python"}
        limits, worst = (figures(report)["weights"][key] for key in ("limits", "worst_relative_error"))
        assert limits.keys() == worst.keys() >= {"F32"}
        assert all(worst[kind] <= limits[kind] for kind in worst)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["nano", "qwen2", "llama"])
def test_every_type_stays_below_the_limit_with_room_to_spare(build_tiny_model: Build, tmp_path: Path, model: str):
    folder = NANO_FOLDER if model == "nano" else build_tiny_model(family=model, hidden_size=256, layers=3)
    for report in export_files(ExportRequest(Target("model", model, folder), ",".join(QUANT_TYPES), tmp_path)):
        assert report.failed == (), report.path.name
        assert figures(report)["behaviour"]["kl_to_the_files_own_numbers"] < MAX_ENGINE_KL / 2, report.path.name


def agreement(build_tiny_model: Build, tmp_path: Path, ask: Callable[[Any, GgufTensors], Any]) -> Agreement:
    """Export to Q4_K_M and compare the file's numbers with the logits that `ask` gives."""
    folder = build_tiny_model(family="llama", hidden_size=256)
    source = open_source("tiny", folder, None)
    file = export_model(ExportRequest(Target("model", "tiny", folder), "Q4_K_M", tmp_path, check=False)).path
    tensors = GgufTensors(file)
    return engine_agreement(source.decoder, tensors, ask(source.decoder, tensors), rows().tolist())


def test_a_llama_cpp_that_does_not_round_passes_too(
    build_tiny_model: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As one built for a GPU or a BLAS library; some hand over long rows alone, so rows may differ."""
    monkeypatch.setattr(verify_behaviour, "MAX_ENGINE_KL", 1e-6)  # this model is so small that rounding does little

    def mixed(decoder: Any, tensors: GgufTensors) -> Any:
        exact = layerwise_logits(decoder, tensors, rows().tolist())
        return [exact[0], layerwise_logits(decoder, tensors, rows().tolist(), kernel_products(tensors))[1]]

    found = agreement(build_tiny_model, tmp_path, mixed)
    assert found.sound
    assert (found.activations, found.kl) == ("exact", pytest.approx(0, abs=1e-9))


def test_a_llama_cpp_that_computes_something_else_does_not(build_tiny_model: Build, tmp_path: Path):
    def wrong(decoder: Any, tensors: GgufTensors) -> Any:
        return [np.roll(array, 1, axis=0) for array in layerwise_logits(decoder, tensors, rows().tolist())]

    found = agreement(build_tiny_model, tmp_path, wrong)
    assert not found.sound
    assert found.kl > 0.5
    assert found.noise is not None


def test_where_rounding_alone_does_more_than_the_limit_the_limit_is_twice_what_it_does(
    build_tiny_model: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(verify_behaviour, "MAX_ENGINE_KL", 1e-7)

    def nudged(decoder: Any, tensors: GgufTensors) -> Any:
        return layerwise_logits(decoder, tensors, rows().tolist(), kernel_products(tensors), 5e-7)

    found = agreement(build_tiny_model, tmp_path, nudged)
    assert found.sound
    assert found.noise is not None
    assert 1e-7 < found.kl <= found.limit == pytest.approx(2 * found.noise)


@pytest.mark.slow
def test_a_deep_random_model_agrees_up_to_its_rounding_noise_and_with_a_wrong_rope_base_it_does_not(
    build_tiny_model: Build, tmp_path: Path
):
    folder = build_tiny_model(family="llama", hidden_size=512, layers=8, tied=False)
    decoder = open_source("deep", folder, None).decoder
    file = export_model(ExportRequest(Target("model", "deep", folder), "Q4_K_M", tmp_path, check=False)).path
    scorer = GgufScorer(file, exact=True, threads=1)
    mine = reference_logits(scorer, rows().tolist())
    scorer.close()
    found = engine_agreement(decoder, GgufTensors(file), mine, rows().tolist())
    assert found.sound
    assert MAX_ENGINE_KL < found.kl < 1e-2
    assert found.noise is not None
    assert found.limit == pytest.approx(2 * found.noise)
    other = copy(decoder)
    other.rope = replace(decoder.rope, base=10 * decoder.rope.base)
    judged = engine_agreement(other, GgufTensors(file), mine, rows().tolist())
    assert not judged.sound
    assert judged.kl > 1
