"""Which of llama.cpp's pre-tokenizers cuts text as a given tokenizer.json does.

Decided by behaviour: both cut the same probes, and must agree on every piece. So a newly trained vocabulary is
recognised, and one that merely looks alike is not. llama.cpp's own converter compares hashes of token ids, which
knows released models only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, pre_tokenizers

from toolkit.datasets.tokenizer_training import QWEN2_SPLIT
from toolkit.errors import ToolkitError
from toolkit.quantize.probes import TEXTS

# Qwen2's expression with digits in groups of up to three (https://huggingface.co/meta-llama/Meta-Llama-3-8B).
LLAMA3_SPLIT = QWEN2_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


@dataclass(frozen=True)
class PreTokenizer:
    """One of llama.cpp's rules.

    name:           value of `tokenizer.ggml.pre`
    family:         what the rule is called among people
    split:          the regular expression whose matches become pieces, before bytes are spelled as characters
    ignores_merges: whether a piece that is in the vocabulary becomes a token whatever the merges say; None: either
    """

    name: str
    family: str
    split: str
    ignores_merges: bool | None = None


# `smaug-bpe` is Llama 3's expression without its habit of ignoring merges.
KNOWN = (
    PreTokenizer("qwen2", "qwen2", QWEN2_SPLIT),
    PreTokenizer("llama-bpe", "llama-bpe", LLAMA3_SPLIT, ignores_merges=True),
    PreTokenizer("smaug-bpe", "llama-bpe", LLAMA3_SPLIT, ignores_merges=False),
)


def recognise(engine: tokenizers.Tokenizer, definition: Mapping[str, Any], where: Path) -> str:
    """Return the `tokenizer.ggml.pre` that cuts text as `engine` does.

    definition: the parsed tokenizer.json

    Raises ToolkitError naming the pre-tokenizer when llama.cpp has none that agrees on every probe.
    """
    ignores_merges = bool(definition["model"].get("ignore_merges", False))
    theirs = engine.pre_tokenizer
    for known in KNOWN:
        if known.ignores_merges not in (None, ignores_merges) or theirs is None:
            continue
        reference = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(known.split), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        if all(theirs.pre_tokenize_str(text) == reference.pre_tokenize_str(text) for text in TEXTS):
            return known.name
    supported = ", ".join(dict.fromkeys(known.family for known in KNOWN))
    raise ToolkitError(
        f"pre-tokenizer {_describe(definition.get('pre_tokenizer'))} cannot be exported",
        where=where,
        hint=f"Supported: {supported}",
    )


def _describe(definition: Mapping[str, Any] | None) -> str:
    """Name a pre-tokenizer as its file does, with its expressions."""
    if definition is None:
        return "none"
    if definition.get("type") == "Sequence":
        return f"Sequence({', '.join(_describe(part) for part in definition['pretokenizers'])})"
    pattern = definition.get("pattern")
    text = next(iter(pattern.values())) if isinstance(pattern, Mapping) else None
    return f"{definition.get('type')}({text})" if text else str(definition.get("type"))
