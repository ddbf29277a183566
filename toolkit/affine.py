"""MLX's affine quantisation in NumPy: packing, quantising, dequantising, and folders in that layout read as plain ones.

A row is cut into groups of `group_size` weights; a weight is `scale * q + bias` of its group, with q a whole number of
`bits` bits. The q of a row are one stream of bits, lowest first, stored as little-endian uint32 words. A linear layer
`X` is three tensors: `X.weight` (out, in · bits / 32) uint32, `X.scales` and `X.biases` (out, in / group_size).
Rounding follows `mlx.core.quantize`, so the results are bit-equal to it (https://ml-explore.github.io/mlx).

Shapes: out rows, in columns, G = in / group_size groups to a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import Problem, ToolkitError
from toolkit.nf4_files import Nf4Tensors, is_nf4_folder
from toolkit.tensor_files import FolderTensors, StoredTensor, TensorEntry

BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)
SMALLEST_SCALE = np.float32(1e-7)
_ROWS_AT_ONCE = 1 << 22
"""Weights that are dequantised in one piece: their float32 take 16 MB."""


@dataclass(frozen=True)
class AffineLayout:
    """How one layer is packed."""

    bits: int = 4
    group_size: int = 64

    def packed_columns(self, columns: int) -> int:
        """Return the uint32 words of a row of `columns` weights."""
        return columns * self.bits // 32

    def columns(self, packed_columns: int) -> int:
        """Return the weights of a row of `packed_columns` words."""
        return packed_columns * 32 // self.bits

    def fits(self, columns: int) -> bool:
        """Tell whether rows of `columns` weights divide into groups and words."""
        return columns % self.group_size == 0 and columns * self.bits % 32 == 0


@dataclass(frozen=True)
class Quantization:
    """The `quantization` entry of a config.json: one layout, and layers that have their own (False: left as stored)."""

    layout: AffineLayout
    layers: Mapping[str, AffineLayout | None] = field(default_factory=dict)

    def of(self, module: str) -> AffineLayout:
        """Return the layout of a module's packed weight."""
        return self.layers.get(module) or self.layout


def pack(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint32]:
    """Pack (out, in) whole numbers below 2^bits into (out, in · bits / 32) words."""
    if bits == 8:
        octets = values
    elif bits == 4:
        octets = values[:, 0::2] | (values[:, 1::2] << 4)
    else:
        stream = np.unpackbits(values[:, :, None], axis=2, bitorder="little")[:, :, :bits]
        octets = np.packbits(stream.reshape(len(values), -1), axis=1, bitorder="little")
    return np.ascontiguousarray(octets).view("<u4")


def unpack(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint8]:
    """Return the (out, in) whole numbers in (out, in · bits / 32) words."""
    octets = np.ascontiguousarray(words.astype("<u4", copy=False)).view(np.uint8)
    if bits == 8:
        return octets
    if bits == 4:
        values = np.empty((octets.shape[0], 2 * octets.shape[1]), np.uint8)
        values[:, 0::2], values[:, 1::2] = octets & 15, octets >> 4
        return values
    stream = np.unpackbits(octets, axis=1, bitorder="little").reshape(len(octets), -1, bits)
    return np.packbits(stream, axis=2, bitorder="little")[:, :, 0]


