"""Qwen2 and Qwen2.5: biases on queries, keys and values; rotary halves as in the checkpoint."""

from __future__ import annotations

from toolkit.quantize.architectures.decoder import Decoder


class Qwen2(Decoder):
    """`Qwen2ForCausalLM`."""

    hugging_face = "Qwen2ForCausalLM"
    gguf_name = "qwen2"

    def unsupported(self) -> list[str]:
        """Name the config's options that GGUF cannot express for this architecture."""
        found = super().unsupported()
        if self.config.get("use_sliding_window"):
            found.append("use_sliding_window cannot be exported: llama.cpp's qwen2 attends to everything")
        return found

    def biased(self) -> tuple[str, ...]:
        """Name the linear layers of a block that have a bias."""
        return ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
