from __future__ import annotations

import numpy as np
import pytest

from toolkit.initial_values import derive_seed, draw_kaiming_uniform, draw_normal

# Drawn by this module itself when it was written (NumPy 2.4): runs recorded with a seed must stay repeatable.
PINNED_NORMAL = [-0.53286356, 0.41133785, 0.90741151]
PINNED_UNIFORM = [0.31727990, 0.02955354, 0.34162962]


def test_values_depend_on_the_seed_and_the_name():
    one = draw_normal(0, "a.weight", (4, 5), 0.02)
    assert one.dtype == np.float32 and one.shape == (4, 5)
    np.testing.assert_array_equal(one, draw_normal(0, "a.weight", (4, 5), 0.02))
    assert not np.array_equal(one, draw_normal(1, "a.weight", (4, 5), 0.02))
    assert not np.array_equal(one, draw_normal(0, "b.weight", (4, 5), 0.02))


def test_values_are_those_that_earlier_versions_drew():
    np.testing.assert_allclose(draw_normal(0, "a", (3,), 1.0), PINNED_NORMAL, rtol=1e-6)
    np.testing.assert_allclose(draw_kaiming_uniform(0, "a", (1, 3))[0], PINNED_UNIFORM, rtol=1e-6)


def test_distributions_are_those_of_torchs_initialisers():
    torch = pytest.importorskip("torch")
    normal = draw_normal(3, "n", (400, 500), 0.02)
    assert abs(normal.mean()) < 2e-4 and normal.std() == pytest.approx(0.02, rel=0.01)
    uniform = draw_kaiming_uniform(3, "u", (400, 500))
    witness = torch.empty(400, 500)
    torch.nn.init.kaiming_uniform_(witness, a=5**0.5, generator=torch.Generator().manual_seed(0))
    assert uniform.std() == pytest.approx(witness.std().item(), rel=0.01)
    assert np.abs(uniform).max() == pytest.approx(witness.abs().max().item(), rel=1e-3)


def test_derived_seeds_depend_on_every_part_and_on_the_order():
    seeds = {derive_seed(*parts) for parts in ((0, 1), (1, 0), (0, 2), (0,), (0, 1, 0))}
    assert len(seeds) >= 4 and derive_seed(0, 1) == derive_seed(0, 1)
    assert all(0 <= seed < 2**63 for seed in seeds)