def quantise(
    weight: NDArray[np.float32], layout: AffineLayout
) -> tuple[NDArray[np.uint32], NDArray[np.float32], NDArray[np.float32]]:
    """Quantise (out, in) weights: words (out, in · bits / 32), scales and biases (out, G), both still float32.

    Rows do not depend on each other, so a large matrix can be done in pieces. The end of a group's range that is
    farther from zero is kept exactly (up to the scales' own rounding), and zero is one of the steps.
    """
    rows, columns = weight.shape
    steps = np.float32((1 << layout.bits) - 1)
    groups = weight.astype(np.float32, copy=False).reshape(rows, -1, layout.group_size)
    low, high = groups.min(axis=2), groups.max(axis=2)
    from_low = np.abs(low) > np.abs(high)
    scales = np.maximum((high - low) / steps, SMALLEST_SCALE)
    scales = np.where(from_low, scales, -scales)
    edge = np.where(from_low, low, high)
    edge_step = np.rint(edge / scales)
    has_edge = edge_step != 0
    scales = np.where(has_edge, edge / np.where(has_edge, edge_step, np.float32(1)), scales)
    biases = np.where(has_edge, edge, np.float32(0))
    steps_of = groups - biases[:, :, None]
    steps_of /= scales[:, :, None]
    np.rint(steps_of, out=steps_of)
    np.clip(steps_of, 0, steps, out=steps_of)
    with np.errstate(invalid="ignore"):  # NaN weights make NaN scales, for the caller to find
        values = steps_of.astype(np.uint8).reshape(rows, columns)
    return pack(values, layout.bits), scales, biases


