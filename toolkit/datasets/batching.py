"""Which examples stand in which batch, as a pure function of (seed, update): that is what makes resume exact.

A row is one example, or, packed, as many as fit. Rows of like length are put together, so that little is padded, but
only within windows drawn at random and with the batches shuffled afterwards, so that neither length nor the file's
order decides what is learnt when.
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
_ORDER, _SHUFFLE, _PLACES = 201, 202, 203


def collate(examples: Sequence[TokenizedExample], pad_id: int) -> Batch:
    """Right-pad examples to the longest of them, one example a row; padding is segment 0 with weight 0."""
    return collate_rows([[example] for example in examples], pad_id)


def collate_rows(rows: Sequence[Sequence[TokenizedExample]], pad_id: int) -> Batch:
    """Put each row's examples behind one another (segments 1, 2, …) and right-pad to the longest row."""
    shape = (len(rows), max(sum(len(example.tokens) for example in row) for row in rows))
    tokens = np.full(shape, pad_id, dtype=np.int32)
    loss_weights = np.zeros(shape, dtype=np.float32)
    segment_ids, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    columns = np.arange(shape[1], dtype=np.int32)
    for i, row in enumerate(rows):
        start = 0
        for number, example in enumerate(row, start=1):
            length = len(example.tokens)
            place = slice(start, start + length)
            tokens[i, place], loss_weights[i, place] = example.tokens, example.loss_weights
            segment_ids[i, place], positions[i, place] = number, columns[:length]
            start += length
        positions[i, start:] = columns[: shape[1] - start]
    return Batch(tokens, loss_weights, segment_ids, positions)


