"""How tensors are called and laid out: Hugging Face checkpoints against GGUF, in one table read in both directions.

Names follow the GGUF specification (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#standardized-tensor-names).
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

_OUTER = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OUTER_BACK = {gguf: ours for ours, gguf in _OUTER.items()}
_BLOCK_BACK = {gguf: ours for ours, gguf in _BLOCK.items()}

# Extra rotary frequencies have no tensor in a Hugging Face checkpoint: they are computed from its config.
ROPE_FREQUENCIES = "rope_freqs.weight"


def gguf_name(name: str) -> str | None:
    """Translate `model.layers.3.self_attn.q_proj.bias` into `blk.3.attn_q.bias`; None for a name the table lacks."""
    stem, _, kind = name.rpartition(".")
    if kind not in ("weight", "bias"):
        return None
    block = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem)
    if block:
        part = _BLOCK.get(block[2])
        return part and f"blk.{block[1]}.{part}.{kind}"
    outer = _OUTER.get(stem)
    return outer and f"{outer}.{kind}"


def hugging_face_name(name: str) -> str | None:
    """Translate `blk.3.attn_q.bias` into `model.layers.3.self_attn.q_proj.bias`; None for a name the table lacks."""
    stem, _, kind = name.rpartition(".")
    block = re.fullmatch(r"blk\.(\d+)\.(.+)", stem)
    if block:
        part = _BLOCK_BACK.get(block[2])
        return part and f"model.layers.{block[1]}.{part}.{kind}"
    outer = _OUTER_BACK.get(stem)
    return outer and f"{outer}.{kind}"


def interleave_rotary(array: NDArray[np.generic], heads: int) -> NDArray[np.generic]:
    """Reorder the rows of a query or key projection, (heads * head_dim, …), for llama.cpp's Llama.

    Hugging Face rotates row i of a head together with row i + head_dim / 2; llama.cpp's `llama` rotates neighbours.
    """
    rows = array.shape[0]
    return array.reshape(heads, 2, rows // heads // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def restore_rotary(array: NDArray[np.generic], heads: int) -> NDArray[np.generic]:
    """Undo `interleave_rotary`."""
    rows = array.shape[0]
    return array.reshape(heads, rows // heads // 2, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
