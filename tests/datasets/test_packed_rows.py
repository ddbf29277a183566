"""Packed rows hold whole examples, each once an epoch, as first-fit decreasing puts them, and pad next to nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.datasets.test_batching import PAD, examples
from toolkit.datasets.batching import TrainingData, collate_rows, first_fit_decreasing
from toolkit.datasets.chat import TokenizedExample
from toolkit.protocols import Batch

PINNED = [[0, 6], [7, 1, 8, 9], [2, 5], [4, 3]]  # NumPy 2.4.6
LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=80)


def packed(
    lengths: Sequence[int], row_tokens: int = 40, batch_size: int = 2, accumulation: int = 1, seed: int = 0
) -> TrainingData:
    return TrainingData(
        examples(list(lengths)),
        batch_size=batch_size,
        accumulation=accumulation,
        seed=seed,
        pad_id=PAD,
        row_tokens=row_tokens,
    )


def sequences(batch: Batch) -> list[tuple[int, int]]:
    """Return (example number, length) of every sequence of a batch, after checking its place in the row."""
    found = []
    for tokens, weights, segments, positions in zip(
        batch.tokens, batch.loss_weights, batch.segment_ids, batch.positions, strict=True
    ):
        starts = [0, *(np.flatnonzero(np.diff(segments)) + 1).tolist(), len(segments)]
        for number, (start, end) in enumerate(zip(starts[:-1], starts[1:], strict=True), start=1):
            assert positions[start:end].tolist() == list(range(end - start))
            if segments[start] == 0:  # padding: the end of the row
                assert end == len(segments) and not weights[start:].any() and (tokens[start:] == PAD).all()
                continue
            assert segments[start] == number and len(set(tokens[start:end].tolist())) == 1
            assert weights[start] == 0 and weights[start + 1 : end].all()
            found.append((int(tokens[start]), end - start))
    return found


def epoch_of(training: TrainingData, epoch: int) -> list[list[tuple[int, int]]]:
    """Return the sequences of every micro-batch of an epoch."""
    updates = range(epoch * training.updates_per_epoch, (epoch + 1) * training.updates_per_epoch)
    return [sequences(batch) for index in updates for batch in training.update(index)]


def test_sequences_of_a_row_are_numbered_their_positions_restart_and_padding_is_a_segment_of_its_own() -> None:
    two, three, five = examples([2, 3, 5])
    batch = collate_rows([[two, three], [five]], PAD)
    assert batch.tokens.tolist() == [[0, 0, 1, 1, 1], [2, 2, 2, 2, 2]]
    assert batch.segment_ids.tolist() == [[1, 1, 2, 2, 2], [1, 1, 1, 1, 1]]
    assert batch.positions.tolist() == [[0, 1, 0, 1, 2], [0, 1, 2, 3, 4]]
    assert batch.loss_weights.tolist() == [[0, 1, 0, 1, 1], [0, 1, 1, 1, 1]]
    shorter = collate_rows([[two], [five]], PAD)
    assert shorter.segment_ids.tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]
    assert shorter.positions.tolist() == [[0, 1, 0, 1, 2], [0, 1, 2, 3, 4]]
    assert (shorter.trained_weight, shorter.token_count) == (5.0, 7)


@settings(max_examples=80, deadline=None)
@given(lengths=LENGTHS, batch_size=st.integers(1, 5), accumulation=st.integers(1, 3), epoch=st.integers(0, 3))
@example(lengths=[7], batch_size=5, accumulation=3, epoch=2)
@example(lengths=[40, 40, 40], batch_size=8, accumulation=1, epoch=0)
def test_every_epoch_shows_every_whole_example_once_in_rows_that_hold_no_more_than_they_may(
    lengths: list[int], batch_size: int, accumulation: int, epoch: int
) -> None:
    training = packed(lengths, 40, batch_size, accumulation)
    micro_batches = epoch_of(training, epoch)
    assert sorted(pair for batch in micro_batches for pair in batch) == list(enumerate(lengths))
    batches = [batch for index in range(training.updates_per_epoch) for batch in training.update(index)]
    assert all(batch.tokens.shape[1] <= 40 and batch.tokens.shape[0] <= batch_size for batch in batches)
    assert sum(batch.tokens.shape[0] for batch in batches) == training.rows_per_epoch
    assert len(batches) == -(-training.rows_per_epoch // batch_size)
    assert training.updates_per_epoch == -(-len(batches) // accumulation)
    assert max(batch.tokens.shape[1] for batch in batches) == training.longest_row


@settings(max_examples=150, deadline=None)
@given(lengths=LENGTHS, room=st.integers(0, 60))
def test_rows_are_those_of_first_fit_decreasing_done_one_by_one(lengths: list[int], room: int) -> None:
    falling = np.sort(np.array(lengths))[::-1]
    row_tokens = max(lengths) + room
    free: list[int] = []
    expected = []
    for length in falling.tolist():
        row = next((number for number, left in enumerate(free) if left >= length), len(free))
        if row == len(free):
            free.append(row_tokens)
        free[row] -= length
        expected.append(row)
    assert first_fit_decreasing(falling, row_tokens).tolist() == expected


@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 3), indices=st.lists(st.integers(0, 60), min_size=1, max_size=6))
def test_a_packed_update_depends_on_seed_and_index_alone(lengths: list[int], seed: int, indices: list[int]) -> None:
    training = packed(lengths, seed=seed, accumulation=2)
    for index in indices:
        for asked, fresh in zip(
            training.update(index), packed(lengths, seed=seed, accumulation=2).update(index), strict=True
        ):
            np.testing.assert_array_equal(asked.tokens, fresh.tokens)
            np.testing.assert_array_equal(asked.segment_ids, fresh.segment_ids)


def test_epochs_and_seeds_differ_in_who_shares_a_row_and_in_the_order_of_rows() -> None:
    lengths = [3, 5, 8, 9] * 30

    def rows(training: TrainingData, epoch: int) -> list[frozenset[int]]:
        return [frozenset(number for number, _ in row) for row in epoch_of(training, epoch)]

    first, second = rows(packed(lengths, batch_size=1), 0), rows(packed(lengths, batch_size=1), 1)
    other = rows(packed(lengths, batch_size=1, seed=1), 0)
    assert len(first) == len(second) == len(other)
    assert len(set(first) & set(second)) < 3 and len(set(first) & set(other)) < 3


def test_a_packed_order_is_pinned_so_that_a_run_resumes_after_an_upgrade() -> None:
    training = packed([9, 3, 14, 5, 11, 2, 7, 6, 3, 3], 16, batch_size=1)
    assert [[number for number, _ in row] for row in epoch_of(training, 1)] == PINNED


@pytest.mark.parametrize("spread", [(10, 400), (20, 60), (100, 2000)])
def test_packing_pads_less_than_length_buckets(spread: tuple[int, int]) -> None:
    lengths = np.random.default_rng(0).integers(*spread, 4000).tolist()
    training = packed(lengths, 2048, batch_size=4)
    buckets = training.unpacked()
    assert training.is_packed and not buckets.is_packed and buckets.updates_per_epoch == 1000
    assert training.padding_share < min(buckets.padding_share, 0.005)
    batches = [batch for index in range(training.updates_per_epoch) for batch in training.update(index)]
    positions = sum(batch.tokens.size for batch in batches)
    assert training.padding_share == pytest.approx(1 - sum(lengths) / positions)


def test_a_single_example_and_a_batch_larger_than_all_rows_are_one_batch() -> None:
    alone = packed([7], 2048, batch_size=64, accumulation=4)
    assert (alone.updates_per_epoch, alone.rows_per_epoch) == (1, 1)
    (batch,) = alone.update(5)
    assert batch.tokens.shape == (1, 7)
    (few,) = packed([7, 9, 4], 12, batch_size=64, accumulation=4).update(0)
    assert few.tokens.shape == (2, 11)


def test_packing_a_hundred_thousand_examples_takes_about_a_second() -> None:
    row = [TokenizedExample(np.ones(n, np.int32), np.ones(n, np.float32)) for n in range(10, 1510)]
    drawn = np.random.default_rng(0).integers(0, 1500, 100_000)
    start = time.process_time()
    training = TrainingData([row[i] for i in drawn], batch_size=8, accumulation=1, seed=0, pad_id=PAD, row_tokens=2048)
    training.update(0)
    training.update(training.updates_per_epoch)
    assert time.process_time() - start < 2.0


def test_an_example_longer_than_a_row_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="longer than a row of 10 tokens"):
        packed([11], 10)
