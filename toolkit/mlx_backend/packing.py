"""Sequences packed into one row: tell such rows, and keep their sequences apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from toolkit.errors import ToolkitError
from toolkit.protocols import Batch

if TYPE_CHECKING:
    from toolkit.mlx_backend.model import SplitModel


def one_segment_per_row(batch: Batch) -> bool:
    """Tell whether every row is one sequence, padded on the right or not at all."""
    changes = (batch.segment_ids[:, 1:] != batch.segment_ids[:, :-1]).sum(axis=1)
    return bool(np.all((changes == 0) | ((changes == 1) & (batch.segment_ids[:, -1] == 0))))


class PackedRows:
    """Stands in for a layer's cache: keeps nothing, and its mask keeps a row's sequences apart.

    Positions need no restart, since rotary embeddings depend on distances alone; `check_packing` tests that once.
    """

    offset = 0

    def __init__(self, mask: mx.array) -> None:
        self.mask = mask

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Return what is new: nothing was kept."""
        return keys, values

    def make_mask(self, length: int, return_array: bool = False, window_size: int | None = None) -> mx.array:
        """Return the (B, 1, T, T) mask, narrowed to a sliding window where the layer has one."""
        if window_size is None:
            return self.mask
        places = mx.arange(length)
        return self.mask & (places[:, None] < places[None] + window_size)


def decode_packed(split: SplitModel, tokens: mx.array, positions: np.ndarray) -> mx.array:
    """Return (B, T, H) hidden states of (B, T) tokens; a sequence begins wherever `positions` is 0."""
    length = positions.shape[1]
    segments = (positions == 0).cumsum(axis=1)
    mask = (segments[:, :, None] == segments[:, None, :]) & np.tri(length, dtype=bool)
    rows = PackedRows(mx.array(mask[:, None]))
    return split.decoder(tokens, cache=[rows] * len(split.model.layers))


def check_packing(split: SplitModel) -> None:
    """Compare two short sequences in one row with each alone: learned positions, for one, would differ.

    Raises:
        ToolkitError: this architecture cannot keep sequences apart.
    """
    first, second = mx.array([[1, 2, 3]]), mx.array([[4, 5]])
    training = split.model.training
    split.model.eval()
    try:
        packed = decode_packed(split, mx.concatenate([first, second], axis=1), np.array([[0, 1, 2, 0, 1]]))
        alone = mx.concatenate([split.decoder(first), split.decoder(second)], axis=1)
        equal = bool(mx.allclose(packed.astype(mx.float32), alone.astype(mx.float32), rtol=2e-2, atol=2e-2))
    except (AttributeError, TypeError, ValueError):
        equal = False
    finally:
        split.model.train(training)
    if not equal:
        raise ToolkitError(
            "mlx-lm's version of this architecture cannot keep packed sequences apart",
            hint="train without packing (rows are grouped by length then), or with backend: torch",
        )
