"""Qwen3: each head's queries and keys are normalised before they are rotated; no biases."""

from __future__ import annotations

from toolkit.quantize.architectures.qwen2 import Qwen2


class Qwen3(Qwen2):
    """`Qwen3ForCausalLM`."""

    hugging_face = "Qwen3ForCausalLM"
    gguf_name = "qwen3"

    def unsupported(self) -> list[str]:
        """Name the config's options that GGUF cannot express for this architecture."""
        biases = ["attention_bias cannot be exported"] if self.config.get("attention_bias") else []
        return [*super().unsupported(), *biases]

    def biased(self) -> tuple[str, ...]:
        """Name the linear layers of a block that have a bias."""
        return ()

    def _block_shapes(self) -> dict[str, tuple[int, ...]]:
        norms = {"self_attn.q_norm": (self.head_dim,), "self_attn.k_norm": (self.head_dim,)}
        return {**super()._block_shapes(), **norms}
