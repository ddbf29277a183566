"""The plan of an export, on shapes alone: folders of published models' sizes whose weights are holes in a file."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.small_runs import toolkit
from tests.tiny_models import write_tokenizer
from toolkit.quantize.mixture import plan_files
from toolkit.quantize.plan import QUANT_TYPES, FilePlan
from toolkit.quantize.source import open_source

QWEN_05B = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
QWEN_7B = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}


def hollow(folder: Path, *, vocab_size: int = 2048, tied: bool = True, kv_heads: int = 2, **sizes: int) -> Path:
    """Write a Qwen2 folder in bfloat16 whose weights take no space, whatever the sizes."""
    folder.mkdir(exist_ok=True)
    write_tokenizer(folder, "qwen2")
    config: dict[str, Any] = {
        "architectures": ["Qwen2ForCausalLM"],
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab_size,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 32768,
        **sizes,
    }
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    hidden, inner = sizes["hidden_size"], sizes["intermediate_size"]
    keys = kv_heads * hidden // sizes["num_attention_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab_size, hidden)}
    for layer in range(sizes["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        for name, rows in (("q_proj", hidden), ("k_proj", keys), ("v_proj", keys)):
            shapes[f"{block}self_attn.{name}.weight"] = (rows, hidden)
            shapes[f"{block}self_attn.{name}.bias"] = (rows,)
        shapes |= {
            f"{block}self_attn.o_proj.weight": (hidden, hidden),
            f"{block}mlp.gate_proj.weight": (inner, hidden),
            f"{block}mlp.up_proj.weight": (inner, hidden),
            f"{block}mlp.down_proj.weight": (hidden, inner),
            f"{block}input_layernorm.weight": (hidden,),
            f"{block}post_attention_layernorm.weight": (hidden,),
        }
    shapes["model.norm.weight"] = (hidden,)
    if not tied:
        shapes["lm_head.weight"] = (vocab_size, hidden)
    header: dict[str, Any] = {}
    position = 0
    for name, shape in shapes.items():
        end = position + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + position)
    return folder


def plan(folder: Path, *names: str) -> list[FilePlan]:
    return plan_files(open_source("hollow", folder, None), [QUANT_TYPES[name] for name in names], {})


def test_seven_billion_weights_are_planned_without_reading_one(tmp_path: Path):
    """Qwen2.5-7B but for its vocabulary: 4.9 bits, as published for its kind; the file itself is a hole."""
    folder = hollow(tmp_path, tied=False, kv_heads=4, **QWEN_7B)
    whole, small = plan(folder, "F32", "Q4_K_M")
    assert whole.file_bytes > 26e9
    assert 4.7 < small.bits_per_weight < 4.95
    assert small.fallbacks == ()
    assert {"Q4_K", "Q6_K"} <= small.counts().keys()
    assert (folder / "model.safetensors").stat().st_blocks * 512 < 1e6


def test_rows_of_896_make_two_thirds_of_the_matrices_fall_back(tmp_path: Path):
    folder = hollow(tmp_path, vocab_size=151936, **QWEN_05B)
    (small,) = plan(folder, "Q4_K_M")
    matrices = [tensor for tensor in small.matrices if tensor.name.startswith("blk")]
    fallen = [tensor for tensor in small.fallbacks if tensor.name.startswith("blk")]
    assert len(fallen) / len(matrices) == pytest.approx(6 / 7)
    assert 6.2 < small.bits_per_weight < 6.4
    assert all(tensor.shape[-1] == 896 for tensor in small.fallbacks)


def test_the_dry_run_shows_bits_sizes_and_fallbacks_and_recommends_another_type(tmp_path: Path):
    folder = hollow(tmp_path / "small", **QWEN_05B)
    before = sorted(tmp_path.rglob("*"))
    result = toolkit("export", folder, "--quant", "Q4_K_M,Q6_K,Q8_0", "--dry-run", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "145 of 169 matrices" in " ".join(result.stdout.split())
    assert "Q4_K_M cannot take: token_embd.weight, blk.0.attn_q.weight" in result.stdout
    assert "Recommended: IQ4_NL" in result.stdout
    assert "Recommended: Q8_0" in result.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_a_type_that_fits_is_recommended_nothing(tmp_path: Path):
    result = toolkit("export", hollow(tmp_path / "m", tied=False, kv_heads=4, **QWEN_7B), "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert "none" in result.stdout
    assert "Recommended" not in result.stdout
