"""Sequences packed into one row: tell such rows, and keep their sequences apart."""

from __future__ import annotations

import numpy as np

from toolkit.protocols import Batch


def one_segment_per_row(batch: Batch) -> bool:
    """Tell whether every row is one sequence, padded on the right or not at all."""
    changes = (batch.segment_ids[:, 1:] != batch.segment_ids[:, :-1]).sum(axis=1)
    return bool(np.all((changes == 0) | ((changes == 1) & (batch.segment_ids[:, -1] == 0))))
