"""AdamW with float32 moments, clipping, and a state that is filled in place.

The update rule is `torch.optim.AdamW` (Loshchilov & Hutter 2019, arXiv:1711.05101), fused.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from toolkit.errors import Problem, ToolkitError
from toolkit.protocols import OptimizerSpec
from toolkit.tensor_files import StoredTensor
from toolkit.torch_backend.model import from_stored, stored

MOMENTS = ("exp_avg", "exp_avg_sq")


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
        self._adamw = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=0.0,
            betas=(spec.beta1, spec.beta2),
            eps=spec.epsilon,
            fused=True,
        )
        for parameter in everything:
            self._adamw.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                **{moment: torch.zeros_like(parameter) for moment in MOMENTS},
            }

    def step(self, learning_rate: float, loss: Tensor | None = None) -> Tensor:
        """Clip, update and clear the gradients; return their norm before clipping, a scalar on the device.

        An update whose gradient or `loss` (a scalar on the device) is not finite is skipped on the device: weights,
        moments and counter stay as they were.
        """
        with_gradient = [p for p in self.parameters.values() if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(with_gradient, self.spec.max_grad_norm)
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        # The hook by which GradScaler makes a fused optimizer skip a step without waiting for the device.
        suspect = norm if loss is None else norm + loss  # infinite or NaN when either is
        setattr(self._adamw, "found_inf", (~torch.isfinite(suspect)).float())  # noqa: B010
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        return norm

    @property
    def updates(self) -> int:
        """Updates applied so far, skipped ones not counted (waits for the device)."""
        return int(next(iter(self._adamw.state.values()))["step"].item())

    def moments(self) -> dict[str, StoredTensor]:
        """Copy the moments out as `<weight name>.exp_avg` and `<weight name>.exp_avg_sq`."""
        result = {}
        for name, parameter in self.parameters.items():
            for moment in MOMENTS:
                key = f"{name}.{moment}"
                result[key] = stored(key, self._adamw.state[parameter][moment])
        return result

    def restore(self, moments: Mapping[str, StoredTensor], updates: int) -> None:
        """Fill moments and step counters in place.

        Raises:
            ToolkitError: names or shapes differ.
        """
        targets = {
            f"{name}.{moment}": self._adamw.state[parameter][moment]
            for name, parameter in self.parameters.items()
            for moment in MOMENTS
        }
        fill(targets, moments, "optimizer state")
        for parameter in self.parameters.values():
            self._adamw.state[parameter]["step"].fill_(float(updates))


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
