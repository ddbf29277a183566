"""The tokenizer gate: do llama.cpp and the trained tokenizer read text as the same ids?"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from toolkit.datasets.schema import Example
from toolkit.errors import ToolkitError
from toolkit.gguf_backend.tokenizer import GgufTokenizer
from toolkit.gguf_backend.weights import metadata_value, open_gguf
from toolkit.quantize.probes import TEXTS, random_texts
from toolkit.quantize.samples import Samples
from toolkit.quantize.source import Source

_SHOWN = 5
_PAIRS = 2000
_RANDOM_TEXTS = 500


def tokenizer_gate(source: Source, path: Path, ours: GgufTokenizer, samples: Samples) -> tuple[bool, dict[str, Any]]:
    """Encode texts, every vocabulary entry and pairs of entries on both sides; compare ids, merges and entries.

    Returns (passed, figures). A tokenizer that normalises (NFC) or swallows a space at the start is compared on text
    where that changes nothing, since llama.cpp does neither; the figures count the texts that this concerns.
    """
    entries = _entry_texts(source)
    families = {
        "samples": [text for example in samples.all for text in _texts_of(example)],
        "rendered_chats": [text for example in samples.all if (text := _rendered(source, example))],
        "unicode": [*TEXTS, *random_texts(_RANDOM_TEXTS)],
        "entries": entries,
        "joined_entries": _joined(entries),
    }
    cases = [text for family in families.values() for text in family]
    normalised = [normal_text(source, text, start=True) for text in cases]
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
        "of_which": {name: len(texts) for name, texts in families.items()},
        "normalised": sum(text != plain for text, plain in zip(cases, normalised, strict=True)),
        "merges": merges,
        "merges_missing": _merge_count(source) - merges,
        "pre_tokenizer": source.vocabulary.pre_tokenizer,
        "vocabulary": ours.vocab_size,
        "sha256": ours.sha256,
    }
    same_size = ours.vocab_size == len(source.vocabulary.tokens)
    return not wrong and same_size and not figures["merges_missing"], figures


def normal_text(source: Source, text: str, *, start: bool = False) -> str:
    """Take from a text what llama.cpp reads otherwise by design; `start`: nothing precedes it."""
    text = unicodedata.normalize("NFC", text) if source.vocabulary.nfc else text
    return text.lstrip(" ") if start and source.vocabulary.swallows_space else text


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


def _texts_of(example: Example) -> list[str]:
    return [example.text] if example.text is not None else [message.content for message in example.messages]


def _rendered(source: Source, example: Example) -> str:
    if example.text is not None:
        return ""
    try:
        return source.tokenizer.render(example.messages, add_generation_prompt=False, tools=example.tools)
    except ToolkitError:
        return ""  # a template may refuse a conversation; the chat gate asks whether both do
