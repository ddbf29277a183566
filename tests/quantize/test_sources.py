"""What an export reads besides plain folders, MLX's layout, and what it writes of an adapter alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.quantize.conftest import transformers_logits
from toolkit.backends import Target
from toolkit.errors import ToolkitError
from toolkit.gguf_backend.session import GgufScorer
from toolkit.gguf_backend.tensor_names import gguf_name
from toolkit.gguf_backend.weights import open_gguf
from toolkit.quantize.adapter_gguf import export_adapter
from toolkit.quantize.export import ExportRequest, export_model

Build = Callable[..., Path]


def test_a_folder_in_mlx_layout_is_dequantised_block_by_block(build_tiny_model: Build, tmp_path: Path):
    """The witness is mlx-lm's own quantisation and `mx.dequantize`, in float32."""
    packed, plain = quantised_copies(build_tiny_model(hidden_size=256), tmp_path)
    target = Target("model", "tiny", packed)
    path = export_model(ExportRequest(target, "F32", tmp_path / "out", check=False)).path
    tensors = {tensor.name: tensor.data for tensor in open_gguf(path).tensors}
    assert len(plain) > 10
    for name, weight in plain.items():
        assert (np.asarray(tensors[name]).reshape(weight.shape) == weight).all(), name


def quantised_copies(folder: Path, place: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """Write `folder` in MLX's 4-bit layout; return it and its matrices as MLX dequantises them, by GGUF name."""
    import mlx.core as mx

    packed = Path(shutil.copytree(folder, place / "packed"))
    tensors = dict(mx.load(str(folder / "model.safetensors")).items())
    plain = {}
    for name in [name for name, tensor in tensors.items() if tensor.ndim == 2]:
        words, scales, biases = mx.quantize(tensors[name], group_size=64, bits=4)
        module = name.removesuffix(".weight")
        tensors |= {name: words, f"{module}.scales": scales, f"{module}.biases": biases}
        plain[gguf_name(name) or ""] = np.array(mx.dequantize(words, scales, biases, group_size=64, bits=4))
    mx.save_safetensors(str(packed / "model.safetensors"), tensors)
    config = json.loads((packed / "config.json").read_text("utf-8"))
    (packed / "config.json").write_text(json.dumps({**config, "quantization": {"bits": 4, "group_size": 64}}), "utf-8")
    return packed, plain


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}])
def test_an_adapter_alone_gives_the_trained_models_logits_on_its_base(
    build_tiny_model: Build, adapter_for: Callable[..., Path], tmp_path: Path, family: str, options: dict[str, Any]
):
    """llama.cpp adds it to the base model's file; the witness is PEFT, merged."""
    folder = build_tiny_model(family=family, tied=False)
    adapter = adapter_for(folder, **options)
    path, gate = export_adapter(Target("adapter", "tiny", folder, adapter), tmp_path)
    assert path.name == "tiny-lora.gguf"
    assert gate is not None
    assert gate.passed
    base = export_model(ExportRequest(Target("model", "base", folder), "F32", tmp_path, check=False)).path
    tokens = np.random.default_rng(1).integers(0, 384, (2, 40)).astype(np.int32)
    wanted = transformers_logits(folder, tokens, adapter)
    for file, close in ((path, True), (None, False)):
        scorer = GgufScorer(base, exact=True, adapter=file)
        logits = np.concatenate(list(scorer.logits(tokens)), axis=1)
        scorer.close()
        assert (np.abs(logits - wanted).max() < 1e-3) == close


def test_an_adapter_that_llama_cpp_cannot_apply_unmerged_is_refused(
    build_tiny_model: Build, adapter_for: Callable[..., Path], tmp_path: Path
):
    folder = build_tiny_model(family="llama", tied=False)
    adapter = adapter_for(folder, use_dora=True, target_modules=("q_proj", "down_proj"))
    with pytest.raises(ToolkitError, match="cannot apply DoRA unmerged"):
        export_adapter(Target("adapter", "tiny", folder, adapter), tmp_path)
    with pytest.raises(ToolkitError, match="has no adapter"):
        export_adapter(Target("model", "tiny", folder), tmp_path)
