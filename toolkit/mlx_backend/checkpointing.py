"""Gradient checkpointing: recompute activations in the backward pass, in one instance, no class patched."""

from __future__ import annotations

from typing import Any

import mlx.core as mx


def checkpoint_blocks(model: Any, every: int = 1) -> None:
    """Recompute the activations of every `every`-th block in the backward pass, in this instance alone.

    Each such block gets a subclass of its own. The recomputation calls the block again: what it draws must come from
    keys that the layers hold (see `adapters.LoraLinear`), not from MLX's global random state.
    """
    for layer in model.layers[::every]:
        layer.__class__ = _recomputing(type(layer))


def _recomputing(block: type) -> type:
    class Recomputing(block):
        gradient_checkpointing = True

        def __call__(self, x: mx.array, *args: Any, **kwargs: Any) -> Any:
            if not self.training:
                return super().__call__(x, *args, **kwargs)

            def forward(parameters: Any, x: mx.array) -> Any:
                self.update(parameters)
                return super(Recomputing, self).__call__(x, *args, **kwargs)

            return mx.checkpoint(forward)(self.trainable_parameters(), x)

    return Recomputing
