"""Model folders that the toolkit did not write: transformers, random weights, a tokenizer trained on the spot.

They have the traits of the real ones that break exporters: grouped-query attention, embeddings padded beyond the
tokenizer's size (Qwen2), several stop tokens (Llama 3), tied and untied heads, sharded safetensors, the published
pre-tokenizer patterns and chat templates of the published form. transformers and torch are imported when a folder is
built, so that collecting tests stays cheap.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Family = Literal["qwen2", "qwen3", "llama", "mistral"]

# Qwen2 cuts numbers into single digits, Llama 3 into groups of three; the rest of the two patterns is the same.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2_PATTERN = _WORDS + r"|\p{N}" + _REST
LLAMA3_PATTERN = _WORDS + r"|\p{N}{1,3}" + _REST

QWEN2_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA3_SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")

QWEN2_TEMPLATE = (
    "{%- if messages[0]['role'] == 'system' %}"
    "{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}"
    "{%- else %}"
    "{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{%- if not (loop.first and message['role'] == 'system') %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
LLAMA3_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)

# Enough variety for a few dozen merges: words, numbers, contractions, code, accents and other scripts.
TOKENIZER_TEXT = (
    "The quick brown fox jumps over the lazy dog, and the dog doesn't mind.",
    "What is 12 plus 30? The answer is 42. What is 7 times 8? The answer is 56.",
    "def add(a, b):\n    return a + b\n\nprint(add(1, 2))\n",
    "To restart the service, open a terminal, then type the command and wait for the answer.",
    "Grüße aus Köln: naïve café, señor. Привет, мир! 你好，世界。 🙂",
    "user assistant system question answer hello world, please explain the steps one by one.",
) * 4


@dataclass(frozen=True)
class TinyModel:
    """How to build a folder.

    hidden_size:    width; 256 where K-quants must apply
    tied:           share input and output embeddings
    dtype:          float32 or bfloat16, as stored
    max_shard_size: transformers' notation ("200KB"); None writes a single file
    seed:           draws the weights
    changes:        further fields of the model's configuration, e.g. {"rope_theta": 500000.0}
    """

    family: Family = "qwen2"
    hidden_size: int = 64
    layers: int = 2
    tied: bool = True
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_shard_size: str | None = None
    context: int = 256
    vocab_size: int = 384
    seed: int = 0
    changes: tuple[tuple[str, Any], ...] = ()


def build(folder: Path, model: TinyModel) -> Path:
    """Write the folder: weights, config, generation config, tokenizer and chat template. Returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    token_ids = write_tokenizer(folder, model.family, model.vocab_size)
    _write_weights(folder, model, token_ids)
    return folder


def write_tokenizer(folder: Path, family: Family, vocab_size: int = 384) -> dict[str, int]:
    """Train a byte-level BPE tokenizer, write its two files, return the special tokens' ids."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    qwen2 = family.startswith("qwen")
    special = QWEN2_SPECIAL if qwen2 else LLAMA3_SPECIAL
    tokenizer = Tokenizer(models.BPE(ignore_merges=not qwen2))
    pattern = Regex(QWEN2_PATTERN if qwen2 else LLAMA3_PATTERN)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Split(pattern, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TOKENIZER_TEXT, trainer)
    tokenizer.add_special_tokens(list(special))
    ids = {token: tokenizer.token_to_id(token) for token in special}
    if not qwen2:  # Llama 3 puts its beginning-of-text token before every text; Qwen2 has none
        tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
            single="<|begin_of_text|> $A",
            pair="<|begin_of_text|> $A <|begin_of_text|> $B",
            special_tokens=[("<|begin_of_text|>", ids["<|begin_of_text|>"])],
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "added_tokens_decoder": {
            str(number): {
                "content": token,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
            for token, number in ids.items()
        },
        "bos_token": None if qwen2 else "<|begin_of_text|>",
        "eos_token": "<|im_end|>" if qwen2 else "<|eot_id|>",
        "pad_token": "<|endoftext|>" if qwen2 else None,
        "unk_token": None,
        "add_bos_token": not qwen2,
        "chat_template": QWEN2_TEMPLATE if qwen2 else LLAMA3_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 256,
        "tokenizer_class": "Qwen2Tokenizer" if qwen2 else "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")
    return ids


def _write_weights(folder: Path, model: TinyModel, token_ids: dict[str, int]) -> None:
    import torch
    import transformers
    from transformers import GenerationConfig

    qwen = model.family.startswith("qwen")
    class_name = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama", "mistral": "Mistral"}[model.family]
    config_class, network_class = (getattr(transformers, class_name + end) for end in ("Config", "ForCausalLM"))
    shape: dict[str, Any] = {
        "hidden_size": model.hidden_size,
        "intermediate_size": 2 * model.hidden_size,
        "num_hidden_layers": model.layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": model.context,
        "tie_word_embeddings": model.tied,
        # Qwen2.5's embeddings have more rows than its tokenizer has tokens
        "vocab_size": model.vocab_size + 64 if qwen else model.vocab_size,
        "dtype": model.dtype,
        **dict(model.changes),
    }
    if qwen:
        config = config_class(
            bos_token_id=token_ids["<|endoftext|>"],
            eos_token_id=token_ids["<|im_end|>"],
            use_sliding_window=False,
            **({"head_dim": model.hidden_size // 4} if model.family == "qwen3" else {}),
            **shape,
        )
        stop, first = ("<|im_end|>", "<|endoftext|>"), "<|endoftext|>"
    else:
        stop_tokens = [token_ids["<|end_of_text|>"], token_ids["<|eot_id|>"]]
        if model.family == "mistral":
            shape.setdefault("sliding_window", None)
        config = config_class(bos_token_id=token_ids["<|begin_of_text|>"], eos_token_id=stop_tokens, **shape)
        stop, first = ("<|end_of_text|>", "<|eot_id|>"), "<|begin_of_text|>"

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.seed)
        network = network_class(config)
        with torch.no_grad():  # norms and biases start as ones and zeros, which would hide a lost or permuted tensor
            for parameter in network.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
                else:
                    parameter.mul_(4.0)
    network.to(getattr(torch, model.dtype))
    network.generation_config = GenerationConfig(
        bos_token_id=token_ids[first], eos_token_id=[token_ids[token] for token in stop], do_sample=False
    )
    sharding = {} if model.max_shard_size is None else {"max_shard_size": model.max_shard_size}
    network.save_pretrained(folder, **sharding)


def build_lfm2(folder: Path) -> Path:
    """Write an LFM2-shaped folder, Qwen2's tokenizer in it: its short convolutions look across packed sequences."""
    import torch
    from transformers import Lfm2Config, Lfm2ForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    ids = write_tokenizer(folder, "qwen2")
    fields_of_mlx_lm = {"block_dim": 64, "block_ff_dim": 128, "block_multiple_of": 64, "block_ffn_dim_multiplier": 1.0}
    config = Lfm2Config(
        vocab_size=448,
        hidden_size=64,
        intermediate_size=128,
        block_auto_adjust_ff_dim=False,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        layer_types=["conv", "full_attention"],
        full_attn_idxs=[1],
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|im_end|>"],
        rope_theta=10_000.0,
        **fields_of_mlx_lm,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Lfm2ForCausalLM(config)
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.data.mul_(4.0)
    network.save_pretrained(folder)
    return folder
