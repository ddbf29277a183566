"""What stands in a GGUF file, and how two files differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from toolkit.gguf_backend.weights import dequantise, open_gguf

# Lists longer than this (vocabularies, merges) are told by their length.
_SHOWN_ITEMS = 8


@dataclass(frozen=True)
class TensorFacts:
    """One tensor: its type, its shape as NumPy sees it (rows first), its size."""

    name: str
    kind: str
    shape: tuple[int, ...]
    byte_count: int


@dataclass(frozen=True)
class GgufFacts:
    """One file. `metadata` holds every key but the structural ones."""

    path: Path
    byte_count: int
    metadata: Mapping[str, Any]
    tensors: tuple[TensorFacts, ...]

    @property
    def parameter_count(self) -> int:
        """Weights in all tensors."""
        return sum(int(np.prod(tensor.shape, dtype=np.int64)) for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Bits of tensor data for each weight, scales included, metadata not."""
        return 8 * sum(tensor.byte_count for tensor in self.tensors) / max(1, self.parameter_count)

    def by_kind(self) -> dict[str, tuple[int, int, int]]:
        """Return (tensors, weights, bytes) by type, the largest first."""
        sums: dict[str, tuple[int, int, int]] = {}
        for tensor in self.tensors:
            count, weights, size = sums.get(tensor.kind, (0, 0, 0))
            elements = int(np.prod(tensor.shape, dtype=np.int64))
            sums[tensor.kind] = (count + 1, weights + elements, size + tensor.byte_count)
        return dict(sorted(sums.items(), key=lambda item: -item[1][2]))


@dataclass(frozen=True)
class Difference:
    """One way in which two files differ: a metadata key or a tensor, and what it is on either side."""

    name: str
    first: str
    second: str


def inspect_gguf(path: Path) -> GgufFacts:
    """Read a file's metadata and its tensors' headers. Raises ToolkitError when it is not GGUF."""
    return _facts(path, open_gguf(path))


def compare_gguf(first: Path, second: Path, *, values: bool = True) -> Iterator[Difference]:
    """Yield every difference: metadata keys, then tensors (missing, type, shape, values), one in memory at a time.

    values: compare the dequantised numbers too, and say how far they are apart (root mean square, relative to the
        first file's)

    Raises:
        ToolkitError: one of them is not GGUF.
    """
    readers = open_gguf(first), open_gguf(second)
    sides = _facts(first, readers[0]), _facts(second, readers[1])
    for key in sorted({*sides[0].metadata, *sides[1].metadata}):
        pair = [side.metadata.get(key, _ABSENT) for side in sides]
        if pair[0] is _ABSENT or pair[1] is _ABSENT or pair[0] != pair[1]:
            yield Difference(key, *_shown_pair(*pair))
    tensors = [{tensor.name: tensor for tensor in reader.tensors} for reader in readers]
    facts = [{tensor.name: tensor for tensor in side.tensors} for side in sides]
    for name in sorted({*facts[0], *facts[1]}):
        one, other = facts[0].get(name), facts[1].get(name)
        if one is None or other is None or (one.kind, one.shape) != (other.kind, other.shape):
            distance = "" if one is None or other is None or not values else _distance(tensors, name)
            yield Difference(name, _tensor_line(one), f"{_tensor_line(other)}{distance}")
        elif values and not np.array_equal(tensors[0][name].data, tensors[1][name].data):
            yield Difference(name, _tensor_line(one), f"{_tensor_line(other)}{_distance(tensors, name)}")


_ABSENT = object()


def _facts(path: Path, reader: gguf.GGUFReader) -> GgufFacts:
    metadata = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    tensors = tuple(
        TensorFacts(t.name, t.tensor_type.name, tuple(int(n) for n in reversed(t.shape)), int(t.n_bytes))
        for t in reader.tensors
    )
    return GgufFacts(path, path.stat().st_size, metadata, tensors)


def shown(value: Any) -> str:
    """Return a metadata value in a few words: long lists by their length, long texts by their first line."""
    if value is _ABSENT:
        return "absent"
    if isinstance(value, list) and len(value) > _SHOWN_ITEMS:
        return f"{len(value):,} entries"
    text = value if isinstance(value, str) else repr(value)
    first, *more = text.split("\n")
    return f"{first[:80]}… ({len(text):,} characters)" if more or len(first) > 80 else first


def _shown_pair(first: Any, second: Any) -> tuple[str, str]:
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second) > _SHOWN_ITEMS:
        places = [index for index, (one, other) in enumerate(zip(first, second, strict=True)) if one != other]
        where = f"{len(places):,} of {len(first):,} entries differ, the first is {places[0]}"
        return f"{where}: {first[places[0]]!r}", repr(second[places[0]])
    return shown(first), shown(second)


def _tensor_line(tensor: TensorFacts | None) -> str:
    return "absent" if tensor is None else f"{tensor.kind} {'×'.join(str(size) for size in tensor.shape)}"


def _distance(tensors: list[dict[str, gguf.ReaderTensor]], name: str) -> str:
    """Say how far two tensors' values are apart, where their shapes allow it."""
    one, other = (dequantise(side[name]).to_float32().astype(np.float64) for side in tensors)
    if one.shape != other.shape:
        return ""
    scale = float(np.sqrt(np.mean(np.square(one)))) or 1.0
    return f", {float(np.sqrt(np.mean(np.square(one - other)))) / scale:.2g} apart"
