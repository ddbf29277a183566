"""What an export reads besides plain folders: MLX's layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from toolkit.backends import Target
from toolkit.gguf_backend.tensor_names import gguf_name
from toolkit.gguf_backend.weights import open_gguf
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