def first_fit_decreasing(lengths: NDArray[np.int64], row_tokens: int) -> NDArray[np.int64]:
    """Return the row of each example when, the longest first, each goes into the first row with room for it.

    Needs at most 11/9 of the fewest possible rows, and one more (Dósa 2007, "The tight bound of first fit decreasing").
    Examples of one length fill a row after the other, so a length at a time is placed.

    Args:
        lengths:    tokens of each example, in falling order
        row_tokens: the most that a row may hold, no less than the longest example
    """
    room = np.empty(0, dtype=np.int64)  # of each row that has been opened
    placed = []
    for length, count in zip(*(found[::-1] for found in np.unique(lengths, return_counts=True)), strict=True):
        fits = np.minimum(np.cumsum(room // length), count)  # taken by this row and all before it
        taken = np.diff(fits, prepend=0)
        left = count - int(taken.sum())
        per_row = row_tokens // length
        opened = np.full(-(-left // per_row), per_row, dtype=np.int64)
        opened[-1:] = left - per_row * (len(opened) - 1)
        taken = np.concatenate([taken, opened])
        room = np.concatenate([room, np.full(len(opened), row_tokens, dtype=np.int64)]) - taken * length
        placed.append(np.repeat(np.arange(len(taken)), taken))
    return np.concatenate(placed)


class TrainingData:
    """The micro-batches of every update, for as many epochs as are asked for.

    An epoch shows every example once. Its last update may have fewer micro-batches, and one micro-batch fewer rows;
    they are trained like the others (the loss is weighted by tokens, so their size does not distort it).

    Packed, an epoch's examples are put into rows by `first_fit_decreasing`. How many rows that takes, and which lengths
    share one, follows from the lengths alone, so every epoch has as many updates; which of the examples of one length
    stands where is drawn anew for every epoch.
    """

    def __init__(
        self,
        examples: Sequence[TokenizedExample],
        *,
        batch_size: int,
        accumulation: int,
        seed: int,
        pad_id: int,
        row_tokens: int | None = None,
    ) -> None:
        """Prepare the order; nothing is padded before it is asked for.

        Args:
            examples: what to learn from, at least one.
            batch_size: rows of a micro-batch.
            accumulation: micro-batches of an update.
            seed: draws the order of every epoch.
            pad_id: token in the padding; its value does not matter.
            row_tokens: pack examples into rows of at most so many tokens; None puts each into a row of its own.
        """
        if not examples:
            raise ValueError("TrainingData needs at least one example")
        self._examples = examples
        self._lengths = np.array([len(example.tokens) for example in examples])
        self._batch_size = batch_size
        self._accumulation = accumulation
        self._seed = seed
        self._pad_id = pad_id
        self._row_of_place: NDArray[np.int64] | None = None
        self._row_lengths = self._lengths
        if row_tokens is not None:
            if self._lengths.max() > row_tokens:
                raise ValueError(f"an example is longer than a row of {row_tokens} tokens")
            falling = np.sort(self._lengths)[::-1]
            self._row_of_place = first_fit_decreasing(falling, row_tokens)
            self._row_lengths = np.bincount(self._row_of_place, weights=falling).astype(np.int64)
        self.rows_per_epoch = len(self._row_lengths)
        micro_batches = -(-self.rows_per_epoch // batch_size)
        self.updates_per_epoch = -(-micro_batches // accumulation)
        self._cached: tuple[int, list[list[NDArray[np.int64]]]] = (-1, [])

    def unpacked(self) -> TrainingData:
        """Return the same data with each example in a row of its own."""
        return TrainingData(
            self._examples,
            batch_size=self._batch_size,
            accumulation=self._accumulation,
            seed=self._seed,
            pad_id=self._pad_id,
        )

    @property
    def is_packed(self) -> bool:
        """Whether rows hold as many examples as fit."""
        return self._row_of_place is not None

    @property
    def longest_row(self) -> int:
        """Tokens of the longest row."""
        return int(self._row_lengths.max())

    def update(self, index: int) -> list[Batch]:
        """Return the micro-batches of the update with this 0-based index; the same for the same index, always."""
        return [
            collate_rows([[self._examples[i] for i in row] for row in rows], self._pad_id)
            for rows in self._micro_batches(index)
        ]

    def example_indices(self, index: int) -> list[NDArray[np.int64]]:
        """Return which examples stand in each micro-batch of an update."""
        return [np.concatenate(rows) for rows in self._micro_batches(index)]

    @property
    def padding_share(self) -> float:
        """The part of the first epoch's positions that is padding, from 0 to 1."""
        batches = [self._row_lengths[rows] for rows in self._row_batches(0)]
        positions = sum(int(lengths.max()) * len(lengths) for lengths in batches)
        return 1.0 - float(self._lengths.sum()) / positions

    def _micro_batches(self, index: int) -> list[list[NDArray[np.int64]]]:
        """Return an update's micro-batches as lists of rows; a row is an array of example indices."""
        epoch, position = divmod(index, self.updates_per_epoch)
        if self._cached[0] != epoch:
            rows = self._rows(epoch)
            self._cached = (epoch, [[rows[i] for i in batch] for batch in self._row_batches(epoch)])
        first = position * self._accumulation
        return self._cached[1][first : first + self._accumulation]

    def _rows(self, epoch: int) -> Sequence[NDArray[np.int64]]:
        """Return which examples stand in each row of an epoch."""
        if self._row_of_place is None:
            return list(np.arange(len(self._examples))[:, None])
        order = permutation(len(self._examples), self._seed, _PLACES, epoch)
        # The longest first, the drawn order among equals; then by rows, keeping that.
        order = order[np.argsort(-self._lengths[order], kind="stable")]
        by_row = order[np.argsort(self._row_of_place, kind="stable")]
        return np.split(by_row, np.cumsum(np.bincount(self._row_of_place))[:-1])

    def _row_batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return an epoch's micro-batches as arrays of row numbers, in the order in which they are trained."""
        order = permutation(self.rows_per_epoch, self._seed, _ORDER, epoch)
        # Sort by length inside each window, keeping the drawn order among equals.
        window = np.arange(len(order)) // (self._batch_size * _WINDOW_MICRO_BATCHES)
        order = order[np.lexsort((self._row_lengths[order], window))]
        batches = np.split(order, range(self._batch_size, len(order), self._batch_size))
        return [batches[i] for i in permutation(len(batches), self._seed, _SHUFFLE, epoch)]


def evaluation_batches(examples: Sequence[TokenizedExample], batch_size: int, pad_id: int) -> list[Batch]:
    """Batch examples for measuring: each once in a row of its own, longest together, always in the same order."""
    order = sorted(range(len(examples)), key=lambda index: len(examples[index].tokens))
    return [
        collate([examples[i] for i in order[start : start + batch_size]], pad_id)
        for start in range(0, len(order), batch_size)
    ]
