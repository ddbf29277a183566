"""Released vocabularies as Hugging Face folders, rebuilt from the vocabulary files in llama.cpp's source.

Those files lack what tokenizer.json says about cutting text, so that is written down here as the models publish it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers
from tokenizers import models as tokenizer_models
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Punctuation, Sequence, Split

from tests.tiny_models import LLAMA3_PATTERN, QWEN2_PATTERN

SEPARATOR = "\n__ggml_vocab_test__\n"
QWEN35_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPACE = "▁"


def _split(pattern: str) -> PreTokenizer:
    return Split(Regex(pattern), behavior="isolated")


def _bytes(*, use_regex: bool) -> PreTokenizer:
    return ByteLevel(add_prefix_space=False, use_regex=use_regex)


CUTS: dict[str, PreTokenizer] = {
    "qwen2": Sequence([_split(QWEN2_PATTERN), _bytes(use_regex=False)]),
    "qwen35": Sequence([_split(QWEN35_PATTERN), _bytes(use_regex=False)]),
    "llama-bpe": Sequence([_split(LLAMA3_PATTERN), _bytes(use_regex=False)]),
    "gpt-2": _bytes(use_regex=True),
    "mpt": _bytes(use_regex=True),
    "starcoder": Sequence([Digits(individual_digits=True), _bytes(use_regex=True)]),
    "refact": Sequence([Digits(individual_digits=True), _bytes(use_regex=True)]),
    "command-r": Sequence([Digits(individual_digits=True), _bytes(use_regex=True)]),
    "falcon": Sequence(
        [
            Punctuation(behavior="contiguous"),
            _bytes(use_regex=True),
            Digits(individual_digits=False),
            _split(r"[0-9][0-9][0-9]"),
        ]
    ),
    "deepseek-coder": Sequence(
        [
            _split(r"[\r\n]"),
            _split(r"\s?\p{L}+"),
            _split(r"\s?\p{P}+"),
            _split(r"[一-龥ࠀ-一가-퟿]+"),
            Digits(individual_digits=True),
            _bytes(use_regex=False),
        ]
    ),
}
SENTENCEPIECE = ("llama-spm", "phi-3")
NAMES = (*CUTS, *SENTENCEPIECE)


def rebuild(source: Path, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json for a `ggml-vocab-….gguf`."""
    reader = gguf.GGUFReader(source)

    def field(name: str) -> Any:
        found = reader.get_field(f"tokenizer.ggml.{name}")
        return None if found is None else found.contents()

    name = source.stem.removeprefix("ggml-vocab-")
    tokens, types = field("tokens"), field("token_type")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in field("merges") or []]
    if name in SENTENCEPIECE:
        tokenizer = _sentencepiece(vocabulary, field("scores"), tokens[field("unknown_token_id") or 0])
    else:
        model = tokenizer_models.BPE(vocab=vocabulary, merges=merges, ignore_merges=name == "llama-bpe")
        tokenizer = Tokenizer(model)
        tokenizer.pre_tokenizer = CUTS[name]
        tokenizer.decoder = decoders.ByteLevel()
        if name in ("qwen2", "qwen35", "command-r", "mpt"):
            tokenizer.normalizer = normalizers.NFC()
    special = [
        AddedToken(t, special=True, normalized=False) for t, kind in zip(tokens, types, strict=True) if kind == 3
    ]
    added = [AddedToken(t, normalized=False) for t, kind in zip(tokens, types, strict=True) if kind == 4]
    # Fillers of the embedding (`[PAD151936]`) are no tokens of the tokenizer.
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens([token for token in added if not token.content.startswith("[PAD")])
    tokenizer.save(str(folder / "tokenizer.json"))
    end = tokens[field("eos_token_id")]
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": end}), "utf-8")
    (folder / "config.json").write_text(json.dumps({"vocab_size": len(tokens)}), "utf-8")


def _sentencepiece(vocabulary: dict[str, int], scores: list[float], unknown: str) -> Tokenizer:
    """Turn scores into merges, as transformers does for models that come with scores alone."""
    pairs = []
    for token, number in vocabulary.items():
        ways = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [(one, other) for one, other in ways if one in vocabulary and other in vocabulary]
        known.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        pairs += [(-scores[number], order, pair) for order, pair in enumerate(known)]
    pairs.sort(key=lambda entry: entry[0])
    model = tokenizer_models.BPE(
        vocab=vocabulary, merges=[pair for *_, pair in pairs], unk_token=unknown, fuse_unk=True, byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    parts = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    return tokenizer


def expected_ids(source: Path) -> list[tuple[str, list[int]]]:
    """Return the texts and ids that stand beside a vocabulary file."""
    texts = source.with_name(f"{source.name}.inp").read_text("utf-8").split(SEPARATOR)
    lines = source.with_name(f"{source.name}.out").read_text("utf-8").split("\n")
    return [(text, [int(number) for number in line.split()]) for text, line in zip(texts, lines, strict=False)]
