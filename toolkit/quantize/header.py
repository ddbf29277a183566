"""Everything of a GGUF file that comes before its tensors: keys, tokenizer, names, shapes and kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np

from toolkit import __version__
from toolkit.quantize.plan import PlannedTensor, padded
from toolkit.quantize.source import Source


def write_header(
    path: Path,
    source: Source,
    tensors: Sequence[PlannedTensor],
    file_type: gguf.LlamaFileType,
    notes: Mapping[str, str],
) -> int:
    """Write a file that ends where its first tensor begins; return that place, in bytes.

    notes: further `general.` entries, e.g. `{"license": "apache-2.0"}`; numbered ones (`dataset.0.name`) are counted

    Raises OSError when the system refuses.
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
        writer.flush()
    finally:
        writer.close()
    size = padded(path.stat().st_size)
    with path.open("r+b") as file:
        file.truncate(size)
    return size


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
    add_notes(writer, notes)


def add_notes(writer: gguf.GGUFWriter, notes: Mapping[str, str]) -> None:
    """Add `general.` entries, and how many there are of the numbered ones."""
    for listed, add_count in (("base_model", writer.add_base_model_count), ("dataset", writer.add_dataset_count)):
        count = sum(key.startswith(f"{listed}.") and key.endswith(".name") for key in notes)
        if count:
            add_count(count)
    for key, value in notes.items():
        writer.add_string(f"general.{key}", value)
