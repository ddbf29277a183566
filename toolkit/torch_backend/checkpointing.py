"""Gradient checkpointing: recompute activations in the backward pass, in one instance, no class patched."""

from __future__ import annotations

from typing import Any

from transformers.modeling_layers import GradientCheckpointingLayer


def checkpoint_blocks(model: Any, every: int = 1) -> None:
    """Recompute the activations of every `every`-th block in the backward pass, in this instance alone.

    Without re-entry: adapters get gradients although the inputs are frozen, and recomputing draws the same dropout.
    """
    if hasattr(model, "activation_checkpointing_enable"):  # the name that newer transformers give it
        model.activation_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for number, block in enumerate(blocks):
        block.gradient_checkpointing = number % every == 0
