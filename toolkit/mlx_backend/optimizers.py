"""AdamW and SGD with float32 moments, clipping, and a state that is filled in place.

The update rules are `mlx.optimizers.AdamW` (Loshchilov & Hutter 2019, arXiv:1711.05101), with bias correction, which is
off in MLX by default, and `mlx.optimizers.SGD`.
"""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import numpy as np
from mlx.optimizers import SGD, AdamW

from toolkit.errors import Problem, ToolkitError
from toolkit.mlx_backend.model import Parameter, from_stored, stored
from toolkit.protocols import OptimizerSpec
from toolkit.tensor_files import StoredTensor

# What mlx.optimizers calls the moments.
_MLX_NAMES = {"exp_avg": "m", "exp_avg_sq": "v", "momentum": "v"}


class Optimizer:
    """Updates named parameters; keeps its moments under the parameters' checkpoint names."""

    def __init__(self, parameters: Mapping[str, Parameter], spec: OptimizerSpec) -> None:
        """Set up zero moments for every parameter (all float32)."""
        self.parameters = dict(parameters)
        self.spec = spec
        self._rules = {decays: _update_rule(spec, spec.weight_decay if decays else 0.0) for decays in (True, False)}
        self._moments = {
            name: {_MLX_NAMES[moment]: mx.zeros_like(parameter.value) for moment in spec.moments}
            for name, parameter in self.parameters.items()
        }
        self._updates = mx.array(0, mx.uint64)

    def step(self, learning_rate: float, loss: mx.array | None = None) -> mx.array:
        """Clip, update and clear the gradients; return their norm before clipping, a scalar on the device.

        An update whose gradient or `loss` (a scalar on the device) is not finite is skipped on the device: weights,
        moments and counter stay as they were.
        """
        gradients = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        norm = mx.sqrt(sum((mx.square(gradient).sum() for gradient in gradients.values()), mx.zeros(())))
        finite = mx.isfinite(norm if loss is None else norm + loss)  # infinite or NaN when either is
        scale = mx.minimum(self.spec.max_grad_norm / (norm + 1e-6), 1.0)
        for rule in self._rules.values():
            rule.state["learning_rate"] = mx.array(learning_rate)
            rule.state["step"] = self._updates + 1
        for name, gradient in gradients.items():
            parameter, moments = self.parameters[name], self._moments[name]
            fresh = dict(moments)
            rule = self._rules[parameter.value.ndim >= 2]
            value = rule.apply_single(gradient * scale, parameter.value, fresh)
            parameter.value = mx.where(finite, value, parameter.value)
            moments.update({moment: mx.where(finite, fresh[moment], held) for moment, held in moments.items()})
            parameter.grad = None
        self._updates = self._updates + finite.astype(mx.uint64)
        mx.async_eval([p.value for p in self.parameters.values()], self._moments, self._updates, norm)
        return norm

    @property
    def updates(self) -> int:
        """Updates applied so far, skipped ones not counted (waits for the device)."""
        return int(np.array(self._updates))

    def moments(self) -> dict[str, StoredTensor]:
        """Copy the moments out as `<weight name>.<moment>`, those of `OptimizerSpec.moments`."""
        return {name: stored(name, slot.value) for name, slot in self._slots().items()}

    def restore(self, moments: Mapping[str, StoredTensor], updates: int) -> None:
        """Fill moments and step counters in place.

        Raises:
            ToolkitError: names or shapes differ.
        """
        fill(self._slots(), moments, "optimizer state")
        self._updates = mx.array(updates, mx.uint64)

    def _slots(self) -> dict[str, Parameter]:
        return {
            f"{name}.{moment}": Parameter(self._moments[name], _MLX_NAMES[moment])
            for name in self.parameters
            for moment in self.spec.moments
        }


def _update_rule(spec: OptimizerSpec, weight_decay: float) -> AdamW | SGD:
    if spec.name == "sgd":
        return SGD(learning_rate=0.0, momentum=spec.momentum, weight_decay=weight_decay)
    return AdamW(
        learning_rate=0.0,
        betas=[spec.beta1, spec.beta2],
        eps=spec.epsilon,
        weight_decay=weight_decay,
        bias_correction=True,
    )


def fill(
    targets: Mapping[str, Parameter], values: Mapping[str, StoredTensor], what: str, *, partly: bool = False
) -> None:
    """Copy stored values into arrays in place; with `partly` some targets may keep theirs.

    Raises:
        ToolkitError: a name is missing or unknown, or a shape differs; nothing has been written then.
    """
    missing = [] if partly else sorted(set(targets) - set(values))
    problems = [Problem(f"{what} lacks {name}") for name in missing]
    problems += [
        Problem(f"{what} has {name}, which this model does not train") for name in sorted(set(values) - set(targets))
    ]
    for name in sorted(set(targets) & set(values)):
        have, want = tuple(values[name].array.shape), tuple(targets[name].value.shape)
        if have != want:
            problems.append(Problem(f"{what}: {name} has shape {have}, the model needs {want}"))
    if problems:
        raise ToolkitError.gather(problems[:10])
    for name, value in values.items():
        targets[name].value = from_stored(value).astype(targets[name].value.dtype)
