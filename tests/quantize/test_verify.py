"""Comparing predictions: figures against plain NumPy, and nothing broken that passes."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.quantize.plan import QUANT_TYPES, quant_types
from toolkit.quantize.verify import MAX_LOGIT_DIFFERENCE, compare

ROWS = [[3, 1, 4, 1], [5, 2]]


def logits(seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(size=(len(row), 8)).astype(np.float32) for row in ROWS]


def test_a_model_equals_itself():
    outcome = compare(logits(0), logits(0), ROWS)
    assert outcome.positions == 6
    assert (outcome.max_difference, outcome.mean_kl, outcome.top1, outcome.perplexity_ratio) == (0, 0, 1, 1)


def test_the_figures_are_those_of_their_definitions():
    theirs, ours = logits(0), logits(1)
    outcome = compare(theirs, ours, ROWS)

    def softmax(scores: np.ndarray) -> np.ndarray:
        return np.exp(scores.astype(np.float64)) / np.exp(scores.astype(np.float64)).sum(axis=1, keepdims=True)

    p, q = (np.concatenate([softmax(row) for row in side]) for side in (theirs, ours))
    divergence = (p * np.log(p / q)).sum(axis=1)
    assert outcome.mean_kl == pytest.approx(divergence.mean())
    assert outcome.p99_kl == pytest.approx(np.quantile(divergence, 0.99))
    assert outcome.top1 == pytest.approx((p.argmax(axis=1) == q.argmax(axis=1)).mean())
    followed = [(0, 1), (1, 4), (2, 1), (4, 2)]
    losses = [np.log(p[place, token] / q[place, token]) for place, token in followed]
    assert outcome.perplexity_ratio == pytest.approx(np.exp(np.mean(losses)))


def test_predictions_that_are_not_numbers_pass_no_gate():
    broken = logits(0)
    broken[1][0, 3] = np.nan
    outcome = compare(logits(0), broken, ROWS)
    assert outcome.max_difference > MAX_LOGIT_DIFFERENCE
    assert all(outcome.mean_kl > kind.kl_limit for kind in QUANT_TYPES.values())


def test_columns_that_only_one_side_has_are_padding():
    wider = [np.pad(row, ((0, 0), (0, 3)), constant_values=9) for row in logits(0)]
    assert compare(logits(0), wider, ROWS).max_difference == 0


def test_types_are_found_whatever_their_case():
    assert quant_types("q4_k_m") == (QUANT_TYPES["Q4_K_M"],)
