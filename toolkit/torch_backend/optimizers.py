"""AdamW and SGD with float32 moments, clipping, and a state that is filled in place.

The update rules are `torch.optim.AdamW` (Loshchilov & Hutter 2019, arXiv:1711.05101) and `torch.optim.SGD`, fused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.errors import Problem, ToolkitError
from toolkit.protocols import OptimizerSpec
from toolkit.tensor_files import StoredTensor
from toolkit.torch_backend.model import from_stored, stored

# What torch.optim calls the moments that have another name on disk.
_TORCH_NAMES = {"momentum": "momentum_buffer"}


class Optimizer:
    """Updates named parameters; keeps its moments under the parameters' checkpoint names."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], spec: OptimizerSpec) -> None:
        """Set up zero moments for every parameter (all float32)."""
        self.parameters = dict(parameters)
        self.spec = spec
        everything = list(self.parameters.values())
        groups = [
            {"params": [p for p in everything if p.ndim >= 2], "weight_decay": spec.weight_decay},
            {"params": [p for p in everything if p.ndim < 2], "weight_decay": 0.0},
        ]
        self._rule = _update_rule([group for group in groups if group["params"]], spec)
        self._updates = torch.zeros((), dtype=torch.int64, device=everything[0].device)
        for parameter in everything:
            state = {_TORCH_NAMES.get(moment, moment): torch.zeros_like(parameter) for moment in spec.moments}
            if spec.name == "adamw":
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            self._rule.state[parameter] = state

    def step(self, learning_rate: float, loss: Tensor | None = None) -> Tensor:
        """Clip, update and clear the gradients; return their norm before clipping, a scalar on the device.

        An update whose gradient or `loss` (a scalar on the device) is not finite is skipped on the device: weights,
        moments and counter stay as they were.
        """
        with_gradient = [p for p in self.parameters.values() if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(with_gradient, self.spec.max_grad_norm)
        for group in self._rule.param_groups:
            group["lr"] = learning_rate
        finite = torch.isfinite(norm if loss is None else norm + loss)  # infinite or NaN when either is
        # The hook by which GradScaler makes a fused optimizer skip a step without waiting for the device.
        setattr(self._rule, "found_inf", (~finite).float())  # noqa: B010
        self._rule.step()
        self._rule.zero_grad(set_to_none=True)
        self._updates += finite
        return norm

    @property
    def updates(self) -> int:
        """Updates applied so far, skipped ones not counted (waits for the device)."""
        return int(self._updates.item())

    def moments(self) -> dict[str, StoredTensor]:
        """Copy the moments out as `<weight name>.<moment>`, those of `OptimizerSpec.moments`."""
        return {name: stored(name, slot) for name, slot in self._slots().items()}

    def restore(self, moments: Mapping[str, StoredTensor], updates: int) -> None:
        """Fill moments and step counters in place.

        Raises:
            ToolkitError: names or shapes differ.
        """
        fill(self._slots(), moments, "optimizer state")
        self._updates.fill_(updates)
        for state in self._rule.state.values():
            if "step" in state:
                state["step"].fill_(float(updates))

    def _slots(self) -> dict[str, Tensor]:
        return {
            f"{name}.{moment}": self._rule.state[parameter][_TORCH_NAMES.get(moment, moment)]
            for name, parameter in self.parameters.items()
            for moment in self.spec.moments
        }


def _update_rule(groups: list[dict[str, Any]], spec: OptimizerSpec) -> torch.optim.Optimizer:
    if spec.name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=spec.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=0.0, betas=(spec.beta1, spec.beta2), eps=spec.epsilon, fused=True)


@torch.no_grad()
def fill(targets: Mapping[str, Tensor], values: Mapping[str, StoredTensor], what: str, *, partly: bool = False) -> None:
    """Copy stored values into tensors in place; with `partly` some targets may keep theirs.

    Raises:
        ToolkitError: a name is missing or unknown, or a shape differs; nothing has been written then.
    """
    missing = [] if partly else sorted(set(targets) - set(values))
    problems = [Problem(f"{what} lacks {name}") for name in missing]
    problems += [
        Problem(f"{what} has {name}, which this model does not train") for name in sorted(set(values) - set(targets))
    ]
    for name in sorted(set(targets) & set(values)):
        have, want = tuple(values[name].array.shape), tuple(targets[name].shape)
        if have != want:
            problems.append(Problem(f"{what}: {name} has shape {have}, the model needs {want}"))
    if problems:
        raise ToolkitError.gather(problems[:10])
    for name, value in values.items():
        targets[name].copy_(from_stored(value))
