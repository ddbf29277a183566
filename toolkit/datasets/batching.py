"""Which examples stand in which batch, as a pure function of (seed, update): that is what makes resume exact.

Examples of like length are put together, so that little is padded, but only within windows drawn at random and with the
batches shuffled afterwards, so that neither length nor the file's order decides what is learnt when.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from toolkit.datasets.chat import TokenizedExample
from toolkit.datasets.randomness import permutation
from toolkit.protocols import Batch

# Micro-batches that are sorted by length together: more pads less, fewer mixes better.
_WINDOW_MICRO_BATCHES = 32
# One number each, so that the draws do not depend on one another.
_ORDER, _SHUFFLE = 201, 202


def collate(examples: Sequence[TokenizedExample], pad_id: int) -> Batch:
    """Right-pad examples to the longest of them, one example a row; padding is segment 0 with weight 0."""
    lengths = np.array([len(example.tokens) for example in examples])
    shape = (len(examples), int(lengths.max()))
    tokens = np.full(shape, pad_id, dtype=np.int32)
    loss_weights = np.zeros(shape, dtype=np.float32)
    for row, example in enumerate(examples):
        tokens[row, : lengths[row]] = example.tokens
        loss_weights[row, : lengths[row]] = example.loss_weights
    columns = np.arange(shape[1], dtype=np.int32)
    real = columns < lengths[:, None]
    positions = np.where(real, columns, columns - lengths[:, None]).astype(np.int32)
    return Batch(tokens, loss_weights, real.astype(np.int32), positions)


class TrainingData:
    """The micro-batches of every update, for as many epochs as are asked for.

    An epoch shows every example once. Its last update may have fewer micro-batches, and one micro-batch fewer rows;
    they are trained like the others (the loss is weighted by tokens, so their size does not distort it).
    """

    def __init__(
        self, examples: Sequence[TokenizedExample], *, batch_size: int, accumulation: int, seed: int, pad_id: int
    ) -> None:
        """Prepare the order; nothing is padded before it is asked for.

        Args:
            examples: what to learn from, at least one.
            batch_size: rows of a micro-batch.
            accumulation: micro-batches of an update.
            seed: draws the order of every epoch.
            pad_id: token in the padding; its value does not matter.
        """
        if not examples:
            raise ValueError("TrainingData needs at least one example")
        self._examples = examples
        self._lengths = np.array([len(example.tokens) for example in examples])
        self._batch_size = batch_size
        self._accumulation = accumulation
        self._seed = seed
        self._pad_id = pad_id
        self._micro_batches = -(-len(examples) // batch_size)
        self.updates_per_epoch = -(-self._micro_batches // accumulation)
        self._cached: tuple[int, list[NDArray[np.int64]]] = (-1, [])

    def update(self, index: int) -> list[Batch]:
        """Return the micro-batches of the update with this 0-based index; the same for the same index, always."""
        return [collate([self._examples[i] for i in rows], self._pad_id) for rows in self.example_indices(index)]

    def example_indices(self, index: int) -> list[NDArray[np.int64]]:
        """Return which examples stand in each micro-batch of an update."""
        epoch, position = divmod(index, self.updates_per_epoch)
        if self._cached[0] != epoch:
            self._cached = (epoch, self._epoch(epoch))
        first = position * self._accumulation
        return self._cached[1][first : first + self._accumulation]

    @property
    def padding_share(self) -> float:
        """The part of the first epoch's positions that is padding, from 0 to 1."""
        rows = [self._lengths[batch] for batch in self._epoch(0)]
        padded = sum(int(lengths.max()) * len(lengths) for lengths in rows)
        return 1.0 - float(self._lengths.sum()) / padded

    def _epoch(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return an epoch's micro-batches as arrays of example indices, in the order in which they are trained."""
        order = permutation(len(self._examples), self._seed, _ORDER, epoch)
        # Sort by length inside each window, keeping the drawn order among equals.
        window = np.arange(len(order)) // (self._batch_size * _WINDOW_MICRO_BATCHES)
        order = order[np.lexsort((self._lengths[order], window))]
        batches = np.split(order, range(self._batch_size, len(order), self._batch_size))
        return [batches[i] for i in permutation(len(batches), self._seed, _SHUFFLE, epoch)]


def evaluation_batches(examples: Sequence[TokenizedExample], batch_size: int, pad_id: int) -> list[Batch]:
    """Batch examples for measuring: each once, longest together, always in the same order."""
    order = sorted(range(len(examples)), key=lambda index: len(examples[index].tokens))
    return [
        collate([examples[i] for i in order[start : start + batch_size]], pad_id)
        for start in range(0, len(order), batch_size)
    ]
