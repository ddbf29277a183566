"""Sequences packed into one row: tell such rows, keep their sequences apart, and prove that an architecture does.

Shapes: B rows, T positions, H hidden size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from toolkit.errors import ToolkitError
from toolkit.protocols import Batch

if TYPE_CHECKING:
    from toolkit.torch_backend.model import SplitModel

# Two sequences for the self-test: long enough for a short convolution or a recurrence to look back.
_FIRST, _SECOND = (1, 2, 3, 4, 5), (6, 7, 8, 9)


def one_segment_per_row(batch: Batch) -> bool:
    """Tell whether every row is one sequence, padded on the right or not at all."""
    changes = (batch.segment_ids[:, 1:] != batch.segment_ids[:, :-1]).sum(axis=1)
    return bool(np.all((changes == 0) | ((changes == 1) & (batch.segment_ids[:, -1] == 0))))


def decode_packed(split: SplitModel, tokens: Tensor, positions: np.ndarray) -> Tensor:
    """Return (B, T, H) hidden states of (B, T) tokens; a sequence begins wherever `positions` is 0.

    transformers derives the block mask from positions that restart, but only while no mask and no cache are given.
    """
    position_ids = split.to_device(positions.astype(np.int64))
    return split.decoder(input_ids=tokens, position_ids=position_ids, use_cache=False).last_hidden_state


@torch.no_grad()
def keeps_sequences_apart(split: SplitModel) -> bool:
    """Compare two short sequences in one row with each alone: a recurrence, for one, would run on into the second."""
    tokens = [split.to_device(np.array([ids]) % split.vocab_size) for ids in (_FIRST, _SECOND)]
    positions = np.concatenate([np.arange(len(_FIRST)), np.arange(len(_SECOND))])[None]
    training = split.model.training
    split.model.eval()
    try:
        with split.arithmetic():
            packed = decode_packed(split, torch.cat(tokens, dim=1), positions).float()
            alone = torch.cat([split.decode(sequence) for sequence in tokens], dim=1).float()
    except (AttributeError, IndexError, NotImplementedError, TypeError, ValueError):
        return False
    finally:
        split.model.train(training)
    tolerance = 1e-3 if split.dtype == torch.float32 else 3e-2
    return bool((packed - alone).abs().max() <= tolerance * alone.abs().max())


def check_packing(split: SplitModel) -> None:
    """Raise ToolkitError when this architecture cannot keep packed sequences apart."""
    if not keeps_sequences_apart(split):
        raise ToolkitError(
            f"transformers' {type(split.model).__name__} cannot keep packed sequences apart",
            hint="train with data.packing=false: rows are grouped by length then",
        )
