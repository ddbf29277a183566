"""What a QLoRA adapter is merged into; witnesses: PEFT, bitsandbytes' and MLX's own dequantising."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.quantize.conftest import transformers_logits
from tests.small_runs import settings, toolkit, write_questions
from tests.tiny_models import TinyModel, build
from toolkit.backends import open_target, resolve_target
from toolkit.base_cache import bases_folder
from toolkit.errors import ToolkitError
from toolkit.gguf_backend.weights import metadata_value, open_gguf
from toolkit.nf4_files import STATE, Nf4Tensors
from toolkit.quantize.adapter_gguf import export_adapter
from toolkit.quantize.export import export_model
from toolkit.quantize.origin import merged_into, origin_of
from toolkit.quantize.requests import ExportRequest
from toolkit.runs import RunFolder, find_run, runs_root
from toolkit.tensor_files import StoredTensor, read_tensors, write_tensors

SHORT = settings(train__max_steps=4, train__batch_size=4, train__device="cpu", backend="torch", lora__rank=4)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return build(tmp_path / "small", TinyModel(family="llama", hidden_size=128))


def qlora(model: Path, layout: str) -> RunFolder:
    data = write_questions(model.parent / "sums.jsonl")
    named = ("--name", "mine", "--model", model, "--data", data, "--set", f"base.layout={layout}")
    result = toolkit("finetune", "--method", "qlora", *named, *SHORT, *settings(train__learning_rate=0.02))
    assert result.exit_code == 0, result.stderr
    return find_run("mine")


def merged_by_peft(base: Path, adapter: Path) -> np.ndarray:
    return transformers_logits(base, np.arange(40, dtype=np.int32)[None], adapter)


def dequantised(model: Path, copy: Path, layout: str, place: Path) -> Path:
    """Write a plain folder of what bitsandbytes or MLX makes of a packed one."""
    stored: dict[str, StoredTensor] = {}
    if layout == "nf4":
        import torch
        from transformers import AutoModelForCausalLM

        packed = AutoModelForCausalLM.from_pretrained(copy, dtype=torch.float32)
        weights = packed.dequantize().state_dict()
        stored = {name: StoredTensor(name, "float32", weights[name].float().numpy()) for name in names(model)}
    else:
        import mlx.core as mx

        tensors: dict[str, Any] = dict(mx.load(str(copy / "model.safetensors")).items())
        for name in names(model):
            module = name.removesuffix(".weight")
            weight = tensors[name]
            if f"{module}.scales" in tensors:
                weight = mx.dequantize(weight, tensors[f"{module}.scales"], tensors[f"{module}.biases"], 64, 4)
            stored[name] = StoredTensor(name, "float32", np.array(weight.astype(mx.float32)))
    shutil.copytree(model, place)
    write_tensors(place / "model.safetensors", stored, {"format": "pt"})
    return place


def names(model: Path) -> list[str]:
    return list(read_tensors(model / "model.safetensors"))


def exported(*arguments: object) -> tuple[Any, str, dict[str, Any]]:
    """Export as safetensors; return logits, the command's words and the first gate's figures."""
    result = toolkit("export", *arguments, "--format", "safetensors", "--overwrite")
    assert result.exit_code == 0, result.stderr
    folder = Path(result.stdout.strip())
    entries = json.loads((folder / "verification.json").read_text("utf-8"))
    logits = transformers_logits(folder, np.arange(40, dtype=np.int32)[None])
    assert entries[0]["figures"]["adapter_merged_into"] in (folder / "README.md").read_text("utf-8")
    return logits, " ".join(result.stderr.split()), entries[0]["figures"]


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["affine", "nf4"])
def test_a_qlora_adapter_is_merged_into_the_full_precision_base_or_else_into_its_copy(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
):
    monkeypatch.chdir(tmp_path)
    run = qlora(model, layout)
    (copy,) = [path for path in bases_folder().iterdir() if path.is_dir()]
    plain = dequantised(model, copy, layout, tmp_path / "plain")
    full, coarse = merged_by_peft(model, run.adapter), merged_by_peft(plain, run.adapter)
    assert np.abs(full - coarse).max() > 0.05

    logits, words, figures = exported("mine")
    assert np.abs(logits - full).max() < 1e-4
    into = "the full-precision base (trained on its 4-bit copy)"
    assert f"adapter merged into {into}" in words
    assert figures["adapter_merged_into"] == into
    # The adapter's folder says the same, where it lies in its run; elsewhere nothing tells that it was QLoRA.
    logits, words, _ = exported(run.adapter)
    assert np.abs(logits - full).max() < 1e-4
    assert f"adapter merged into {into}" in words
    logits, words, _ = exported(shutil.copytree(run.adapter, tmp_path / "elsewhere"))
    assert np.abs(logits - full).max() < 1e-4
    assert "adapter merged into the full-precision base" in words

    model.rename(tmp_path / "moved away")
    into = "the dequantised 4-bit base" + (" (NF4)" if layout == "nf4" else "")
    for target in ("mine", run.adapter):
        logits, words, figures = exported(target)
        assert np.abs(logits - coarse).max() < 1e-3
        assert f"adapter merged into {into}" in words
        assert figures["adapter_merged_into"] == into
    shutil.rmtree(bases_folder())
    refused = toolkit("export", "mine")
    assert refused.exit_code == 2
    assert "no such model folder" in refused.stderr


def test_what_it_is_merged_into_is_told_by_the_files_at_hand(model: Path, tmp_path: Path):
    """The quick half of the test above: which base is found, and what is said of it."""
    run = qlora(model, "affine")
    targets = [resolve_target(str(path), runs_root()) for path in (run.path, run.adapter)]
    assert [target.model_folder for target in targets] == [model, model]
    assert {merged_into(target) for target in targets} == {"the full-precision base (trained on its 4-bit copy)"}
    assert {origin_of(target).method for target in targets} == {"qlora"}
    path, gate = export_adapter(targets[0], tmp_path / "alone")  # proved on that base too
    assert gate is not None
    assert gate.passed
    assert metadata_value(open_gguf(path), "general.base_model.0.name") == "small"
    model.rename(tmp_path / "moved away")
    (copy,) = [path for path in bases_folder().iterdir() if path.is_dir()]
    targets = [resolve_target(str(path), runs_root()) for path in (run.path, run.adapter)]
    assert [target.model_folder for target in targets] == [copy, copy]
    assert {merged_into(target) for target in targets} == {"the dequantised 4-bit base"}
    (copy / "base.json").unlink()
    with pytest.raises(ToolkitError, match="no such model folder"):
        resolve_target(str(run.path), runs_root())


def test_an_adapter_folder_of_a_qlora_run_is_asked_on_the_runs_own_base(model: Path):
    run = qlora(model, "affine")
    tokens = np.arange(40, dtype=np.int32)[None]

    def logits(target: str) -> np.ndarray:
        opened = open_target(resolve_target(target, runs_root()), "cpu", "float32", "torch")
        return np.concatenate(list(opened.scorer.logits(tokens)), axis=1)

    np.testing.assert_array_equal(logits("mine"), logits(str(run.adapter)))
    (checkpoint,) = (run.path / "checkpoints").glob("step-000004/adapter")
    np.testing.assert_array_equal(logits("mine"), logits(str(checkpoint)))
    elsewhere = shutil.copytree(run.adapter, model.parent / "elsewhere")
    assert np.abs(logits("mine") - logits(str(elsewhere))).max() > 1e-3


@pytest.fixture
def nf4_copy(model: Path) -> Callable[..., Path]:
    def make(width: int = 128) -> Path:
        from toolkit.models import read_model
        from toolkit.packed_folders import plan_parts, write_packed_folder
        from toolkit.torch_backend.nf4 import Nf4Packer

        folder = model
        if width != 128:
            folder = build(model.parent / f"w{width}", TinyModel(hidden_size=width, dtype="bfloat16"))
        facts = read_model(folder)
        out = model.parent / f"nf4-{width}"
        out.mkdir()
        write_packed_folder(out, facts, Nf4Packer(), plan_parts(facts, Nf4Packer()), lambda _: None)
        return out

    return make


def test_nf4_is_dequantised_as_bitsandbytes_does(nf4_copy: Callable[..., Path]):
    import torch
    from transformers import AutoModelForCausalLM

    folder = nf4_copy()
    tensors = Nf4Tensors(folder)
    packed = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).dequantize().state_dict()
    for name in tensors:
        wanted = packed[name].float().numpy()
        assert tensors.entries[name].shape == wanted.shape
        assert np.abs(tensors[name].to_float32() - wanted).max() <= np.abs(wanted).max() * 1e-6, name


def test_nf4_rows_need_not_begin_where_blocks_do(nf4_copy: Callable[..., Path]):
    """Rows of 72 and 144 numbers, blocks of 64. The witness is the model that was packed: on a CPU bitsandbytes 0.50
    itself dequantises rows of 144 wrongly (0.26 away from what it packed, where 0.09 is NF4's error)."""
    tensors = Nf4Tensors(nf4_copy(72))
    before = read_tensors(tensors.folder.parent / "w72" / "model.safetensors")
    packed = [name for name in tensors if f"{name}{STATE}" in read_tensors(tensors.folder / "model.safetensors")]
    assert len(packed) == 14
    for name in packed:
        got, wanted = tensors[name].to_float32(), before[name].to_float32()
        assert np.linalg.norm(got - wanted) < 0.1 * np.linalg.norm(wanted), name
        pieces = [tensors.rows(name, start, min(start + 5, len(got))).array for start in range(0, len(got), 5)]
        np.testing.assert_array_equal(np.concatenate(pieces), got)


@pytest.mark.slow
def test_a_folder_in_nf4_is_exported_and_proved(nf4_copy: Callable[..., Path], tmp_path: Path):
    target = resolve_target(str(nf4_copy()), runs_root())
    report = export_model(ExportRequest(target, "Q8_0", tmp_path / "out"))
    assert report.failed == ()
    assert metadata_value(open_gguf(report.path), "general.architecture") == "llama"


def test_damaged_nf4_weights_are_named(nf4_copy: Callable[..., Path]):
    folder = nf4_copy()
    stored = dict(read_tensors(folder / "model.safetensors"))
    name = "model.layers.0.mlp.down_proj.weight"
    del stored[f"{name}.nested_absmax"]
    other = f"model.layers.1.mlp.up_proj.weight{STATE}"
    stored[other] = StoredTensor(other, "uint8", np.frombuffer(b'{"quant_type": "fp4"}', np.uint8))
    kept = {key: StoredTensor(key, tensor.dtype, np.array(tensor.array)) for key, tensor in stored.items()}
    write_tensors(folder / "model.safetensors", kept)
    with pytest.raises(ToolkitError) as caught:
        Nf4Tensors(folder)
    assert [problem.what.partition(" is not")[0] for problem in caught.value.problems] == [
        name,
        other.removesuffix(STATE),
    ]