def dequantise(
    words: NDArray[np.uint32], scales: NDArray[np.float32], biases: NDArray[np.float32], layout: AffineLayout
) -> NDArray[np.float32]:
    """Return the (out, in) float32 weights, `scale * q + bias`."""
    rows, columns = words.shape[0], layout.columns(words.shape[1])
    weight = np.empty((rows, columns), np.float32)
    at_once = max(1, _ROWS_AT_ONCE // max(1, columns))
    for start in range(0, rows, at_once):
        part = slice(start, start + at_once)
        groups = weight[part].reshape(-1, columns // layout.group_size, layout.group_size)
        groups[:] = unpack(words[part], layout.bits).reshape(groups.shape)
        groups *= scales[part, :, None]
        groups += biases[part, :, None]
    return weight


def read_quantization(config: Mapping[str, Any], where: Path) -> Quantization | None:
    """Read how a model's config.json says it is packed; None for a model that is not in MLX's layout.

    Raises:
        ToolkitError: it is in another layout of MLX's (mxfp4, …), or the entry makes no sense.
    """
    entry = config.get("quantization")
    if entry is None:
        return None
    if not isinstance(entry, Mapping) or entry.get("mode", "affine") != "affine":
        mode = entry.get("mode") if isinstance(entry, Mapping) else entry
        hint = "Take the full-precision model, or one that is quantised in MLX's affine mode"
        raise ToolkitError(
            f"quantised in a layout that cannot be read ({mode})", where=where / "config.json", hint=hint
        )
    problems: list[Problem] = []
    layout = _layout(entry, "quantization", where, problems)
    layers: dict[str, AffineLayout | None] = {}
    for name, own in entry.items():
        if isinstance(own, Mapping):
            layers[name] = _layout({**entry, **own}, name, where, problems)
        elif own is False:
            layers[name] = None
    if problems:
        raise ToolkitError.gather(problems[:10])
    return Quantization(layout, layers)


def _layout(entry: Mapping[str, Any], name: str, where: Path, problems: list[Problem]) -> AffineLayout:
    bits, group_size = entry.get("bits"), entry.get("group_size")
    if bits not in BITS or group_size not in GROUP_SIZES or entry.get("mode", "affine") != "affine":
        what = f"{name}: bits {bits} in groups of {group_size} ({entry.get('mode', 'affine')}) cannot be read"
        problems.append(Problem(what, str(where / "config.json")))
        return AffineLayout()
    return AffineLayout(bits, group_size)


class AffineTensors(FolderTensors):
    """A folder in MLX's layout, seen as if its weights were plain ones.

    `entries` and the mapping hold `X.weight` with its true shape and the dtype of its scales; scales and biases are
    not listed. Loading one dequantises it: float32, whatever `dtype` its entry names.

    packed: what is stored, by name: `X.weight` as words, `X.scales`, `X.biases`, and all that is not quantised
    """

    def __init__(self, folder: Path | str, quantization: Quantization) -> None:
        """Read the headers. Raises ToolkitError naming every tensor that is missing or does not fit."""
        super().__init__(folder)
        self.quantization = quantization
        self.packed = self.entries
        self.entries, problems = {}, []
        modules = {name.removesuffix(".scales") for name in self.packed if name.endswith(".scales")}
        companions = {f"{module}.{end}" for module in modules for end in ("scales", "biases")}
        for name, entry in self.packed.items():
            module = name.removesuffix(".weight")
            if name.endswith(".weight") and module in modules:
                self.entries[name] = self._logical(module, entry, problems)
            elif name not in companions:
                self.entries[name] = entry
        problems += [
            Problem(f"{module}.scales is here, but not {module}.weight", str(self.folder))
            for module in sorted(modules)
            if f"{module}.weight" not in self.packed
        ]
        if problems:
            raise ToolkitError.gather(problems[:10])

    def layout_of(self, name: str) -> AffineLayout | None:
        """Return how the weight called `name` is packed; None where it is stored as it is."""
        module = name.removesuffix(".weight")
        return self.quantization.of(module) if f"{module}.scales" in self.packed else None

    def _logical(self, module: str, entry: TensorEntry, problems: list[Problem]) -> TensorEntry:
        layout = self.quantization.of(module)
        scales, biases = self.packed[f"{module}.scales"], self.packed.get(f"{module}.biases")
        columns = layout.columns(entry.shape[-1]) if entry.shape else 0
        groups = (*entry.shape[:-1], columns // layout.group_size)
        if biases is None:
            problems.append(Problem(f"{module}.biases is missing", str(self.folder)))
        elif entry.dtype != "uint32" or scales.shape != groups or biases.shape != groups:
            what = f"{entry.name} {list(entry.shape)} {entry.dtype} and its scales {list(scales.shape)} do not fit"
            problems.append(Problem(f"{what} {layout.bits} bits in groups of {layout.group_size}", str(self.folder)))
        return TensorEntry(entry.name, scales.dtype, (*entry.shape[:-1], columns), entry.offset, entry.path)

    def __getitem__(self, name: str) -> StoredTensor:
        """Load one tensor, dequantised where it is packed."""
        layout = self.layout_of(name)
        if layout is None or name not in self.entries:
            return self.entries[name].load()
        module = name.removesuffix(".weight")
        words, scales, biases = (self.packed[f"{module}.{end}"].load() for end in ("weight", "scales", "biases"))
        rows = words.array.reshape(-1, words.array.shape[-1]).astype(np.uint32, copy=False)
        flat_scales, flat_biases = (part.to_float32().reshape(len(rows), -1) for part in (scales, biases))
        weight = dequantise(rows, flat_scales, flat_biases, layout)
        return StoredTensor(name, "float32", weight.reshape(self.entries[name].shape))

    def rows(self, name: str, start: int, stop: int) -> StoredTensor:
        """Read rows `start` to `stop` (exclusive) of a matrix, dequantised where it is packed, without mapping it."""
        layout = self.layout_of(name)
        if layout is None or len(self.entries[name].shape) != 2:
            return super().rows(name, start, stop)
        module = name.removesuffix(".weight")
        words, scales, biases = (
            self.packed[f"{module}.{end}"].rows(start, stop) for end in ("weight", "scales", "biases")
        )
        packed = words.array.astype(np.uint32, copy=False)
        return StoredTensor(name, "float32", dequantise(packed, scales.to_float32(), biases.to_float32(), layout))


def open_tensors(folder: Path, config: Mapping[str, Any]) -> FolderTensors:
    """Open a model folder's weights by their Hugging Face names; what is packed is dequantised as it is read.

    Packed may be MLX's affine layout, or bitsandbytes' NF4.

    Raises:
        ToolkitError: weights are missing or do not fit, or the layout cannot be read.
    """
    quantization = read_quantization(config, folder)
    if quantization is None and is_nf4_folder(config):
        return Nf4Tensors(folder)
    return FolderTensors(folder) if quantization is None else AffineTensors(folder, quantization)
