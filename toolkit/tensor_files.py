"""Safetensors files as NumPy sees them: lazy, memory-mapped, bfloat16 as raw bits.

NumPy has no bfloat16, so such a tensor travels as uint16 with its dtype named (never by way of a float32 file); float8
travels as uint8 likewise. Format: https://huggingface.co/docs/safetensors (8-byte little-endian header length, JSON
header, raw bytes). The `safetensors` package reads bfloat16 only into a framework, which this layer must not import.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.atomic_files import open_atomic
from toolkit.errors import Problem, ToolkitError

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
MAX_HEADER_BYTES = 100_000_000

# code in the file → (name in this project, NumPy type of the array)
_DTYPES: dict[str, tuple[str, np.dtype]] = {
    "F64": ("float64", np.dtype("<f8")),
    "F32": ("float32", np.dtype("<f4")),
    "F16": ("float16", np.dtype("<f2")),
    "BF16": ("bfloat16", np.dtype("<u2")),
    "F8_E4M3": ("float8_e4m3", np.dtype("u1")),
    "F8_E5M2": ("float8_e5m2", np.dtype("u1")),
    "I64": ("int64", np.dtype("<i8")),
    "I32": ("int32", np.dtype("<i4")),
    "I16": ("int16", np.dtype("<i2")),
    "I8": ("int8", np.dtype("i1")),
    "U64": ("uint64", np.dtype("<u8")),
    "U32": ("uint32", np.dtype("<u4")),
    "U16": ("uint16", np.dtype("<u2")),
    "U8": ("uint8", np.dtype("u1")),
    "BOOL": ("bool", np.dtype("?")),
}
_CODES = {name: code for code, (name, _) in _DTYPES.items()}


@dataclass(frozen=True)
class StoredTensor:
    """A named tensor. `dtype` is float32 | float16 | bfloat16 | int64 | …; a bfloat16 `array` holds uint16 bits."""

    name: str
    dtype: str
    array: NDArray[np.generic]

    def to_float32(self) -> NDArray[np.float32]:
        """Widen to float32 (exact for bfloat16 and float16)."""
        if self.dtype == "bfloat16":
            return (self.array.astype(np.uint32) << 16).view(np.float32)
        return self.array.astype(np.float32)

    def to_bfloat16(self) -> StoredTensor:
        """Round to bfloat16, to nearest and ties to even, NaN kept."""
        if self.dtype == "bfloat16":
            return self
        bits = np.ascontiguousarray(self.to_float32()).view(np.uint32)
        rounded = ((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16).astype(np.uint16)
        # Rounding could carry a NaN's payload into infinity, so a NaN keeps its upper bits and is made quiet.
        is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
        quiet = ((bits >> 16) | 0x0040).astype(np.uint16)
        return StoredTensor(self.name, "bfloat16", np.where(is_nan, quiet, rounded))


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies. `shape` as stored, `offset` in bytes from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    path: Path

    @property
    def parameter_count(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def read_rows(self, first: int, count: int) -> StoredTensor:
        """Read rows (of the first axis) into memory, without mapping the file: what was read before can be let go."""
        numpy_type = _DTYPES[_CODES[self.dtype]][1]
        width = int(np.prod(self.shape[1:], dtype=np.int64))
        rows = np.fromfile(
            self.path, numpy_type, count * width, offset=self.offset + first * width * numpy_type.itemsize
        )
        return StoredTensor(self.name, self.dtype, rows.reshape(count, *self.shape[1:]))

    def load(self) -> StoredTensor:
        """Map the tensor into memory; nothing is read before it is touched. The array is read-only."""
        numpy_type = _DTYPES[_CODES[self.dtype]][1]
        if self.parameter_count == 0:
            return StoredTensor(self.name, self.dtype, np.zeros(self.shape, numpy_type))
        # An unaligned or scalar tensor is mapped as bytes first: memmap wants an array of at least one dimension.
        size = self.parameter_count * numpy_type.itemsize
        raw = np.memmap(self.path, dtype=np.uint8, mode="r", offset=self.offset, shape=(size,))
        return StoredTensor(self.name, self.dtype, np.asarray(raw).view(numpy_type).reshape(self.shape))

    def rows(self, start: int, stop: int) -> StoredTensor:
        """Read rows `start` to `stop` (exclusive) of the first axis into memory of their own: nothing stays mapped.

        A file that is mapped counts as resident memory as far as it was touched; what is read this way does not.
        """
        numpy_type = _DTYPES[_CODES[self.dtype]][1]
        shape = (stop - start, *self.shape[1:])
        per_row = int(np.prod(self.shape[1:], dtype=np.int64))
        count = (stop - start) * per_row
        offset = self.offset + start * per_row * numpy_type.itemsize
        array = np.fromfile(self.path, numpy_type, count, offset=offset)
        if array.size < count:
            raise ToolkitError(f"cut short: {self.name} reaches beyond the end of the file", where=self.path)
        return StoredTensor(self.name, self.dtype, array.reshape(shape))


class TensorFile(Mapping[str, StoredTensor]):
    """One safetensors file: names to lazily mapped tensors.

    entries:  where each tensor lies, known from the header alone
    metadata: the file's own notes, e.g. `{"format": "pt"}`
    """

    def __init__(self, path: Path | str) -> None:
        """Read the header. Raises ToolkitError naming the file when it is missing, cut short or not safetensors."""
        self.path = Path(path)
        self.entries, self.metadata = _read_header(self.path)

    def __getitem__(self, name: str) -> StoredTensor:
        """Map one tensor."""
        return self.entries[name].load()

    def __iter__(self) -> Iterator[str]:
        """Iterate over names in the order of the header."""
        return iter(self.entries)

    def __len__(self) -> int:
        """Count the tensors."""
        return len(self.entries)


class FolderTensors(Mapping[str, StoredTensor]):
    """The weights of a Hugging Face folder, in one file or in shards behind `model.safetensors.index.json`."""

    def __init__(self, folder: Path | str) -> None:
        """Read the headers. Raises ToolkitError naming every shard or tensor that is missing."""
        self.folder = Path(folder)
        self.entries: dict[str, TensorEntry] = {}
        self.files: tuple[Path, ...] = ()
        index = self.folder / INDEX_NAME
        if index.is_file():
            self._read_shards(index)
        elif (self.folder / SINGLE_NAME).is_file():
            self.files = (self.folder / SINGLE_NAME,)
            self.entries = TensorFile(self.files[0]).entries
        else:
            raise ToolkitError(f"no weights here (neither {SINGLE_NAME} nor {INDEX_NAME})", where=self.folder)

    def _read_shards(self, index: Path) -> None:
        try:
            weight_map: dict[str, str] = json.loads(index.read_text("utf-8"))["weight_map"]
        except (ValueError, KeyError, TypeError) as error:
            raise ToolkitError("not an index of safetensors shards", where=index) from error
        names = sorted(set(weight_map.values()))
        problems = [
            Problem("this shard of the weights is missing", str(self.folder / name), "Download the model again")
            for name in names
            if not (self.folder / name).is_file()
        ]
        if problems:
            raise ToolkitError.gather(problems)
        self.files = tuple(self.folder / name for name in names)
        shards = {name: TensorFile(self.folder / name) for name in names}
        for name, shard in weight_map.items():
            entry = shards[shard].entries.get(name)
            if entry is None:
                problems.append(Problem(f"the index says that {name} is here, but it is not", str(self.folder / shard)))
            else:
                self.entries[name] = entry
        if problems:
            raise ToolkitError.gather(problems)

    def __getitem__(self, name: str) -> StoredTensor:
        """Map one tensor."""
        return self.entries[name].load()

    def rows(self, name: str, start: int, stop: int) -> StoredTensor:
        """Read rows `start` to `stop` (exclusive) of one tensor, without mapping it."""
        return self.entries[name].rows(start, stop)

    def __iter__(self) -> Iterator[str]:
        """Iterate over names."""
        return iter(self.entries)

    def __len__(self) -> int:
        """Count the tensors."""
        return len(self.entries)

    @property
    def parameter_count(self) -> int:
        """Number of elements over all tensors (tied embeddings are stored, hence counted, once)."""
        return sum(entry.parameter_count for entry in self.entries.values())


def read_tensors(path: Path | str) -> TensorFile:
    """Open a safetensors file lazily. Raises ToolkitError naming the file when it cannot be read."""
    return TensorFile(path)


def write_tensors(
    path: Path | str,
    tensors: Mapping[str, StoredTensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file atomically, one tensor after the other (never all of them as one blob).

    The keys are the names. Raises JobFailed on a full disk; an older file of that name is then untouched.
    """
    for name, tensor in tensors.items():
        if tensor.array.dtype.itemsize != _DTYPES[_CODES[tensor.dtype]][1].itemsize:
            raise ValueError(f"{name}: a {tensor.array.dtype} array cannot hold {tensor.dtype}")
    specs = {name: TensorSpec(tensor.dtype, tensor.array.shape) for name, tensor in tensors.items()}
    with tensor_writer(path, specs, metadata) as put:
        for name, tensor in tensors.items():
            put(name, 0, tensor.array)


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor will be, before its values are there."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def byte_count(self) -> int:
        """Bytes that it takes in a file."""
        return int(np.prod(self.shape, dtype=np.int64)) * _DTYPES[_CODES[self.dtype]][1].itemsize


