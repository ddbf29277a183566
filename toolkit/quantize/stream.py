"""Write a GGUF file tensor by tensor: never more than one tensor is in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from toolkit import __version__
from toolkit.quantize.plan import PlannedTensor
from toolkit.quantize.source import Source
from toolkit.tensor_files import StoredTensor


def write_gguf(
    path: Path,
    source: Source,
    tensors: Sequence[PlannedTensor],
    file_type: gguf.LlamaFileType,
    notes: Mapping[str, str],
) -> None:
    """Write header, metadata and tensors to `path`. Raises OSError when the system refuses.

    notes: further `general.` entries, e.g. `{"license": "apache-2.0"}`
    """
    writer = gguf.GGUFWriter(path, source.decoder.gguf_name)
    try:
        _add_general(writer, source, tensors, file_type, notes)
        source.decoder.write_metadata(writer)
        source.vocabulary.write(writer)
        for tensor in tensors:
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.byte_count, tensor.kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        extra = source.decoder.extra_tensors()
        for tensor in tensors:
            if tensor.source is None:
                writer.write_tensor_data(extra[tensor.name])
            else:
                writer.write_tensor_data(_laid_out(source, tensor.source, tensor.kind))
        writer.flush()
    finally:
        writer.close()


def _laid_out(source: Source, name: str, kind: Kind) -> NDArray[np.generic]:
    """Load a tensor, convert it to `kind` and lay it out as llama.cpp expects it."""
    return np.ascontiguousarray(source.decoder.arrange(name, convert(source.tensors.load(name), kind)))


def convert(tensor: StoredTensor, kind: Kind) -> NDArray[np.generic]:
    """Return a tensor's numbers as F32, F16 or BF16 (as uint16 bits), rounded to nearest where that loses something."""
    if kind == Kind.BF16:
        return tensor.to_bfloat16().array
    if kind == Kind.F16:
        return tensor.array if tensor.dtype == "float16" else tensor.to_float32().astype(np.float16)
    if kind == Kind.F32:
        return tensor.array if tensor.dtype == "float32" else tensor.to_float32()
    raise ValueError(f"{kind.name} is llama.cpp's to write")


def _add_general(
    writer: gguf.GGUFWriter,
    source: Source,
    tensors: Sequence[PlannedTensor],
    file_type: gguf.LlamaFileType,
    notes: Mapping[str, str],
) -> None:
    weights = sum(tensor.elements for tensor in tensors if tensor.source is not None)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(source.label)
    writer.add_size_label(gguf.size_label(weights, weights, 0, 0))
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_string("general.exported_by", f"local-training-toolkit {__version__}")
    if "base_model.0.name" in notes:
        writer.add_base_model_count(1)
    for key, value in notes.items():
        writer.add_string(f"general.{key}", value)
