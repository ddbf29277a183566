"""Rotary position settings: from config.json (old and new spelling) to GGUF keys and tensors.

transformers 5 writes `rope_parameters` with everything in it; older folders have `rope_theta` beside `rope_scaling`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from toolkit.gguf_backend.tensor_names import ROPE_FREQUENCIES

DEFAULT_BASE = 10000.0
SUPPORTED_TYPES = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class RopeSettings:
    """base: theta of the rotary embedding; kind: how it is stretched; options: that kind's own numbers."""

    base: float
    kind: str
    options: Mapping[str, Any]
    context: int

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> RopeSettings:
        """Read either spelling."""
        options = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
        kind = options.get("rope_type") or options.get("type") or "default"
        base = options.get("rope_theta") or config.get("rope_theta") or DEFAULT_BASE
        return cls(float(base), str(kind), options, config.get("max_position_embeddings", 2048))

    def problems(self) -> list[str]:
        """Say what cannot be written."""
        found = []
        if self.kind not in SUPPORTED_TYPES:
            found.append(f"rope type {self.kind} cannot be exported; supported: {', '.join(SUPPORTED_TYPES)}")
        elif self.kind != "default" and not self.options.get("factor"):
            found.append(f"rope type {self.kind} needs a factor")
        if self.options.get("partial_rotary_factor", 1.0) != 1.0:
            found.append("partial_rotary_factor cannot be exported")
        return found

    def write_metadata(self, writer: gguf.GGUFWriter) -> None:
        """Add the rope keys to a file."""
        writer.add_rope_freq_base(self.base)
        if self.kind == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(float(self.options["factor"]))
        elif self.kind == "yarn":
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            writer.add_rope_scaling_factor(float(self.options["factor"]))
            writer.add_rope_scaling_orig_ctx_len(self._original_context)

    def extra_tensors(self, head_dim: int) -> dict[str, NDArray[np.float32]]:
        """Compute the divisors of the rotary frequencies, (head_dim / 2,), that Llama 3.1's scaling amounts to.

        Short waves stay, long ones are slowed by `factor`, those between are blended (transformers' rope type
        `llama3`).
        """
        if self.kind != "llama3":
            return {}
        factor = float(self.options["factor"])
        low = float(self.options.get("low_freq_factor", 1.0))
        high = float(self.options.get("high_freq_factor", 4.0))
        frequencies = self.base ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
        turns = self._original_context * frequencies / (2 * math.pi)
        blend = np.clip((turns - low) / (high - low), 0, 1)
        return {ROPE_FREQUENCIES: (1 / ((1 - blend) / factor + blend)).astype(np.float32)}

    @property
    def _original_context(self) -> int:
        return int(self.options.get("original_max_position_embeddings") or self.context)


def older_spelling(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return `rope_theta` and `rope_scaling` for a config.json that has `rope_parameters` alone.

    mlx-lm's Qwen2 and Llama read the older keys and would take their defaults without a word.
    """
    settings = RopeSettings.read(config)
    scaling = {key: value for key, value in settings.options.items() if key not in ("rope_theta", "type")}
    scaling |= {"type": settings.kind, "rope_type": settings.kind}
    if settings.kind in ("llama3", "yarn"):
        scaling.setdefault("original_max_position_embeddings", settings.context)
    return {"rope_theta": settings.base, "rope_scaling": None if settings.kind == "default" else scaling}
