"""The witness is MLX: `mx.quantize` and `mx.dequantize`, and folders that mlx-lm writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from toolkit.affine import (
    BITS,
    AffineLayout,
    AffineTensors,
    dequantise,
    open_tensors,
    pack,
    quantise,
    read_quantization,
    unpack,
)
from toolkit.errors import ToolkitError
from toolkit.tensor_files import FolderTensors, StoredTensor

LAYOUTS = [AffineLayout(bits, group_size) for bits in BITS for group_size in (32, 64, 128)]
DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def matrix(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Weights with groups of every kind: plain, all zero, constant, one sign, tiny, with an outlier."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((rows, columns)).astype(np.float32) * 0.05
    weight[1 % rows] = 0.0
    weight[2 % rows] = 0.75
    weight[3 % rows] = -0.3
    weight[4 % rows] = np.abs(weight[4 % rows])
    weight[5 % rows] = -np.abs(weight[5 % rows])
    weight[6 % rows] *= 1e-9
    weight[7 % rows, ::7] = 9.0
    weight[8 % rows, ::32] = -0.0
    weight[9 % rows] = np.tile([0.25, -0.25], columns // 2)
    return weight


def in_dtype(weight: np.ndarray, dtype: str) -> np.ndarray:
    """Round to a dtype and widen again: what a stored tensor holds."""
    if dtype == "bfloat16":
        return StoredTensor("", "float32", weight).to_bfloat16().to_float32()
    return weight.astype(dtype).astype(np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.bits} bits, groups of {layout.group_size}")
def test_packed_words_scales_and_biases_are_those_of_mlx_bit_for_bit(layout, dtype):
    for rows, columns in ((12, 128), (1, 256), (33, 384)):
        weight = matrix(rows, columns, seed=rows)
        stored = mx.array(weight).astype(DTYPES[dtype])
        expected = mx.quantize(stored, layout.group_size, layout.bits, stream=mx.cpu)
        words, scales, biases = quantise(in_dtype(weight, dtype), layout)
        np.testing.assert_array_equal(words, np.array(expected[0]))
        for ours, theirs in zip((scales, biases), expected[1:], strict=True):
            np.testing.assert_array_equal(in_dtype(ours, dtype), np.array(theirs.astype(mx.float32)))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.bits} bits, groups of {layout.group_size}")
def test_dequantised_weights_are_those_of_mlx_bit_for_bit(layout):
    packed = mx.quantize(mx.array(matrix(33, 384)), layout.group_size, layout.bits, stream=mx.cpu)
    expected = np.array(mx.dequantize(*packed, layout.group_size, layout.bits, stream=mx.cpu))
    ours = dequantise(*(np.array(part) for part in packed), layout)
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("bits", BITS)
def test_packing_loses_nothing(bits):
    values = np.random.default_rng(bits).integers(0, 1 << bits, (5, 96)).astype(np.uint8)
    assert pack(values, bits).shape == (5, 96 * bits // 32)
    np.testing.assert_array_equal(unpack(pack(values, bits), bits), values)


def test_rows_can_be_quantised_in_pieces_of_any_size():
    weight, layout = matrix(40, 128), AffineLayout(4, 64)
    whole = quantise(weight, layout)
    pieces = [quantise(weight[start : start + 7], layout) for start in range(0, 40, 7)]
    for part, parts in zip(whole, zip(*pieces, strict=True), strict=True):
        np.testing.assert_array_equal(part, np.concatenate(parts))


@pytest.fixture(scope="module")
def mlx_folder(build_tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that mlx-lm quantised, embeddings and head too, one layer with bits of its own."""
    from mlx_lm.utils import load_model, quantize_model, save_config, save_model

    source = build_tiny_model(family="llama", tied=False)

    def predicate(path: str, module: Any) -> bool | dict[str, Any]:
        return {"bits": 6, "group_size": 32, "mode": "affine"} if path.endswith("layers.1.mlp.up_proj") else True

    model, config = load_model(source)
    model, config = quantize_model(model, config, group_size=64, bits=4, quant_predicate=predicate)
    folder = tmp_path_factory.mktemp("mlx")
    save_model(folder, model)
    save_config(config, folder / "config.json")
    shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
    return folder


def test_a_folder_that_mlx_lm_quantised_reads_as_if_it_were_plain(mlx_folder, build_tiny_model):
    from mlx_lm.utils import dequantize_model, load_model

    plain = FolderTensors(build_tiny_model(family="llama", tied=False))
    tensors = open_tensors(mlx_folder, json.loads((mlx_folder / "config.json").read_text()))
    assert {name: entry.shape for name, entry in tensors.entries.items()} == {
        name: entry.shape for name, entry in plain.entries.items()
    }
    assert tensors.parameter_count == plain.parameter_count
    assert isinstance(tensors, AffineTensors)
    assert tensors.layout_of("model.layers.1.mlp.up_proj.weight") == AffineLayout(6, 32)
    assert tensors.layout_of("model.norm.weight") is None
    from mlx.utils import tree_flatten

    expected = dict(tree_flatten(dequantize_model(load_model(mlx_folder)[0]).parameters()))
    for name in tensors:
        np.testing.assert_array_equal(tensors[name].to_float32(), np.array(expected[name]), err_msg=name)


def test_a_folder_that_is_not_quantised_is_opened_as_it_is(tiny_qwen2):
    config = json.loads((tiny_qwen2 / "config.json").read_text())
    assert type(open_tensors(tiny_qwen2, config)) is FolderTensors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "mxfp4"}, r"config\.json: quantised in a layout that cannot be read \(mxfp4\)"),
        ({"bits": 7}, "bits 7 in groups of 64"),
        ({"group_size": 48}, "bits 4 in groups of 48"),
        ({"model.layers.0.mlp.up_proj": {"bits": 1}}, r"layers\.0\.mlp\.up_proj: bits 1"),
    ],
)
def test_a_layout_that_cannot_be_read_is_refused(change, message):
    with pytest.raises(ToolkitError, match=message):
        read_quantization({"quantization": {"bits": 4, "group_size": 64, **change}}, Path("folder"))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("biases", r"up_proj\.biases is missing"),
        ("weight", r"up_proj\.scales is here, but not .*up_proj\.weight"),
        ("scales", r"up_proj\.weight \[128, 8\] uint32 and its scales \[128, 3\] do not fit 4 bits in groups of 64"),
    ],
)
def test_tensors_that_are_missing_or_do_not_fit_are_named(fault, message, mlx_folder, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(mlx_folder, folder)
    tensors = load_file(folder / "model.safetensors")
    name = f"model.layers.0.mlp.up_proj.{fault}"
    if fault == "scales":
        tensors[name] = np.zeros((128, 3), np.float32)
    else:
        del tensors[name]
    save_file(tensors, folder / "model.safetensors")
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    with pytest.raises(ToolkitError, match=message):
        open_tensors(folder, json.loads((folder / "config.json").read_text()))