@contextmanager
def tensor_writer(
    path: Path | str, specs: Mapping[str, TensorSpec], metadata: Mapping[str, str] | None = None
) -> Iterator[Callable[[str, int, NDArray[np.generic]], None]]:
    """Open a safetensors file to be filled piece by piece; yields `put(name, first_row, rows)`.

    The file takes its name when the block ends well. Raises JobFailed on a full disk, ValueError when the pieces do
    not make up the tensors.
    """
    # Widest types first keeps every tensor aligned, as the safetensors package does.
    order = sorted(specs, key=lambda name: (-_DTYPES[_CODES[specs[name].dtype]][1].itemsize, name))
    header = _header_bytes({name: specs[name] for name in order}, metadata)
    starts, position = {}, 8 + len(header)
    for name in order:
        starts[name] = position
        position += specs[name].byte_count
    written = dict.fromkeys(order, 0)
    with open_atomic(path) as file:
        file.write(struct.pack("<Q", len(header)))
        file.write(header)

        def put(name: str, first_row: int, rows: NDArray[np.generic]) -> None:
            spec = specs[name]
            array = np.ascontiguousarray(rows)
            row_bytes = spec.byte_count // spec.shape[0] if spec.shape and spec.shape[0] else 0
            file.seek(starts[name] + first_row * row_bytes)
            file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).data.cast("B") if array.size else b"")
            written[name] += array.nbytes

        yield put
        if wrong := [name for name in order if written[name] != specs[name].byte_count]:
            raise ValueError(f"not written whole: {', '.join(wrong[:3])}")


