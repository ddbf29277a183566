"""Write a quantised copy of a model folder, tensor by tensor and a few rows at a time.

What is in memory at once is a piece of one matrix, whatever the model's size.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from toolkit.affine import AffineLayout, quantise
from toolkit.atomic_files import write_atomic
from toolkit.errors import ToolkitError
from toolkit.models import ModelFacts, companion_names
from toolkit.tensor_files import (
    INDEX_NAME,
    SINGLE_NAME,
    StoredTensor,
    TensorEntry,
    TensorSpec,
    tensor_writer,
)

SHARD_BYTES = 4_000_000_000
PIECE_WEIGHTS = 1 << 22
"""Weights read at once: 16 MB in float32, and a few times that while they are quantised."""
FLOATS = ("float32", "float16", "bfloat16")

Put = Callable[[str, int, NDArray[np.generic]], None]


class Packer(Protocol):
    """One way to pack a matrix."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the files say of themselves."""
        ...

    def config(self, facts: ModelFacts, packed: Sequence[str]) -> Mapping[str, Any]:
        """Return what config.json says beside the model's own entries; `packed` are names of weights."""
        ...

    def fits(self, entry: TensorEntry) -> bool:
        """Tell whether a matrix can be packed so."""
        ...

    def parts(self, entry: TensorEntry) -> Mapping[str, TensorSpec]:
        """Return the tensors that take the place of one, by name."""
        ...

    def pack(self, entry: TensorEntry, put: Put) -> None:
        """Read a matrix piece by piece and put its parts where they belong."""
        ...


@dataclass(frozen=True)
class AffinePacker:
    """MLX's affine layout, as mlx-lm writes it: words, and scales and biases in the weight's own precision."""

    layout: AffineLayout

    @property
    def metadata(self) -> Mapping[str, str]:
        """Say that MLX reads these files."""
        return {"format": "mlx"}

    def config(self, facts: ModelFacts, packed: Sequence[str]) -> Mapping[str, Any]:
        """Return mlx-lm's `quantization` entry."""
        return {"quantization": {"group_size": self.layout.group_size, "bits": self.layout.bits, "mode": "affine"}}

    def fits(self, entry: TensorEntry) -> bool:
        """Tell whether the rows divide into groups; mlx-lm leaves other layers as they are."""
        return self.layout.fits(entry.shape[1])

    def parts(self, entry: TensorEntry) -> Mapping[str, TensorSpec]:
        """Return weight (words), scales and biases."""
        rows, columns = entry.shape
        module = entry.name.removesuffix(".weight")
        groups = TensorSpec(entry.dtype, (rows, columns // self.layout.group_size))
        words = TensorSpec("uint32", (rows, self.layout.packed_columns(columns)))
        return {entry.name: words, f"{module}.scales": groups, f"{module}.biases": groups}

    def pack(self, entry: TensorEntry, put: Put) -> None:
        """Quantise as `mlx.core.quantize` does."""
        module = entry.name.removesuffix(".weight")
        for first, piece in pieces(entry):
            words, scales, biases = quantise(piece.to_float32(), self.layout)
            put(entry.name, first, words)
            for end, values in (("scales", scales), ("biases", biases)):
                if not np.isfinite(values).all():
                    raise ToolkitError(f"{entry.name} holds NaN or infinity", where=entry.path)
                put(f"{module}.{end}", first, in_dtype(values, entry.dtype))


def pieces(entry: TensorEntry, rows_multiple: int = 1) -> Iterator[tuple[int, StoredTensor]]:
    """Yield (first row, rows) of a tensor, a multiple of `rows_multiple` rows at a time (but for the last)."""
    rows = entry.shape[0] if entry.shape else 1
    width = max(1, entry.parameter_count // max(1, rows))
    at_once = max(1, PIECE_WEIGHTS // (width * rows_multiple)) * rows_multiple
    for first in range(0, rows, at_once):
        yield first, entry.read_rows(first, min(at_once, rows - first))


def in_dtype(values: NDArray[np.float32], dtype: str) -> NDArray[np.generic]:
    """Round float32 to a stored precision; bfloat16 as bits."""
    if dtype == "bfloat16":
        return StoredTensor("", "float32", values).to_bfloat16().array
    return values.astype(dtype)


def packable(facts: ModelFacts, packer: Packer) -> list[str]:
    """Return the names of the weights that `packer` packs: the linear layers of the decoder blocks that fit it.

    Raises:
        ToolkitError: none does.
    """
    matrices = facts.block_matrices
    names = [name for name, entry in matrices.items() if entry.dtype in FLOATS and packer.fits(entry)]
    if not names:
        widths = sorted({entry.shape[1] for entry in matrices.values()})
        what = f"no linear layer of this model can be quantised so (their inputs: {widths})"
        raise ToolkitError(what, where=facts.folder, hint="Try --set base.group_size=32")
    return names


def plan_parts(facts: ModelFacts, packer: Packer) -> dict[str, Mapping[str, TensorSpec]]:
    """Return what each tensor of the model becomes: itself, or its parts."""
    chosen = set(packable(facts, packer))
    return {
        name: packer.parts(entry) if name in chosen else {name: TensorSpec(entry.dtype, entry.shape)}
        for name, entry in facts.tensors.entries.items()
    }


def planned_bytes(parts: Mapping[str, Mapping[str, TensorSpec]]) -> int:
    """Add up what the weights will take on the disk."""
    return sum(spec.byte_count for own in parts.values() for spec in own.values())


def write_packed_folder(
    folder: Path,
    facts: ModelFacts,
    packer: Packer,
    parts: Mapping[str, Mapping[str, TensorSpec]],
    advance: Callable[[int], None],
) -> None:
    """Fill `folder` with a complete quantised model: configuration, tokenizer, weights in shards.

    parts:   as `plan_parts` says
    advance: told the weights done so far, after every tensor

    Raises:
        ToolkitError: a weight is NaN or infinite.
        JobFailed: the disk is full.
    """
    for name in companion_names(facts.folder):
        shutil.copyfile(facts.folder / name, folder / name)
    packed = [name for name, own in parts.items() if len(own) > 1]
    config = {**facts.config, **packer.config(facts, packed)}
    write_atomic(folder / "config.json", json.dumps(config, indent=2) + "\n")
    shards = _shards(parts)
    index: dict[str, str] = {}
    done = 0
    for number, shard in enumerate(shards, start=1):
        file = SINGLE_NAME if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        specs = {name: spec for source in shard for name, spec in parts[source].items()}
        index |= dict.fromkeys(specs, file)
        with tensor_writer(folder / file, specs, packer.metadata) as put:
            for source in shard:
                entry = facts.tensors.entries[source]
                _copy(entry, put) if len(parts[source]) == 1 else packer.pack(entry, put)
                done += entry.parameter_count
                advance(done)
    if len(shards) > 1:
        total = {"metadata": {"total_size": planned_bytes(parts)}, "weight_map": index}
        write_atomic(folder / INDEX_NAME, json.dumps(total, indent=2) + "\n")


def _copy(entry: TensorEntry, put: Put) -> None:
    if math.prod(entry.shape) == 0 or not entry.shape:
        put(entry.name, 0, entry.load().array)
        return
    for first, piece in pieces(entry):
        put(entry.name, first, piece.array)


def _shards(parts: Mapping[str, Mapping[str, TensorSpec]]) -> list[list[str]]:
    """Share the tensors out to files, a tensor's parts in the same one."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, own in parts.items():
        size = planned_bytes({name: own})
        if shards[-1] and filled + size > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards
