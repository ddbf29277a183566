"""A stand-in for the embedding model: words and character n-grams, hashed into 384 dimensions. No torch, no download.

Texts that share words, or parts of words, are similar to each other; texts that share none are not. It knows no
meaning: what needs meaning is tested with the real model, marked slow.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class StandInEmbedder:
    """Deterministic embeddings (n, 384), L2-normalised, the same in every process."""

    name = "stand-in"
    dimension = 384
    max_tokens = 256

    def __init__(self, name: str = "stand-in", dimension: int = 384) -> None:
        self.name = name
        self.dimension = dimension
        self.calls: list[list[str]] = []

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.calls.append(list(texts))
        return np.stack([self._vector(text) for text in texts]) if texts else np.zeros((0, self.dimension), np.float32)

    def count_tokens(self, text: str) -> int:
        return len(re.findall(r"\w+|[^\w\s]", text)) + 2

    def _vector(self, text: str) -> NDArray[np.float32]:
        vector = np.zeros(self.dimension, np.float32)
        for word in re.findall(r"\w+", text.lower()):
            marked = f"<{word}>"
            grams = {marked[i : i + 3] for i in range(len(marked) - 2)}
            for piece, weight in [(marked, 1.0), *((gram, 0.3) for gram in sorted(grams))]:
                digest = hashlib.blake2b(piece.encode(), digest_size=8).digest()
                slot = int.from_bytes(digest[:4], "little") % self.dimension
                vector[slot] += weight if digest[4] & 1 else -weight
        length = float(np.linalg.norm(vector))
        if length == 0.0:
            vector[0] = length = 1.0
        return vector / length
