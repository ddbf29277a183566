"""The tensors of a GGUF file as Hugging Face would name and lay them out, dequantised one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from toolkit.errors import ToolkitError
from toolkit.gguf_backend.tensor_names import hugging_face_name, restore_rotary
from toolkit.tensor_files import StoredTensor

# Of the kinds with a minimum in every block.
_BLOCK_BYTES = {
    kind: gguf.GGML_QUANT_SIZES[kind][1] for kind in (gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q5_1)
}


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


class GgufTensors:
    """The tensors of a file under their Hugging Face names and in that layout, dequantised rows by rows."""

    def __init__(self, path: Path) -> None:
        """Read the header. Raises ToolkitError when it is not a GGUF file."""
        reader = open_gguf(path)
        named = ((hugging_face_name(tensor.name), tensor) for tensor in reader.tensors)
        self._tensors: dict[str, gguf.ReaderTensor] = {name: tensor for name, tensor in named if name is not None}
        architecture = metadata_value(reader, "general.architecture")
        self._permuted = architecture == "llama"
        self._heads = metadata_value(reader, f"{architecture}.attention.head_count")
        self._kv_heads = metadata_value(reader, f"{architecture}.attention.head_count_kv") or self._heads

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names. Tensors that no checkpoint has are left out."""
        return iter(self._tensors)

    def kind(self, name: str) -> gguf.GGMLQuantizationType:
        """Return how a tensor is stored."""
        return self._tensors[name].tensor_type

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, rows first."""
        return tuple(int(size) for size in reversed(self._tensors[name].shape))

    def load(self, name: str) -> StoredTensor:
        """Load one tensor whole."""
        return self.rows(name, 0, self.shape(name)[0])

    def rows(self, name: str, start: int, stop: int) -> StoredTensor:
        """Load rows `start` to `stop` (exclusive); of a Llama's queries and keys, whole heads."""
        tensor = self._tensors[name]
        total, *rest = self.shape(name)
        # One row of the array is one row of the tensor, in bytes where it is quantised.
        data = np.asarray(tensor.data).reshape(total, -1)[start:stop]
        kind = tensor.tensor_type
        shape = (stop - start, *rest)
        if kind == gguf.GGMLQuantizationType.BF16:
            stored = StoredTensor(name, "bfloat16", np.ascontiguousarray(data).view(np.uint16).reshape(shape))
        elif kind in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16):
            stored = StoredTensor(name, "float32" if kind == 0 else "float16", data.reshape(shape))
        else:
            stored = StoredTensor(name, "float32", gguf.quants.dequantize(data, kind).reshape(shape))
        heads = self._heads_of(name)
        if heads is None:
            return stored
        return StoredTensor(name, stored.dtype, restore_rotary(stored.array, (stop - start) * heads // total))

    def minima(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Return what is added to every number of each block of a Q4_1 or Q5_1 matrix: (rows, blocks of a row)."""
        tensor = self._tensors[name]
        total, block_bytes = self.shape(name)[0], _BLOCK_BYTES[tensor.tensor_type]
        blocks = np.asarray(tensor.data).reshape(total, -1)[start:stop].reshape(stop - start, -1, block_bytes)
        # A block begins with its scale and its minimum, both float16.
        found = np.ascontiguousarray(blocks[:, :, 2:4]).view(np.float16)[:, :, 0].astype(np.float32)
        heads = self._heads_of(name)
        return found if heads is None else restore_rotary(found, (stop - start) * heads // total).astype(np.float32)

    def _heads_of(self, name: str) -> int | None:
        if not self._permuted:
            return None
        return self._heads if ".q_proj." in name else self._kv_heads if ".k_proj." in name else None


def named_weights(path: Path) -> Iterator[StoredTensor]:
    """Yield every tensor under its Hugging Face name and layout. Tensors that no checkpoint has are left out."""
    tensors = GgufTensors(path)
    for name in tensors:
        yield tensors.load(name)
