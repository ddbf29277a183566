"""Mistral: llama.cpp runs it as a Llama, without the sliding window, so a file's context ends where the window does."""

from __future__ import annotations

from toolkit.quantize.architectures.llama import Llama


class Mistral(Llama):
    """`MistralForCausalLM`."""

    hugging_face = "MistralForCausalLM"

    @property
    def context(self) -> int:
        """Longest sequence for which attending to everything is attending to the window."""
        window = self.config.get("sliding_window")
        return super().context if window is None else min(super().context, int(window))
