"""Llama 3 and its kin: query and key rows interleaved, optional biases."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from toolkit.gguf_backend.tensor_names import interleave_rotary
from toolkit.quantize.architectures.decoder import Decoder


class Llama(Decoder):
    """`LlamaForCausalLM`."""

    hugging_face = "LlamaForCausalLM"
    gguf_name = "llama"

    def biased(self) -> tuple[str, ...]:
        """Name the linear layers of a block that have a bias."""
        attention = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
        feed_forward = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
        return (attention if self.config.get("attention_bias") else ()) + (
            feed_forward if self.config.get("mlp_bias") else ()
        )

    def row_unit(self, name: str) -> int:
        """Say how many rows of a tensor must stay together while they are laid out: those of a head."""
        return self.head_dim if ".q_proj." in name or ".k_proj." in name else 1

    def arrange(self, name: str, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Lay rows of a tensor out as llama.cpp expects it: it rotates neighbouring rows of queries and keys."""
        if ".q_proj." in name or ".k_proj." in name:
            return interleave_rotary(array, array.shape[0] // self.head_dim)
        return array
