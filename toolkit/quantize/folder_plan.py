"""What goes into an exported model folder: the tensors, how each is stored, and in which file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from toolkit.affine import AffineLayout
from toolkit.errors import ToolkitError
from toolkit.packed_folders import FLOATS, AffinePacker
from toolkit.quantize.source import FolderSource
from toolkit.tensor_files import SINGLE_NAME, TensorEntry, TensorSpec

FolderFormat = Literal["safetensors", "mlx"]
SHARD_BYTES = 4_000_000_000


@dataclass(frozen=True)
class FolderPlan:
    """What a folder will hold, known before a weight is read.

    format: safetensors: every tensor in the precision of the base; mlx: matrices packed as `layout` says
    parts:  for each tensor of the model the tensors that take its place: itself, or words, scales and biases
    left:   matrices that the layout cannot pack, so that they stay as they are
    """

    format: FolderFormat
    layout: AffineLayout
    parts: Mapping[str, Mapping[str, TensorSpec]]
    left: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Short name for files and tables: `safetensors`, `mlx-4bit`."""
        return self.format if self.format == "safetensors" else f"mlx-{self.layout.bits}bit"

    @property
    def weights_bytes(self) -> int:
        """Size of the tensors, headers not counted."""
        return sum(spec.byte_count for own in self.parts.values() for spec in own.values())

    @property
    def file_bytes(self) -> int:
        """About the size of the whole folder."""
        return self.weights_bytes

    @property
    def weights(self) -> int:
        """Number of weights of the model."""
        return sum(self._elements(name) for name in self.parts)

    @property
    def bits_per_weight(self) -> float:
        """True average over all weights, scales and biases included."""
        return 8 * self.weights_bytes / max(1, self.weights)

    def is_packed(self, name: str) -> bool:
        """Say whether a tensor of the model is packed."""
        return len(self.parts[name]) > 1

    def counts(self) -> dict[str, int]:
        """Number of the model's tensors by how they are stored."""
        packed = f"{self.layout.bits}-bit"
        return dict(Counter(packed if self.is_packed(name) else self.parts[name][name].dtype for name in self.parts))

    def files(self) -> dict[str, tuple[str, ...]]:
        """Share the model's tensors out to files, each tensor's parts in the same one."""
        shards: list[list[str]] = [[]]
        filled = 0
        for name, own in self.parts.items():
            size = sum(spec.byte_count for spec in own.values())
            if shards[-1] and filled + size > SHARD_BYTES:
                shards.append([])
                filled = 0
            shards[-1].append(name)
            filled += size
        if len(shards) == 1:
            return {SINGLE_NAME: tuple(shards[0])}
        last = len(shards)
        return {f"model-{n:05}-of-{last:05}.safetensors": tuple(shard) for n, shard in enumerate(shards, start=1)}

    def _elements(self, name: str) -> int:
        own = self.parts[name]
        count = math.prod(own[name].shape)
        return count * 32 // self.layout.bits if len(own) > 1 else count


def plan_folder(source: FolderSource, form: FolderFormat, layout: AffineLayout) -> FolderPlan:
    """Plan a folder.

    Raises:
        ToolkitError: no matrix of the model fits the layout.
    """
    entries: Sequence[TensorEntry] = [source.tensors.entries[name] for name in source.tensors]
    whole = {entry.name: {entry.name: TensorSpec(entry.dtype, entry.shape)} for entry in entries}
    if form == "safetensors":
        return FolderPlan(form, layout, whole)
    packer = AffinePacker(layout)
    # As mlx-lm does: the embedding and the head as well, whatever does not divide into groups stays.
    matrices = [entry for entry in entries if len(entry.shape) == 2 and entry.dtype in FLOATS]
    fitting = {entry.name: packer.parts(entry) for entry in matrices if packer.fits(entry)}
    if not fitting:
        widths = ", ".join(str(width) for width in sorted({entry.shape[1] for entry in matrices}))
        raise ToolkitError(
            f"no matrix of this model can be packed in groups of {layout.group_size} (rows of {widths})",
            where=source.folder,
            hint="Try --group-size 32, or --format safetensors",
        )
    left = tuple(entry.name for entry in matrices if entry.name not in fitting)
    return FolderPlan(form, layout, {**whole, **fitting}, left)
