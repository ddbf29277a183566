"""ggml's own quantisers, called row by row through the library that llama-cpp-python brings along.

Without an importance matrix every row is quantised by itself, so the pieces in which a tensor is handed over make no
difference to a single bit. https://github.com/ggml-org/ggml/blob/master/include/ggml.h (ggml_quantize_chunk)
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from toolkit.errors import JobFailed


@cache
def _library() -> Any:
    """Load ggml and declare what is used of it. Raises JobFailed where this build of it lacks the functions."""
    try:
        from llama_cpp._ggml import libggml

        library: Any = libggml
        library.ggml_quantize_chunk.restype = ctypes.c_size_t
        library.ggml_quantize_chunk.argtypes = [
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_void_p,
        ]
        library.ggml_validate_row_data.restype = ctypes.c_bool
        library.ggml_validate_row_data.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
        library.ggml_quantize_init.restype = None
        library.ggml_quantize_init.argtypes = [ctypes.c_int]
    except (ImportError, AttributeError, OSError) as error:
        raise JobFailed(f"this llama-cpp-python does not offer ggml's quantisers ({error})") from error
    return library


def available() -> bool:
    """Say whether tensors can be quantised piece by piece here."""
    try:
        _library()
    except JobFailed:
        return False
    return True


def prepare(kind: Kind) -> None:
    """Build the tables of a kind, once, before threads use it."""
    _library().ggml_quantize_init(int(kind))


def quantise_rows(rows: NDArray[np.float32], kind: Kind) -> NDArray[np.uint8]:
    """Quantise (n, columns) float32 into (n, bytes per row). The columns must fill whole blocks of the kind."""
    count, columns = rows.shape
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    if columns % block:
        raise ValueError(f"{columns} columns are no multiple of {kind.name}'s {block}")
    rows = np.ascontiguousarray(rows, np.float32)
    packed = np.empty((count, columns // block * block_bytes), np.uint8)
    written = _library().ggml_quantize_chunk(int(kind), rows.ctypes.data, packed.ctypes.data, 0, count, columns, None)
    if written != packed.nbytes:
        raise ValueError(f"{kind.name}: {written} bytes instead of {packed.nbytes}")
    return packed


def is_sound(packed: NDArray[Any], kind: Kind) -> bool:
    """Say whether stored rows hold numbers only (no NaN, no infinity), as llama.cpp checks before it writes."""
    packed = np.ascontiguousarray(packed)
    return bool(_library().ggml_validate_row_data(int(kind), packed.ctypes.data, packed.nbytes))
