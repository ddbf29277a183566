"""Initial values drawn on the host from (seed, tensor name), so that every framework starts from the same numbers.

A tensor's values depend on its own name alone: neither the order of creation nor the other tensors of the model matter.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def _generator(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def derive_seed(*parts: int) -> int:
    """Return a 63-bit seed that depends on all parts and their order (each a non-negative integer)."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def draw_normal(seed: int, name: str, shape: Sequence[int], std: float) -> NDArray[np.float32]:
    """Return float32 values of `shape` from a normal distribution with mean 0 and standard deviation `std`."""
    values = _generator(seed, name).standard_normal(tuple(shape), dtype=np.float32)
    return values * np.float32(std)


def draw_kaiming_uniform(seed: int, name: str, shape: Sequence[int]) -> NDArray[np.float32]:
    """Return float32 values of `shape` = (out, in), uniform within ±1/√in.

    That is `torch.nn.init.kaiming_uniform_` with a = √5, from which PEFT draws a LoRA's A (its B starts at zero).
    """
    bound = 1.0 / math.sqrt(shape[1])
    values = _generator(seed, name).random(tuple(shape), dtype=np.float32)
    return (2.0 * values - 1.0) * np.float32(bound)
