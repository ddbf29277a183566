"""Safetensors files as NumPy sees them: lazy, memory-mapped, bfloat16 as raw bits.

NumPy has no bfloat16, so such a tensor travels as uint16 with its dtype named (never by way of a float32 file).
Format: https://huggingface.co/docs/safetensors (8-byte little-endian header length, JSON header, raw bytes).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
