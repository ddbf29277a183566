"""bitsandbytes' NF4 folders, dequantised in NumPy as they are read: the format that transformers saves.

A weight is one of 16 values times the largest magnitude of its block of 64 (Dettmers et al. 2023, arXiv:2305.14314).
For each packed weight `X` there are

    X                                   (N / 2, 1) uint8, two weights a byte, the first in the upper half
    X.absmax                            (B,) uint8 places in `nested_quant_map` ("double quantisation"), or float32
    X.quant_map                         (16,) float32
    X.nested_absmax, .nested_quant_map  one float32 for 256 of the magnitudes, and (256,) float32
    X.quant_state.bitsandbytes__nf4     JSON as bytes: shape, dtype, block sizes, the offset of the magnitudes

Shapes: N = out · in weights, B = ⌈N / blocksize⌉ blocks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import Problem, ToolkitError
from toolkit.tensor_files import FolderTensors, StoredTensor, TensorEntry

STATE = ".quant_state.bitsandbytes__nf4"
_PARTS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", STATE)
_DTYPES = {"float16": "float16", "bfloat16": "bfloat16", "float32": "float32"}


def is_nf4_folder(config: Mapping[str, Any]) -> bool:
    """Tell whether a config.json says that its weights are packed by bitsandbytes as NF4."""
    entry = config.get("quantization_config")
    if not isinstance(entry, Mapping) or entry.get("quant_method") != "bitsandbytes":
        return False
    return bool(entry.get("load_in_4bit")) and entry.get("bnb_4bit_quant_type") == "nf4"


@dataclass(frozen=True)
class _Packed:
    """What belongs to one packed weight. `shape`: (out, in); `dtype`: the precision that it had."""

    entry: TensorEntry
    parts: Mapping[str, TensorEntry]
    state: Mapping[str, Any]

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.state["shape"]
        return int(rows), int(columns)

    @property
    def block(self) -> int:
        return int(self.state["blocksize"])

    @cached_property
    def magnitudes(self) -> NDArray[np.float32]:
        """The largest magnitude of every block (B,): a 64th of the numbers."""
        small: NDArray[Any] = self.parts[".absmax"].load().array
        if ".nested_absmax" not in self.parts:
            return small.astype(np.float32)
        code, coarse = (self.parts[part].load().array for part in (".nested_quant_map", ".nested_absmax"))
        each = int(self.state["nested_blocksize"])
        nested = np.repeat(coarse.astype(np.float32), each)[: small.size]
        return code.astype(np.float32)[small] * nested + np.float32(self.state["nested_offset"])

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Dequantise rows `start` to `stop` (exclusive): (stop - start, in)."""
        columns = self.shape[1]
        first, last = start * columns, stop * columns
        octets: NDArray[Any] = self.entry.rows(first // 2, (last + 1) // 2).array.reshape(-1)
        places = np.empty(2 * octets.size, np.uint8)
        places[0::2], places[1::2] = octets >> 4, octets & 15
        places = places[first % 2 : first % 2 + last - first]
        table = self.parts[".quant_map"].load().array.astype(np.float32)
        weights = table[places]
        weights *= self.magnitudes[np.arange(first, last) // self.block]
        return weights.reshape(stop - start, columns)


class Nf4Tensors(FolderTensors):
    """A folder in NF4, seen as if its weights were plain ones: true shapes, float32 when loaded.

    An entry's dtype is the precision that the weight had before it was packed.
    """

    def __init__(self, folder: Path | str) -> None:
        """Read the headers and states. Raises ToolkitError naming every weight whose parts are missing or unknown."""
        super().__init__(folder)
        stored = self.entries
        self._packed: dict[str, _Packed] = {}
        problems = []
        for name in [name.removesuffix(STATE) for name in stored if name.endswith(STATE)]:
            parts = {part: stored[f"{name}{part}"] for part in _PARTS if f"{name}{part}" in stored}
            try:
                state = json.loads(bytes(stored[f"{name}{STATE}"].load().array))
                packed = _Packed(stored[name], parts, state)
                self._check(packed)
            except (KeyError, ValueError, TypeError) as error:
                problems.append(Problem(f"{name} is not packed as NF4 ({error})", str(self.folder)))
                continue
            self._packed[name] = packed
        if problems:
            raise ToolkitError.gather(problems[:10])
        hidden = {f"{name}{part}" for name in self._packed for part in _PARTS}
        self.entries = {
            name: self._logical(name, entry) if name in self._packed else entry
            for name, entry in stored.items()
            if name not in hidden
        }

    def __getitem__(self, name: str) -> StoredTensor:
        """Load one tensor, dequantised where it is packed."""
        if name not in self._packed:
            return self.entries[name].load()
        return StoredTensor(name, "float32", self._packed[name].rows(0, self._packed[name].shape[0]))

    def rows(self, name: str, start: int, stop: int) -> StoredTensor:
        """Read rows `start` to `stop` (exclusive), dequantised where they are packed."""
        if name not in self._packed:
            return super().rows(name, start, stop)
        return StoredTensor(name, "float32", self._packed[name].rows(start, stop))

    def _logical(self, name: str, entry: TensorEntry) -> TensorEntry:
        packed = self._packed[name]
        return TensorEntry(name, _DTYPES[packed.state["dtype"]], packed.shape, entry.offset, entry.path)

    @staticmethod
    def _check(packed: _Packed) -> None:
        rows, columns = packed.shape
        blocks = -(-rows * columns // packed.block)
        if packed.state["quant_type"] != "nf4" or packed.state["dtype"] not in _DTYPES:
            raise ValueError(f"{packed.state['quant_type']} of {packed.state['dtype']}")
        if packed.entry.parameter_count != (rows * columns + 1) // 2 or packed.entry.dtype != "uint8":
            raise ValueError(f"{packed.entry.parameter_count} bytes for {rows} × {columns} weights")
        if packed.parts[".absmax"].parameter_count != blocks or packed.parts[".quant_map"].parameter_count != 16:
            raise ValueError(f"{packed.parts['.absmax'].parameter_count} magnitudes for {blocks} blocks")
        nested = packed.parts[".absmax"].dtype == "uint8"
        if nested and not {".nested_absmax", ".nested_quant_map"} <= packed.parts.keys():
            raise ValueError("nested magnitudes are missing")
