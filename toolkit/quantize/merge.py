"""The trained weights, one at a time: base tensors from safetensors, with `scale * B @ A` added in float32.

The update is LoRA's (Hu et al. 2021, arXiv:2106.09685): scale is alpha / r, or alpha / sqrt(r) for rsLoRA
(Kalajdzievski 2023, arXiv:2312.03732).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from toolkit.checkpoints import Adapter
from toolkit.errors import Problem, ToolkitError
from toolkit.tensor_files import FolderTensors, StoredTensor


class MergedTensors:
    """Base weights with the adapter applied, loaded one at a time under their Hugging Face names."""

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

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._required)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without loading it."""
        return self._required[name]

    def load(self, name: str) -> StoredTensor:
        """Load one tensor: as stored, or float32 with the adapter's update added."""
        stored = self._stored[name]
        if name not in self.merged_names or self._adapter is None:
            return stored
        first, second = (factor.to_float32() for factor in self._adapter.factors(name.removesuffix(".weight")))
        merged = second @ first
        merged *= self._adapter.scale
        merged += stored.to_float32()
        return StoredTensor(name, "float32", merged)
