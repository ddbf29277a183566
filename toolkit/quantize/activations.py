"""Matrix products as ggml's CPU kernels compute them: weights as stored, activations rounded before the dot product.

A quantised matrix is multiplied in integers, so ggml first rounds what it is multiplied with, in blocks: to 8 bits
beside K-quants (Q8_K), to 8 bits in smaller blocks beside the others (Q8_0; Q8_1 where the weights have a minimum), to
the same float beside F16 and BF16. https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-cpu/ggml-cpu.c
(`vec_dot_type` says which). This is written from the formats alone; `tests/quantize/test_activations.py` holds it to
ggml's own functions.

Shapes: T positions, C columns of a matrix, R rows, B blocks of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from toolkit.gguf_backend.weights import GgufTensors
from toolkit.tensor_files import StoredTensor

Floats = NDArray[np.floating[Any]]

_STEPS = np.float32(127)
_SMALL, _LARGE = 32, 256

# What ggml rounds activations to beside weights of each kind.
ROUNDED_TO: dict[Kind, Kind] = {
    Kind.F32: Kind.F32,
    Kind.F16: Kind.F16,
    Kind.BF16: Kind.BF16,
    **dict.fromkeys((Kind.Q4_0, Kind.Q5_0, Kind.Q8_0, Kind.IQ4_NL), Kind.Q8_0),
    **dict.fromkeys((Kind.Q4_1, Kind.Q5_1), Kind.Q8_1),
    **dict.fromkeys((Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K, Kind.IQ4_XS), Kind.Q8_K),
}


def kernel_products(weights: GgufTensors) -> Callable[[str, Sequence[Floats], int, int], list[Floats]]:
    """Return `multiply(name, inputs, start, stop)`: inputs (T, C) times rows `start` to `stop` of a matrix: (T, R)."""

    def multiply(name: str, inputs: Sequence[Floats], start: int, stop: int) -> list[Floats]:
        matrix = weights.rows(name, start, stop).to_float32()
        target = ROUNDED_TO.get(weights.kind(name), Kind.F32)
        outputs: list[Floats] = [rounded(array, target) @ matrix.T for array in inputs]
        if target != Kind.Q8_1:
            return outputs
        # Minima are multiplied with a sum of the block's activations that is rounded by itself.
        minima = weights.minima(name, start, stop)
        return [output + _rest_of_sums(array) @ minima.T for output, array in zip(outputs, inputs, strict=True)]

    return multiply


def rounded(array: Floats, target: Kind) -> Floats:
    """Round activations (T, C) as ggml does to `target`, and widen them again."""
    if target == Kind.F16:
        return array.astype(np.float16).astype(np.float32)
    if target == Kind.BF16:
        return StoredTensor("", "float32", array).to_bfloat16().to_float32()
    if target == Kind.Q8_K:
        return _rounded_in_large_blocks(array)
    if target in (Kind.Q8_0, Kind.Q8_1):
        steps, scales = _steps(array)
        return (steps * _half(scales)).reshape(array.shape)
    return array


def _rounded_in_large_blocks(array: Floats) -> Floats:
    """Q8_K: 256 numbers, scaled so that the one farthest from zero becomes -127, under a float32 scale."""
    blocks = array.reshape(-1, _LARGE)
    farthest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
    factors = np.divide(-_STEPS, farthest, out=np.zeros_like(farthest), where=farthest != 0)
    scales = np.divide(np.float32(1), factors, out=np.zeros_like(factors), where=factors != 0)
    return (np.minimum(np.rint(blocks * factors), _STEPS) * scales).reshape(array.shape)


def _steps(array: Floats) -> tuple[Floats, Floats]:
    """Q8_0 and Q8_1: 32 numbers as whole steps (T, B, 32) of a scale (T, B, 1), which is stored as float16."""
    blocks = array.reshape(len(array), -1, _SMALL)
    largest = np.abs(blocks).max(axis=2, keepdims=True)
    factors = np.divide(_STEPS, largest, out=np.zeros_like(largest), where=largest != 0)
    return np.rint(blocks * factors), largest / _STEPS


def _rest_of_sums(array: Floats) -> Floats:
    """Return by how much Q8_1's stored sum of each block differs from the sum of its rounded numbers, (T, B)."""
    steps, scales = _steps(array)
    counts, scales = steps.sum(axis=2), scales[..., 0]
    return _half(scales * counts) - _half(scales) * counts


def _half(array: Floats) -> Floats:
    return array.astype(np.float16).astype(np.float32)
