"""The tensors of a GGUF file as Hugging Face would name and lay them out, dequantised one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from toolkit.errors import ToolkitError
from toolkit.gguf_backend.tensor_names import hugging_face_name, restore_rotary
from toolkit.tensor_files import StoredTensor


def open_gguf(path: Path) -> gguf.GGUFReader:
    """Map a GGUF file into memory. Raises ToolkitError naming the file when it is missing or not GGUF."""
    if not path.is_file():
        raise ToolkitError("no such file", where=path)
    try:
        return gguf.GGUFReader(path)
    except (ValueError, OSError, IndexError, UnicodeDecodeError) as error:
        raise ToolkitError(f"not a GGUF file, or a damaged one ({error})", where=path) from error


def metadata_value(reader: gguf.GGUFReader, key: str) -> Any:
    """Return the value of a metadata key, or None where the file has no such key."""
    field = reader.get_field(key)
    return None if field is None else field.contents()


def dequantise(tensor: gguf.ReaderTensor) -> StoredTensor:
    """Widen one tensor to float32 (bfloat16 and float16 stay as stored), under its GGUF name."""
    shape = tuple(int(size) for size in reversed(tensor.shape))
    kind = tensor.tensor_type
    if kind == gguf.GGMLQuantizationType.BF16:
        return StoredTensor(tensor.name, "bfloat16", tensor.data.view(np.uint16).reshape(shape))
    if kind in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16):
        return StoredTensor(tensor.name, "float32" if kind == 0 else "float16", tensor.data.reshape(shape))
    return StoredTensor(tensor.name, "float32", gguf.quants.dequantize(tensor.data, kind).reshape(shape))


def named_weights(path: Path) -> Iterator[StoredTensor]:
    """Yield every tensor under its Hugging Face name and layout. Tensors that no checkpoint has are left out."""
    reader = open_gguf(path)
    architecture = metadata_value(reader, "general.architecture")
    heads = metadata_value(reader, f"{architecture}.attention.head_count")
    kv_heads = metadata_value(reader, f"{architecture}.attention.head_count_kv") or heads
    for tensor in reader.tensors:
        name = hugging_face_name(tensor.name)
        if name is None:
            continue
        stored = dequantise(tensor)
        array = stored.array
        if architecture == "llama" and ".q_proj." in name:
            array = restore_rotary(array, heads)
        elif architecture == "llama" and ".k_proj." in name:
            array = restore_rotary(array, kv_heads)
        yield StoredTensor(name, stored.dtype, array)
