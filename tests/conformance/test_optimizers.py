from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from toolkit.errors import ToolkitError
from toolkit.protocols import OptimizerSpec

SPEC = OptimizerSpec(weight_decay=0.1, beta1=0.8, beta2=0.95, max_grad_norm=0.5)
SGD = OptimizerSpec("sgd", momentum=0.8, weight_decay=0.1, max_grad_norm=0.5)
PLAIN_SGD = OptimizerSpec("sgd", momentum=0.0, weight_decay=0.1, max_grad_norm=0.5)
each_rule = pytest.mark.parametrize("spec", [SPEC, SGD, PLAIN_SGD], ids=["adamw", "sgd", "sgd without momentum"])


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"layer.weight": (3, 4), "norm.weight": (4,)}
    return {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}


def parameters(kit) -> dict[str, Any]:
    return {name: kit.parameter(array) for name, array in arrays().items()}


def draw_gradients(seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1000 + seed)
    return {name: (scale * rng.standard_normal(a.shape)).astype(np.float32) for name, a in arrays().items()}


def give_gradients(kit, to: dict[str, Any], seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    gradients = draw_gradients(seed, scale)
    for name, parameter in to.items():
        parameter.grad = kit.array(gradients[name].copy())
    return gradients


def adamw_by_hand(steps: int, rates: list[float]) -> dict[str, np.ndarray]:
    """The paper's algorithm in float64, decay on the matrix alone, gradients clipped by their common norm."""
    weights = {name: array.astype(np.float64) for name, array in arrays().items()}
    first = {name: np.zeros_like(w) for name, w in weights.items()}
    second = {name: np.zeros_like(w) for name, w in weights.items()}
    for step in range(1, steps + 1):
        gradients = draw_gradients(step)
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients.values()))
        for name, w in weights.items():
            g = gradients[name] * min(1.0, SPEC.max_grad_norm / (norm + 1e-6))
            decay = SPEC.weight_decay if w.ndim == 2 else 0.0
            first[name] = SPEC.beta1 * first[name] + (1 - SPEC.beta1) * g
            second[name] = SPEC.beta2 * second[name] + (1 - SPEC.beta2) * g**2
            m = first[name] / (1 - SPEC.beta1**step)
            v = second[name] / (1 - SPEC.beta2**step)
            weights[name] = w * (1 - rates[step - 1] * decay) - rates[step - 1] * m / (np.sqrt(v) + SPEC.epsilon)
    return weights


def test_updates_equal_adamw_in_float64_with_clipping_and_decay_on_matrices_only(kit):
    rates = [0.1, 0.05, 0.2, 0.01]
    ours = parameters(kit)
    optimizer = kit.optimizers.Optimizer(ours, SPEC)
    for step, rate in enumerate(rates, start=1):
        give_gradients(kit, ours, step)
        optimizer.step(rate)
    for name, expected in adamw_by_hand(4, rates).items():
        np.testing.assert_allclose(kit.value(ours[name]), expected, rtol=2e-5, atol=2e-6, err_msg=name)


def sgd_by_hand(spec: OptimizerSpec, rates: list[float]) -> dict[str, np.ndarray]:
    """SGD in float64: clip by the common norm, add the decay of matrices, then momentum (Sutskever et al. 2013)."""
    weights = {name: array.astype(np.float64) for name, array in arrays().items()}
    velocity = {name: np.zeros_like(w) for name, w in weights.items()}
    for step, rate in enumerate(rates, start=1):
        gradients = draw_gradients(step)
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients.values()))
        for name, w in weights.items():
            g = gradients[name] * min(1.0, spec.max_grad_norm / (norm + 1e-6))
            g = g + (spec.weight_decay if w.ndim == 2 else 0.0) * w
            velocity[name] = spec.momentum * velocity[name] + g
            weights[name] = w - rate * velocity[name]
    return weights


