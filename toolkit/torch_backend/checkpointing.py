"""Gradient checkpointing: recompute activations in the backward pass, in one instance, no class patched."""

from __future__ import annotations

from typing import Any


def checkpoint_blocks(model: Any) -> None:
    """Recompute the blocks' activations in the backward pass, in this instance alone.

    Without re-entry: adapters get gradients although the inputs are frozen, and recomputing draws the same dropout.
    """
    if hasattr(model, "activation_checkpointing_enable"):  # the name that newer transformers give it
        model.activation_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable({"use_reentrant": False})
