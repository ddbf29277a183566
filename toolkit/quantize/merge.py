"""The trained weights, block by block of rows: base tensors from safetensors, with the adapter applied in float32.

What applying means for LoRA, rsLoRA and DoRA is written in `toolkit.adapter_files`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy

import numpy as np
from numpy.typing import NDArray

from toolkit.adapter_files import Adapter
from toolkit.affine import AffineLayout, AffineTensors
from toolkit.errors import Problem, ToolkitError
from toolkit.tensor_files import FolderTensors, StoredTensor, TensorEntry


class MergedTensors:
    """Base weights with the adapter applied, loaded in blocks of rows under their Hugging Face names."""

    def __init__(self, stored: FolderTensors, adapter: Adapter | None, required: Mapping[str, tuple[int, ...]]) -> None:
        """Join base and adapter.

        required: the tensors that the model consists of, with their shapes (already checked against `stored`)

        Raises:
            ToolkitError: the adapter changes a tensor that the export leaves out, so its training would be lost.
        """
        self._stored = stored
        self._adapter = adapter
        self._required = required
        self.merged_names = frozenset(f"{module}.weight" for module in adapter.modules) if adapter else frozenset()
        lost = sorted(self.merged_names - set(required))
        if lost and adapter:
            where = str(adapter.folder)
            raise ToolkitError.gather(
                [Problem(f"{name} is not exported (tied), so its adapter would be lost", where) for name in lost]
            )

    def only(self, required: Mapping[str, tuple[int, ...]]) -> MergedTensors:
        """Return some of the tensors, merged as here."""
        some = copy(self)
        some._required = required
        return some

    @property
    def stored(self) -> FolderTensors:
        """The model's folder, nothing merged."""
        return self._stored

    @property
    def entries(self) -> Mapping[str, TensorEntry]:
        """What lies in the model's folder, by name."""
        return self._stored.entries

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._required)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without loading it."""
        return self._required[name]

    def load(self, name: str) -> StoredTensor:
        """Load one tensor whole: as stored, or float32 with the adapter applied."""
        return self.rows(name, 0, self._required[name][0])

    def rows(self, name: str, start: int, stop: int) -> StoredTensor:
        """Load rows `start` to `stop` (exclusive): as stored, or float32 with the adapter applied."""
        stored = self._stored.rows(name, start, stop)
        if name not in self.merged_names or self._adapter is None:
            return stored
        module = name.removesuffix(".weight")
        merged = self._adapter.merged(module, stored.to_float32(), slice(start, stop))
        return StoredTensor(name, "float32", merged)

    def packed_rows(
        self, name: str, layout: AffineLayout, start: int, stop: int
    ) -> dict[str, NDArray[np.generic]] | None:
        """Read rows as they are packed (words, scales, biases by name), where that is `layout` and nothing is merged.

        Packing anew what is packed already would change it a little.
        """
        stored = self._stored
        if name in self.merged_names or not isinstance(stored, AffineTensors) or stored.layout_of(name) != layout:
            return None
        module = name.removesuffix(".weight")
        names = (name, f"{module}.scales", f"{module}.biases")
        return {part: stored.packed[part].rows(start, stop).array for part in names}
