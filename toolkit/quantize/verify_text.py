"""The gates on text: do llama.cpp and the trained tokenizer read and write the same?"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from toolkit.datasets.schema import Message
from toolkit.errors import ToolkitError
from toolkit.gguf_backend.tokenizer import GgufTokenizer
from toolkit.gguf_backend.weights import metadata_value, open_gguf
from toolkit.quantize.source import Source

_SHOWN = 5
_PAIRS = 2000


def tokenizer_gate(
    source: Source, path: Path, ours: GgufTokenizer, texts: Sequence[str]
) -> tuple[bool, dict[str, Any]]:
    """Encode texts, every vocabulary entry and pairs of entries on both sides; compare ids, merges and entries.

    Returns (passed, figures). A tokenizer that normalises (NFC) or swallows a space at the start is compared on text
    where that changes nothing, since llama.cpp does neither; the figures count the texts that this concerns.
    """
    entries = _entry_texts(source)
    cases = [*texts, *entries, *_joined(entries)]
    normalised = [_normal(source, text, start=True) for text in cases]
    wrong = [
        text
        for text in normalised
        for special in (False, True)
        if source.tokenizer.encode(text, parse_special=special) != ours.encode(text, parse_special=special)
    ]
    reader = open_gguf(path)
    merges = len(metadata_value(reader, "tokenizer.ggml.merges") or [])
    figures = {
        "texts": len(cases),
        "mismatches": len(wrong),
        "first_mismatches": list(dict.fromkeys(wrong))[:_SHOWN],
        "normalised": sum(text != plain for text, plain in zip(cases, normalised, strict=True)),
        "merges": merges,
        "merges_missing": _merge_count(source) - merges,
        "pre_tokenizer": source.vocabulary.pre_tokenizer,
        "vocabulary": ours.vocab_size,
    }
    same_size = ours.vocab_size == len(source.vocabulary.tokens)
    return not wrong and same_size and not figures["merges_missing"], figures


def chat_gate(
    source: Source, ours: GgufTokenizer, conversations: Sequence[Sequence[Message]]
) -> tuple[bool, dict[str, Any]]:
    """Render conversations on both sides; compare texts and ids, and ask llama.cpp where generation ends."""
    texts, ids, repeated_bos, compared = 0, 0, 0, 0
    for conversation in conversations:
        for prompt in (False, True):
            theirs = _rendered(source.tokenizer, conversation, prompt)
            mine = _rendered(ours, conversation, prompt)
            compared += 1
            texts += theirs != mine
            if theirs is None or mine is None:
                continue
            expected = source.tokenizer.encode(_normal(source, theirs), parse_special=True)
            got = ours.encode(_normal(source, mine), parse_special=True)
            ids += expected != got
            repeated_bos += source.tokenizer.bos_id is not None and got.count(source.tokenizer.bos_id) > 1
    stops = source.tokenizer.stop_ids
    never_end = [ours.id_to_token(token) for token in stops if not ours.ends_generation(token)]
    eos_differs = ours.eos_id != source.tokenizer.eos_id
    bos_differs = source.tokenizer.bos_id not in (None, ours.bos_id) or ours.adds_bos != source.vocabulary.adds_bos
    figures = {
        "conversations": compared,
        "different_texts": texts,
        "different_ids": ids,
        "repeated_bos": repeated_bos,
        "stop_tokens": [ours.id_to_token(token) for token in stops],
        "never_ending": never_end,
        "eos_differs": eos_differs,
        "bos_differs": bos_differs,
    }
    return not (texts or ids or repeated_bos or never_end or eos_differs or bos_differs), figures


def _merge_count(source: Source) -> int:
    """Count the merges in the file that the vocabulary was read from (SentencePiece has scores in their place)."""
    if source.vocabulary.scores:
        return 0
    return len(json.loads((source.folder / "tokenizer.json").read_text("utf-8"))["model"]["merges"])


def _entry_texts(source: Source) -> list[str]:
    """Write every ordinary vocabulary entry as text (entries that are parts of characters have none)."""
    kinds = source.vocabulary.types
    ids = [token for token, kind in enumerate(kinds) if kind == gguf.TokenType.NORMAL]
    texts = (source.tokenizer.decode([token]) for token in ids)
    return [text for text in texts if text and "\ufffd" not in text]


def _joined(entries: Sequence[str]) -> list[str]:
    """Join random entries in twos and threes: words that are no entries themselves, so that merges decide."""
    random = np.random.default_rng(0)
    if not entries:
        return []
    draws = random.integers(0, len(entries), (_PAIRS, 3))
    return ["".join([entries[int(index)] for index in draw[: 2 + number % 2]]) for number, draw in enumerate(draws)]


def _normal(source: Source, text: str, *, start: bool = False) -> str:
    """Take from a text what llama.cpp reads otherwise by design; `start`: nothing precedes it."""
    text = unicodedata.normalize("NFC", text) if source.vocabulary.nfc else text
    return text.lstrip(" ") if start and source.vocabulary.swallows_space else text


def _rendered(tokenizer: Any, conversation: Sequence[Message], prompt: bool) -> str | None:
    try:
        return tokenizer.render(conversation, add_generation_prompt=prompt)
    except ToolkitError:
        return None  # A template may refuse a conversation; then both must.
