"""Folders in the shape of published models: real headers, no weights, hardly any disk.

The facts are those of the models' own config.json files, as Qwen2.5-Coder's report tables them (arXiv:2409.12186). A
safetensors header says where every tensor lies; the file behind it is a hole (`truncate`) that reads as zeros, so that
15 GB take some kilobytes.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

from tests.tiny_models import write_tokenizer

# hidden size, blocks, heads, key/value heads, feed-forward size, vocabulary, tied embeddings, parameters
SHAPES: dict[str, tuple[int, int, int, int, int, int, bool, int]] = {
    "Qwen/Qwen2.5-Coder-0.5B-Instruct": (896, 24, 14, 2, 4864, 151_936, True, 494_032_768),
    "Qwen/Qwen2.5-Coder-1.5B-Instruct": (1536, 28, 12, 2, 8960, 151_936, True, 1_543_714_304),
    "Qwen/Qwen2.5-Coder-3B-Instruct": (2048, 36, 16, 2, 11_008, 151_936, True, 3_085_938_688),
    "Qwen/Qwen2.5-Coder-7B-Instruct": (3584, 28, 28, 4, 18_944, 152_064, False, 7_615_616_512),
}


def build_sparse(folder: Path, name: str) -> Path:
    """Write a bfloat16 folder in the shape of `name`. Returns `folder`."""
    hidden, layers, heads, kv_heads, inner, vocab, tied, parameters = SHAPES[name]
    folder.mkdir(parents=True)
    write_tokenizer(folder, "qwen2")
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": inner,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 32_768,
        "rope_theta": 1_000_000.0,
        "rms_norm_eps": 1e-06,
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    wide, narrow = heads * (hidden // heads), kv_heads * (hidden // heads)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if not tied:
        shapes["lm_head.weight"] = (vocab, hidden)
    for layer in range(layers):
        block = f"model.layers.{layer}"
        for projection, rows in (("q_proj", wide), ("k_proj", narrow), ("v_proj", narrow)):
            shapes[f"{block}.self_attn.{projection}.weight"] = (rows, hidden)
            shapes[f"{block}.self_attn.{projection}.bias"] = (rows,)
        shapes[f"{block}.self_attn.o_proj.weight"] = (hidden, wide)
        shapes[f"{block}.mlp.gate_proj.weight"] = shapes[f"{block}.mlp.up_proj.weight"] = (inner, hidden)
        shapes[f"{block}.mlp.down_proj.weight"] = (hidden, inner)
        shapes[f"{block}.input_layernorm.weight"] = shapes[f"{block}.post_attention_layernorm.weight"] = (hidden,)
    header, position = {}, 0
    for tensor, shape in shapes.items():
        count = shape[0] * (shape[1] if len(shape) == 2 else 1)
        header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, position + 2 * count]}
        position += 2 * count
    if position != 2 * parameters:
        raise ValueError(f"{name}: {position // 2} parameters, published are {parameters}")
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + position)
    return folder
