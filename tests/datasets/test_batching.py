"""Order is a pure function of (seed, update); nothing is lost, little is padded."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from toolkit.datasets.batching import TrainingData, collate, evaluation_batches
from toolkit.datasets.chat import TokenizedExample
from toolkit.datasets.randomness import permutation

PAD = 999
PINNED = [7, 4, 5, 1, 9, 8, 6, 2, 0, 3]  # permutation(10, 0, 1), NumPy 2.4.6


def examples(lengths: list[int]) -> list[TokenizedExample]:
    """Build examples whose tokens all carry their number, trained from the second token on."""
    made = []
    for number, length in enumerate(lengths):
        weights = np.ones(length, dtype=np.float32)
        weights[0] = 0
        made.append(TokenizedExample(np.full(length, number, dtype=np.int32), weights))
    return made


def data(lengths: list[int], batch_size: int = 4, accumulation: int = 1, seed: int = 0) -> TrainingData:
    return TrainingData(examples(lengths), batch_size=batch_size, accumulation=accumulation, seed=seed, pad_id=PAD)


def epoch_of(training: TrainingData, epoch: int) -> list[int]:
    """Return the example numbers of an epoch in training order."""
    first = epoch * training.updates_per_epoch
    updates = range(first, first + training.updates_per_epoch)
    return [int(row[0]) for index in updates for batch in training.update(index) for row in batch.tokens]


def test_padding_is_its_own_segment_with_weight_zero_and_restarting_positions() -> None:
    batch = collate(examples([2, 4]), PAD)
    assert batch.tokens.tolist() == [[0, 0, PAD, PAD], [1, 1, 1, 1]]
    assert batch.loss_weights.tolist() == [[0, 1, 0, 0], [0, 1, 1, 1]]
    assert batch.segment_ids.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch.positions.tolist() == [[0, 1, 0, 1], [0, 1, 2, 3]]
    assert (batch.trained_weight, batch.token_count) == (4.0, 6)
    assert {a.dtype for a in (batch.tokens, batch.segment_ids, batch.positions)} == {np.dtype(np.int32)}
    assert batch.loss_weights.dtype == np.float32


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(2, 30), min_size=1, max_size=80),
    batch_size=st.integers(1, 9),
    accumulation=st.integers(1, 4),
    epoch=st.integers(0, 3),
)
@example(lengths=[5] * 10, batch_size=4, accumulation=1, epoch=0)
@example(lengths=[5] * 9, batch_size=2, accumulation=3, epoch=1)
def test_every_epoch_shows_every_example_once_trailing_batches_included(
    lengths: list[int], batch_size: int, accumulation: int, epoch: int
) -> None:
    training = data(lengths, batch_size, accumulation)
    assert sorted(epoch_of(training, epoch)) == list(range(len(lengths)))
    micro_batches = -(-len(lengths) // batch_size)
    assert training.updates_per_epoch == -(-micro_batches // accumulation)
    assert len(training.update(0)) == min(accumulation, micro_batches)


def test_an_update_is_the_same_whatever_was_asked_before() -> None:
    lengths = [3 + i % 17 for i in range(100)]
    asked_in_order = data(lengths, 4, 2)
    for index in range(20):
        asked_in_order.update(index)
    fresh = data(lengths, 4, 2)
    for index in (19, 0, 13, 19):
        first, second = asked_in_order.update(index), fresh.update(index)
        assert all(np.array_equal(a.tokens, b.tokens) for a, b in zip(first, second, strict=True))


def test_epochs_and_seeds_differ_in_order() -> None:
    lengths = [5] * 64
    training = data(lengths)
    assert epoch_of(training, 0) != epoch_of(training, 1)
    assert epoch_of(training, 0) != epoch_of(data(lengths, seed=1), 0)


def test_orders_are_pinned_so_that_a_run_resumes_after_an_upgrade() -> None:
    assert permutation(10, 0, 1).tolist() == PINNED
    code = "from toolkit.datasets.randomness import permutation; print(permutation(10, 0, 1).tolist())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(PINNED)


def test_like_lengths_share_a_batch_so_that_little_is_padded() -> None:
    lengths = np.random.default_rng(0).integers(10, 400, 2000).tolist()
    training = data(lengths, 8)
    positions = sum(b.tokens.size for i in range(training.updates_per_epoch) for b in training.update(i))
    assert training.padding_share == pytest.approx(1 - sum(lengths) / positions)
    assert training.padding_share < 0.06
    at_random = 1 - sum(lengths) / sum(max(lengths[i : i + 8]) * 8 for i in range(0, 2000, 8))
    assert at_random > 0.35


def test_length_does_not_decide_when_an_example_is_trained() -> None:
    lengths = np.random.default_rng(1).integers(10, 400, 4000).tolist()
    order = epoch_of(data(lengths, 8), 0)
    halves = np.array([lengths[i] for i in order]).reshape(2, -1).mean(axis=1)
    assert abs(halves[0] - halves[1]) < 20
    assert abs(np.corrcoef(np.arange(4000), order)[0, 1]) < 0.05


def test_batches_of_one_length_are_not_the_same_in_every_epoch() -> None:
    lengths = np.random.default_rng(2).permutation(np.arange(10, 1010)).tolist()
    training = data(lengths, 4)

    def groups(epoch: int) -> set[frozenset[int]]:
        order = epoch_of(training, epoch)
        return {frozenset(order[i : i + 4]) for i in range(0, len(order), 4)}

    assert len(groups(0) & groups(1)) < 25


def test_evaluation_batches_show_every_example_once_in_a_fixed_order() -> None:
    made = examples([7, 3, 9, 3, 5])
    batches = evaluation_batches(made, 2, PAD)
    assert [batch.tokens.shape for batch in batches] == [(2, 3), (2, 7), (1, 9)]
    assert [int(row[0]) for batch in batches for row in batch.tokens] == [1, 3, 4, 0, 2]
    assert evaluation_batches([], 2, PAD) == []


def test_ordering_a_hundred_thousand_examples_takes_well_under_a_second() -> None:
    row = TokenizedExample(np.ones(20, dtype=np.int32), np.ones(20, dtype=np.float32))
    training = TrainingData([row] * 100_000, batch_size=8, accumulation=1, seed=0, pad_id=PAD)
    start = time.process_time()
    training.update(0)
    training.update(training.updates_per_epoch)
    assert time.process_time() - start < 1.0


def test_no_examples_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="at least one example"):
        data([])
