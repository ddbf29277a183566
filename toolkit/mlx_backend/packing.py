"""Sequences packed into one row: tell such rows, keep their sequences apart, and prove that an architecture does.

Shapes: B rows, T positions, H hidden size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from toolkit.errors import ToolkitError
from toolkit.protocols import Batch

if TYPE_CHECKING:
    from toolkit.mlx_backend.model import SplitModel

# Two sequences for the self-test: long enough for a short convolution or a recurrence to look back.
_FIRST, _SECOND = (1, 2, 3, 4, 5), (6, 7, 8, 9)


def one_segment_per_row(batch: Batch) -> bool:
    """Tell whether every row is one sequence, padded on the right or not at all."""
    changes = (batch.segment_ids[:, 1:] != batch.segment_ids[:, :-1]).sum(axis=1)
    return bool(np.all((changes == 0) | ((changes == 1) & (batch.segment_ids[:, -1] == 0))))


class PackedRows:
    """Stands in for a layer's cache: keeps nothing, and its mask keeps a row's sequences apart.

    Positions need no restart, since rotary embeddings depend on distances alone; `keeps_sequences_apart` tests that.
    """

    offset = 0

    def __init__(self, mask: mx.array, window: int | None = None) -> None:
        """Let positions see what `mask` (B or 1, 1, T, T) allows, and no further back than `window`."""
        self.mask = mask
        self.window = window

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Return what is new: nothing was kept."""
        return keys, values

    def make_mask(self, length: int, return_array: bool = False, window_size: int | None = None) -> mx.array:
        """Return the (B, 1, T, T) mask, narrowed to a sliding window where the layer has one."""
        window_size = window_size or self.window
        if window_size is None:
            return self.mask
        places = mx.arange(length)
        return self.mask & (places[:, None] < places[None] + window_size)


def ignored_window(model: Any) -> int | None:
    """Return the sliding window that mlx-lm drops: it runs a Mistral as a Llama, whose layers have none by default."""
    args = getattr(model, "args", None)
    return getattr(args, "sliding_window", None) if getattr(args, "model_type", None) == "mistral" else None


def decode_packed(split: SplitModel, tokens: mx.array, positions: np.ndarray) -> mx.array:
    """Return (B, T, H) hidden states of (B, T) tokens; a sequence begins wherever `positions` is 0."""
    length = positions.shape[1]
    segments = (positions == 0).cumsum(axis=1)
    mask = (segments[:, :, None] == segments[:, None, :]) & np.tri(length, dtype=bool)
    rows = PackedRows(mx.array(mask[:, None]), ignored_window(split.model))
    return split.decoder(tokens, cache=[rows] * len(split.model.layers))


def keeps_sequences_apart(split: SplitModel) -> bool:
    """Compare two short sequences in one row with each alone: learned positions, for one, would differ."""
    tokens = [split.to_device(np.array([ids]) % split.vocab_size) for ids in (_FIRST, _SECOND)]
    positions = np.concatenate([np.arange(len(_FIRST)), np.arange(len(_SECOND))])[None]
    training = split.model.training
    split.model.eval()
    try:
        with split.arithmetic():
            packed = decode_packed(split, mx.concatenate(tokens, axis=1), positions).astype(mx.float32)
            alone = mx.concatenate([split.decode(sequence) for sequence in tokens], axis=1).astype(mx.float32)
            mx.eval(packed, alone)
    except (AttributeError, IndexError, NotImplementedError, TypeError, ValueError):
        return False
    finally:
        split.model.train(training)
    tolerance = 1e-3 if split.dtype == mx.float32 else 3e-2
    return bool(mx.abs(packed - alone).max() <= tolerance * mx.abs(alone).max())


def check_packing(split: SplitModel) -> None:
    """Raise ToolkitError when this architecture cannot keep packed sequences apart."""
    if not keeps_sequences_apart(split):
        raise ToolkitError(
            f"mlx-lm's {type(split.model).__module__} cannot keep packed sequences apart",
            hint="train with data.packing=false (rows are grouped by length then), or with backend: torch",
        )