def sgd_of_torch(spec: OptimizerSpec, rates: list[float]) -> dict[str, np.ndarray]:
    weights = {name: torch.nn.Parameter(torch.from_numpy(array).double()) for name, array in arrays().items()}
    groups = [
        {"params": [weights["layer.weight"]], "weight_decay": spec.weight_decay},
        {"params": [weights["norm.weight"]], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=spec.momentum, foreach=False, fused=False)
    for step, rate in enumerate(rates, start=1):
        for name, gradient in draw_gradients(step).items():
            weights[name].grad = torch.from_numpy(gradient).double()
        torch.nn.utils.clip_grad_norm_(weights.values(), spec.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    return {name: weight.detach().numpy() for name, weight in weights.items()}


@pytest.mark.parametrize("spec", [SGD, PLAIN_SGD], ids=["momentum", "plain"])
def test_updates_equal_sgd_by_hand_and_torchs_with_clipping_and_decay_on_matrices_only(kit, spec):
    rates = [0.1, 0.05, 0.2, 0.01]
    ours = parameters(kit)
    optimizer = kit.optimizers.Optimizer(ours, spec)
    for step, rate in enumerate(rates, start=1):
        give_gradients(kit, ours, step)
        optimizer.step(rate)
    assert optimizer.updates == 4
    by_hand, of_torch = sgd_by_hand(spec, rates), sgd_of_torch(spec, rates)
    for name, expected in by_hand.items():
        np.testing.assert_allclose(of_torch[name], expected, rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(kit.value(ours[name]), expected, rtol=2e-6, atol=2e-7, err_msg=name)


def test_the_norm_is_reported_as_it_was_before_clipping(kit):
    ours = parameters(kit)
    gradients = give_gradients(kit, ours, 1, scale=10)
    expected = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    assert kit.optimizers.Optimizer(ours, SPEC).step(0.1).item() == pytest.approx(expected, rel=1e-6)


@each_rule
@pytest.mark.parametrize("fault", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_leaves_weights_moments_and_counter_alone(kit, fault, spec):
    ours = parameters(kit)
    optimizer = kit.optimizers.Optimizer(ours, spec)
    give_gradients(kit, ours, 1)
    optimizer.step(0.1)
    weights = {name: kit.value(p).copy() for name, p in ours.items()}
    moments = optimizer.moments()
    give_gradients(kit, ours, 2)
    ours["norm.weight"].grad[1] = fault
    optimizer.step(0.1)
    assert optimizer.updates == 1
    assert all(np.array_equal(kit.value(ours[name]), weight) for name, weight in weights.items())
    for name, tensor in optimizer.moments().items():
        np.testing.assert_array_equal(tensor.array, moments[name].array, err_msg=name)


@pytest.mark.parametrize("fault", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_skips_an_update_whose_gradient_is(kit, fault):
    ours = parameters(kit)
    optimizer = kit.optimizers.Optimizer(ours, SPEC)
    weights = {name: kit.value(p).copy() for name, p in ours.items()}
    give_gradients(kit, ours, 1)
    norm = optimizer.step(0.1, kit.array(np.array(fault, np.float32)))
    assert np.isfinite(norm.item()) and optimizer.updates == 0
    assert all(np.array_equal(kit.value(ours[name]), weight) for name, weight in weights.items())
    give_gradients(kit, ours, 1)
    optimizer.step(0.1, kit.array(np.array(2.0, np.float32)))
    assert optimizer.updates == 1


@each_rule
def test_moments_are_named_after_their_weights_and_fill_a_fresh_optimizer_exactly(kit, spec):
    ours, others = parameters(kit), parameters(kit)
    first, second = kit.optimizers.Optimizer(ours, spec), kit.optimizers.Optimizer(others, spec)
    for step in range(3):
        give_gradients(kit, ours, step)
        first.step(0.1)
    moments = first.moments()
    kinds = {SPEC: ("exp_avg", "exp_avg_sq"), SGD: ("momentum",), PLAIN_SGD: ()}[spec]
    assert set(moments) == {f"{name}.{kind}" for name in ours for kind in kinds}
    assert all(tensor.array.any() for tensor in moments.values())
    second.restore(moments, first.updates)
    for name, parameter in others.items():
        kit.put(parameter, kit.value(ours[name]))
    for some, optimizer in ((ours, first), (others, second)):
        give_gradients(kit, some, 9)
        optimizer.step(0.05)
    assert second.updates == 4
    assert all(np.array_equal(kit.value(ours[name]), kit.value(others[name])) for name in ours)


def test_the_state_of_another_rule_is_refused(kit):
    ours = parameters(kit)
    of_adamw = kit.optimizers.Optimizer(ours, SPEC).moments()
    with pytest.raises(ToolkitError, match=r"optimizer state lacks layer\.weight\.momentum"):
        kit.optimizers.Optimizer(ours, SGD).restore(of_adamw, 1)


def test_a_state_that_does_not_fit_is_refused_with_every_fault_and_nothing_is_written(kit):
    ours = parameters(kit)
    optimizer = kit.optimizers.Optimizer(ours, SPEC)
    moments = kit.optimizers.Optimizer(ours, SPEC).moments()
    full = {name: replace(tensor, array=np.ones_like(tensor.array)) for name, tensor in moments.items()}
    del full["norm.weight.exp_avg"]
    full["other.exp_avg"] = full["layer.weight.exp_avg"]
    full["layer.weight.exp_avg_sq"] = replace(full["layer.weight.exp_avg_sq"], array=np.ones((4, 3), np.float32))
    with pytest.raises(ToolkitError) as error:
        optimizer.restore(full, 3)
    assert [str(problem) for problem in error.value.problems] == [
        "optimizer state lacks norm.weight.exp_avg",
        "optimizer state has other.exp_avg, which this model does not train",
        "optimizer state: layer.weight.exp_avg_sq has shape (4, 3), the model needs (3, 4)",
    ]
    assert not optimizer.moments()["layer.weight.exp_avg"].array.any()
