"""Products as ggml's CPU kernels compute them, against ggml's own functions and against exact arithmetic."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from toolkit.gguf_backend.weights import GgufTensors
from toolkit.quantize import ggml
from toolkit.quantize.activations import ROUNDED_TO, kernel_products, rounded

NAME = "model.layers.0.mlp.up_proj.weight"
COLUMNS, ROWS, POSITIONS = 512, 16, 5


class CpuTraits(ctypes.Structure):
    """`struct ggml_type_traits_cpu` (ggml-cpu.h)."""

    _fields_ = [
        ("from_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        (
            "vec_dot",
            ctypes.CFUNCTYPE(
                None,
                ctypes.c_int,
                ctypes.c_void_p,
                ctypes.c_size_t,
                ctypes.c_void_p,
                ctypes.c_size_t,
                ctypes.c_void_p,
                ctypes.c_size_t,
                ctypes.c_int,
            ),
        ),
        ("vec_dot_type", ctypes.c_int),
        ("nrows", ctypes.c_int64),
    ]


@cache
def traits(kind: Kind) -> CpuTraits:
    """What ggml says about its CPU kernels for weights of a kind."""
    import llama_cpp._ggml as loaded

    library = Path(loaded.libggml._name)
    cpu = ctypes.CDLL(str(library.with_name("libggml-cpu" + library.suffix)))
    cpu.ggml_cpu_init()  # its table of float16 numbers
    function = cpu.ggml_get_type_traits_cpu
    function.restype = ctypes.POINTER(CpuTraits)
    return function(int(kind)).contents


def activations() -> np.ndarray:
    """Rows such as models have them: most small, a few large, a block of zeros."""
    draw = np.random.default_rng(3)
    array = draw.standard_normal((POSITIONS, COLUMNS)).astype(np.float32)
    array[:, ::97] *= 20
    array[1, :256] = 0
    return array


def file_of(kind: Kind, folder: Path) -> tuple[GgufTensors, np.ndarray]:
    """Write a file with one matrix; return it opened, and the matrix's bytes, row by row."""
    matrix = np.random.default_rng(4).standard_normal((ROWS, COLUMNS)).astype(np.float32) + 0.1
    ggml.prepare(kind)
    packed = ggml.quantise_rows(matrix, kind)
    writer = gguf.GGUFWriter(folder / "one.gguf", "qwen2")
    writer.add_head_count(2)
    writer.add_tensor("blk.0.ffn_up.weight", packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GgufTensors(folder / "one.gguf"), packed


@pytest.mark.parametrize("kind", [kind for kind in ROUNDED_TO if kind not in (Kind.F32, Kind.F16, Kind.BF16)])
def test_products_are_those_of_ggmls_kernels(kind: Kind, tmp_path: Path):
    """The witness rounds and multiplies one row at a time by the functions that llama.cpp calls."""
    tensors, packed = file_of(kind, tmp_path)
    inputs = activations()
    kernel = traits(kind)
    assert kernel.vec_dot_type == ROUNDED_TO[kind]
    expected = np.empty((POSITIONS, ROWS), np.float32)
    buffer = ctypes.create_string_buffer(COLUMNS * 4)
    for position, row in enumerate(inputs):
        traits(Kind(kernel.vec_dot_type)).from_float(row.ctypes.data, ctypes.addressof(buffer), COLUMNS)
        for number in range(ROWS):
            place: Any = expected[position : position + 1, number:]
            weights = np.ascontiguousarray(packed[number])
            kernel.vec_dot(COLUMNS, place.ctypes.data, 0, weights.ctypes.data, 0, ctypes.addressof(buffer), 0, 1)
    (ours,) = kernel_products(tensors)(NAME, [inputs], 0, ROWS)
    size = np.abs(inputs) @ np.abs(tensors.load(NAME).to_float32()).T
    assert np.abs((ours - expected) / size).max() < 1e-6
    exact = inputs @ tensors.load(NAME).to_float32().T
    assert np.abs((exact - expected) / size).max() > 3e-5  # so rounding is what this test sees


def test_floats_are_rounded_to_the_weights_own_precision():
    inputs = activations()
    for kind, bits in ((Kind.F32, 23), (Kind.F16, 10), (Kind.BF16, 7)):
        assert traits(kind).vec_dot_type == ROUNDED_TO[kind] == kind
        error = np.abs(rounded(inputs, kind) - inputs) / np.maximum(np.abs(inputs), 1e-4)
        assert error.max() <= 2.0 ** -(bits + 1)
        assert bits == 23 or error.max() > 2.0 ** -(bits + 2)


def test_only_the_rows_asked_for_are_multiplied(tmp_path: Path):
    tensors, _ = file_of(Kind.Q5_1, tmp_path)
    multiply = kernel_products(tensors)
    (whole,) = multiply(NAME, [activations()], 0, ROWS)
    (part,) = multiply(NAME, [activations()], 3, 9)
    assert np.abs(part - whole[:, 3:9]).max() < 1e-4
