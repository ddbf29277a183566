"""llama.cpp's own quantiser, called through llama-cpp-python."""

from __future__ import annotations

import ctypes
import os
from collections import Counter
from pathlib import Path
from typing import Any

import llama_cpp
from gguf import GGMLQuantizationType as Kind

from toolkit.errors import JobFailed
from toolkit.gguf_backend.log import complaints
from toolkit.gguf_backend.model import usable_threads
from toolkit.gguf_backend.weights import open_gguf
from toolkit.quantize.plan import QuantType

K_QUANT_BLOCK = 256
_K_QUANTS = (Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K)


def quantise(source: Path, target: Path, kind: QuantType, threads: int | None = None) -> None:
    """Quantise the GGUF file `source` into `target`.

    llama.cpp leaves a header behind when it fails: `target` must be a name that nobody takes for a result.

    Raises:
        JobFailed: llama.cpp gave up (most often a full disk); in its words.
    """
    params: Any = llama_cpp.llama_model_quantize_default_params()
    params.ftype = int(kind.file_type)
    params.nthread = threads or usable_threads()
    with complaints() as heard:
        code = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.pointer(params))
    if code != 0:
        hint = "Is the disk full? Free some space and try again" if "iostream" in heard.words() else ""
        raise JobFailed(f"llama.cpp could not quantise to {kind.name}: {heard.words()}", where=target, hint=hint)


def count_fallbacks(path: Path, kind: QuantType) -> dict[str, object]:
    """Say which types the tensors got, and how many could not have the K-quant that the mixture wants for them.

    K-quants work on rows of 256; llama.cpp stores other matrices in a coarser-grained type of more bits.
    """
    tensors = open_gguf(path).tensors
    matrices = [tensor for tensor in tensors if len(tensor.shape) > 1]
    fallen = []
    if "_K" in kind.name:
        fallen = [
            tensor for tensor in matrices if tensor.tensor_type not in _K_QUANTS and tensor.shape[0] % K_QUANT_BLOCK
        ]
    weights = sum(int(tensor.n_elements) for tensor in tensors)
    return {
        "matrices": len(matrices),
        "fallbacks": len(fallen),
        "types": dict(Counter(tensor.tensor_type.name for tensor in tensors)),
        "bits_per_weight": round(8 * sum(int(tensor.n_bytes) for tensor in tensors) / weights, 3),
    }
