"""SentencePiece's BPE (Llama 2, Mistral, …) as GGUF stores it: one score a token instead of merges.

Spaces are written as `▁`, characters without a token as their bytes (`<0x0A>`). llama.cpp joins the neighbours whose
join has the highest score, so the merges' order becomes scores: minus the rank of the first merge that makes a token. A
folder needs no `tokenizer.model` for that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf

from toolkit.datasets.tokenizer import Tokenizer
from toolkit.errors import Problem, ToolkitError
from toolkit.quantize.pre_tokenizer import finish_vocabulary, mismatches, vocabulary_file
from toolkit.quantize.probes import TEXTS

SPACE = "▁"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
# What no merge makes (single characters, bytes, special tokens) is never the result of a join: its score is not read.
_NO_SCORE = -1e9


def is_sentencepiece(definition: Mapping[str, Any]) -> bool:
    """Say whether a tokenizer.json holds SentencePiece's BPE: bytes as a way out, spaces spelled `▁`."""
    model = definition.get("model") or {}
    spelled = SPACE in str(definition.get("normalizer")) or "Metaspace" in str(definition.get("pre_tokenizer"))
    return model.get("type") == "BPE" and bool(model.get("byte_fallback")) and spelled


def problems_of(definition: Mapping[str, Any], path: Path) -> list[Problem]:
    """Name what GGUF cannot express: normalisers beyond the spelling of spaces, missing byte tokens."""
    found = []
    normaliser = definition.get("normalizer") or {}
    parts = normaliser.get("normalizers", [normaliser] if normaliser else [])
    found += [
        Problem(f"normaliser {part['type']} cannot be exported", str(path), "Supported: Prepend, Replace of spaces")
        for part in parts
        if part["type"] not in ("Prepend", "Replace")
    ]
    missing = sum(f"<0x{number:02X}>" not in definition["model"]["vocab"] for number in range(256))
    if missing:
        found.append(Problem(f"{missing} of the 256 byte tokens are missing", str(path)))
    return found


def token_type(text: str, kind: int, unknown: str | None) -> int:
    """Refine a token's type: bytes and the unknown token have types of their own."""
    if text == unknown:
        return int(gguf.TokenType.UNKNOWN)
    return int(gguf.TokenType.BYTE) if _BYTE.fullmatch(text) and kind == gguf.TokenType.NORMAL else kind


def stored_text(text: str, kind: int) -> str:
    """Spell a token as llama.cpp looks for it: tokens that are matched as they are, with real spaces."""
    return text.replace(SPACE, " ") if kind == gguf.TokenType.USER_DEFINED else text


def scores(tokens: Sequence[str], merges: Sequence[str]) -> tuple[float, ...]:
    """Turn the order of merges ("left right") into one score for each token."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", ""), rank)
    return tuple(-float(ranks[token]) if token in ranks else _NO_SCORE for token in tokens)


def write(
    writer: gguf.GGUFWriter,
    tokens: Sequence[str],
    types: Sequence[int],
    scores: Sequence[float],
    unknown: int | None,
    space_prefix: bool,
) -> None:
    """Add the keys in which SentencePiece differs from byte-level BPE."""
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(list(tokens))
    writer.add_token_types(list(types))
    writer.add_token_scores(list(scores))
    if unknown is not None:
        writer.add_unk_token_id(unknown)
    writer.add_add_space_prefix(space_prefix)


def swallows_space(definition: Mapping[str, Any]) -> bool:
    """Say whether one space at the start of a text is lost: Metaspace takes it for the one that it would put there."""
    return "Metaspace" in str(definition.get("pre_tokenizer"))


def recognise_space_prefix(
    tokenizer: Tokenizer,
    tokens: Sequence[str],
    types: Sequence[int],
    scores: Sequence[float],
    unknown: int | None,
    swallows: bool,
    where: Path,
) -> bool:
    """Try llama.cpp with and without a space before every text; return which gives the trained tokenizer's ids.

    swallows: compare on texts that do not begin with a space

    Raises ToolkitError when neither does.
    """
    texts = [text.lstrip(" ") if swallows else text for text in TEXTS]
    control = next((token for token, kind in zip(tokens, types, strict=True) if kind == gguf.TokenType.CONTROL), "")
    texts += [f"{control}{text}{control}{text}" for text in texts]
    wanted = [tokenizer.encode(text, parse_special=True) for text in texts]
    wrong = {}
    with vocabulary_file() as path:
        for space_prefix in (True, False):
            writer = gguf.GGUFWriter(path, "llama")
            write(writer, tokens, types, scores, unknown, space_prefix)
            for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_pad_token_id):
                add(tokenizer.eos_id)
            finish_vocabulary(writer)
            wrong[space_prefix] = mismatches(path, texts, wanted, special=True)
            if not wrong[space_prefix]:
                return space_prefix
    raise ToolkitError(
        f"llama.cpp's SentencePiece reads {min(wrong.values())} of {len(texts)} probes otherwise than this tokenizer",
        where=where,
        hint="It cannot be exported: the file would garble text",
    )
