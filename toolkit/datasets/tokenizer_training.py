"""Train a byte-level BPE tokenizer with Qwen2's pre-tokenizer, in files that transformers and llama.cpp read alike.

Byte-level BPE: Radford et al. 2019 (GPT-2). The pre-tokenizer expression, the NFC normaliser and the special tokens are
those of Qwen2 (https://huggingface.co/Qwen/Qwen2-0.5B), which llama.cpp knows as `qwen2`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Engine

from toolkit.atomic_files import write_atomic
from toolkit.datasets.chat_template import CHATML_TEMPLATE
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.errors import ToolkitError

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)
"""They get the ids 0, 1 and 2, so a tokenizer smaller than asked for still holds them."""

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Words with one leading space, single digits, runs of signs, line ends."""


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: Path | str, *, context: int = 1024) -> Tokenizer:
    """Train on `texts` and write tokenizer.json and tokenizer_config.json into `folder`.

    The same texts in the same order give the same files.

    Args:
        texts: the corpus, without special tokens.
        vocab_size: entries wanted, the 3 special tokens and the 256 bytes included; a small corpus may give fewer.
        folder: made if it is missing.
        context: the longest sequence of the model, in tokens (`model_max_length`).

    Raises:
        ToolkitError: `vocab_size` leaves no room for the bytes.
    """
    smallest = 256 + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise ToolkitError(f"{vocab_size} entries are too few: bytes and special tokens take {smallest}")
    engine = Engine(models.BPE())
    engine.normalizer = normalizers.NFC()
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    engine.train_from_iterator(texts, trainer)
    return _write(engine, Path(folder), context)


def _write(engine: Engine, folder: Path, context: int) -> Tokenizer:
    plain = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    settings = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(engine.token_to_id(token)): {"content": token, **plain, "special": True} for token in SPECIAL_TOKENS
        },
        "additional_special_tokens": [TURN_START, TURN_END],
        "bos_token": None,
        "chat_template": CHATML_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": TURN_END,
        "errors": "replace",
        "model_max_length": context,
        "pad_token": END_OF_TEXT,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "tokenizer.json", engine.to_str(pretty=True) + "\n")
    write_atomic(folder / "tokenizer_config.json", json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    return Tokenizer.load(folder)
