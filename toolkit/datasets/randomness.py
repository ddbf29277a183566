"""Permutations that depend on their seeds alone.

`numpy.random.Generator.permutation` may give another order in another NumPy; the raw 64-bit stream of a bit generator
and `SeedSequence` are covered by NumPy's compatibility promise (NEP 19), so orders are made from those.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def permutation(count: int, *seeds: int) -> NDArray[np.int64]:
    """Return the numbers 0 … count-1 in an order drawn from `seeds`, the same on every machine and NumPy version."""
    stream = np.random.PCG64(np.random.SeedSequence(seeds))
    return np.argsort(stream.random_raw(count), kind="stable").astype(np.int64)