def _header_bytes(specs: Mapping[str, TensorSpec], metadata: Mapping[str, str] | None) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, spec in specs.items():
        end = position + spec.byte_count
        header[name] = {"dtype": _CODES[spec.dtype], "shape": list(spec.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    return text + b" " * (-len(text) % 8)


def _read_header(path: Path) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    try:
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else MAX_HEADER_BYTES + 1
            text = file.read(length) if length <= MAX_HEADER_BYTES else b""
        file_size = path.stat().st_size
    except OSError as error:
        raise ToolkitError(f"cannot be read: {error.strerror or error}", where=path) from error
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__", {})
        entries = {name: _entry(name, record, 8 + length, path) for name, record in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ToolkitError("not a safetensors file, or a damaged one", where=path) from error
    for entry in entries.values():
        size = entry.parameter_count * _DTYPES[_CODES[entry.dtype]][1].itemsize
        if entry.offset + size > file_size:
            raise ToolkitError(f"cut short: {entry.name} reaches beyond the end of the file", where=path)
    return entries, metadata


def _entry(name: str, record: Mapping[str, Any], data_start: int, path: Path) -> TensorEntry:
    dtype, numpy_type = _DTYPES[record["dtype"]]
    shape = tuple(int(size) for size in record["shape"])
    start, end = record["data_offsets"]
    if any(size < 0 for size in shape) or start < 0:
        raise ValueError("negative size")
    if end - start != int(np.prod(shape, dtype=np.int64)) * numpy_type.itemsize:
        raise ValueError("shape and size differ")
    return TensorEntry(name, dtype, shape, data_start + start, path)
