"""Which of llama.cpp's pre-tokenizers cuts text as a given tokenizer.json does: they are all tried.

A small vocabulary is made in which every piece that the tokenizer cuts a probe into is one token, and so are many
joins of neighbouring pieces. Both sides then read the probes with it: whoever cuts elsewhere gets other ids. So a newly
trained vocabulary is recognised, and one that merely looks alike is not; llama.cpp's own converter compares hashes of
ids, which knows released models only.

Some of llama.cpp's rules are not quite those of the models that they are named after (`deepseek-coder` and `falcon`
cut a few spaces otherwise). Where no rule agrees on all cuts, those that come nearest read with the model's own
vocabulary: where it has no merge across a cut, the cut makes no difference.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import tokenizers

from toolkit.atomic_files import write_failed
from toolkit.errors import ToolkitError
from toolkit.gguf_backend.model import LoadedModel
from toolkit.gguf_backend.tokenizer import GgufTokenizer
from toolkit.quantize.probes import TEXTS

# Values of `tokenizer.ggml.pre`, one for each rule of llama.cpp's, the common ones first: the first that agrees is
# taken. A llama.cpp that does not know one refuses the file, which counts as not agreeing.
CANDIDATES = (
    "qwen2",
    "llama-bpe",
    "smaug-bpe",
    "gpt-2",
    "smollm",
    "tekken",
    "deepseek-llm",
    "deepseek-coder",
    "deepseek-v3",
    "gpt-4o",
    "starcoder",
    "falcon",
    "refact",
    "command-r",
    "codeshell",
    "mpt",
    "olmo",
    "dbrx",
    "qwen35",
    "stablelm2",
    "chatglm-bpe",
    "glm4",
    "poro-chat",
    "viking",
    "bloom",
    "exaone",
    "chameleon",
    "minerva-7b",
    "superbpe",
    "trillion",
    "bailingmoe",
    "seed-coder",
    "hunyuan",
    "hunyuan-dense",
    "kimi-k2",
    "llama4",
    "a.x-4.0",
    "grok-2",
    "minimax-m2",
    "solar-open",
    "exaone4",
    "afmoe",
    "youtu",
    "default",
)

_NEAREST = 4
_MIXED_TEXTS = 2000


def recognise(engine: tokenizers.Tokenizer, definition: Mapping[str, Any], where: Path) -> str:
    """Return the `tokenizer.ggml.pre` that cuts text as `engine` does.

    definition: the parsed tokenizer.json

    Raises ToolkitError naming the pre-tokenizer when none of llama.cpp's agrees on every probe.
    """
    pieces = [[piece for piece, _ in engine.pre_tokenizer.pre_tokenize_str(text)] for text in TEXTS]  # pyright: ignore
    ignores_merges = bool(definition["model"].get("ignore_merges", False))
    vocabulary, merges = _telling_vocabulary(pieces)
    model = {"type": "BPE", "vocab": vocabulary, "merges": merges, "ignore_merges": ignores_merges}
    trial = {**definition, "model": model, "added_tokens": [], "normalizer": None, "post_processor": None}
    theirs = tokenizers.Tokenizer.from_str(json.dumps(trial))
    wanted = [theirs.encode(text, add_special_tokens=False).ids for text in TEXTS]
    wrong: dict[str, int] = {}
    with vocabulary_file() as path:
        for candidate in CANDIDATES:
            _write_vocabulary(path, candidate, list(vocabulary), [" ".join(merge) for merge in merges])
            wrong[candidate] = mismatches(path, TEXTS, wanted)
            if not wrong[candidate]:
                return candidate
        nearest = [name for name in sorted(wrong, key=lambda name: wrong[name]) if wrong[name] < len(TEXTS)]
        if (found := _without_difference(path, definition, nearest[:_NEAREST])) is not None:
            return found
    raise ToolkitError(
        f"pre-tokenizer {_describe(definition.get('pre_tokenizer'))} cannot be exported",
        where=where,
        hint=f"llama.cpp cuts text in {len(CANDIDATES)} ways (qwen2, llama-bpe, gpt-2, …), none of them this one",
    )


def _without_difference(path: Path, definition: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Return the first rule by which the model's own vocabulary gives the ids of Hugging Face on many texts."""
    bare = {**definition, "added_tokens": [], "normalizer": None, "post_processor": None}
    theirs = tokenizers.Tokenizer.from_str(json.dumps(bare))
    texts = [*TEXTS, *_mixed(TEXTS, _MIXED_TEXTS)]
    wanted = [encoding.ids for encoding in theirs.encode_batch(texts, add_special_tokens=False)]
    by_id = {number: token for token, number in definition["model"]["vocab"].items()}
    tokens = [by_id.get(number, f"[PAD{number}]") for number in range(max(by_id) + 1)]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in definition["model"]["merges"]]
    for name in names:
        _write_vocabulary(path, name, tokens, merges)
        if not mismatches(path, texts, wanted):
            return name
    return None


def _mixed(texts: Sequence[str], count: int) -> list[str]:
    """Make texts of the snippets of others, so that every kind of character meets every other."""
    draw = random.Random(0)
    whole = "\n".join(texts)
    starts = [[draw.randrange(len(whole)) for _ in range(12)] for _ in range(count)]
    return ["".join(whole[start : start + draw.randint(1, 6)] for start in row) for row in starts]


def _telling_vocabulary(texts: Sequence[Sequence[str]]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Make tokens and merges out of pieces: characters, prefixes of pieces, and joins of neighbours.

    Every third piece gets no merges of its own: it becomes a token all the same where merges are ignored.
    """
    tokens: dict[str, None] = dict.fromkeys(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    merges: dict[tuple[str, str], None] = {}
    whole = list(dict.fromkeys(piece for pieces in texts for piece in pieces))
    for number, piece in enumerate(whole):
        if number % 3 == 2:
            tokens[piece] = None
            continue
        for left, right in _fold(piece):
            tokens[left + right] = None
            merges[left, right] = None
    joins = [
        pair
        for pieces in texts
        for left, right in zip(pieces, pieces[1:], strict=False)
        for pair in ((left, right), (left, right[0]), (left[-1], right))
    ]
    for left, right in joins:
        # A merge is only valid when both of its sides are tokens.
        if left in tokens and right in tokens:
            tokens[left + right] = None
            merges[left, right] = None
    return {token: number for number, token in enumerate(tokens)}, list(merges)


def _fold(piece: str) -> Iterator[tuple[str, str]]:
    """Yield the merges that build a piece from its left end, character by character."""
    for end in range(1, len(piece)):
        yield piece[:end], piece[end]


def _write_vocabulary(path: Path, name: str, tokens: Sequence[str], merges: Sequence[str]) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list(tokens)
    writer.add_token_types([int(gguf.TokenType.NORMAL)] * len(tokens))
    writer.add_token_merges(merges)
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_pad_token_id):
        add(0)
    writer.add_add_bos_token(False)
    finish_vocabulary(writer)


@contextmanager
def vocabulary_file() -> Iterator[Path]:
    """Yield a place for a file that holds a vocabulary alone, gone afterwards. Raises JobFailed on a full disk."""
    with tempfile.TemporaryDirectory(prefix="toolkit-vocabulary-") as folder:
        try:
            yield Path(folder) / "vocabulary.gguf"
        except OSError as error:
            raise write_failed(error, Path(folder)) from error


def finish_vocabulary(writer: gguf.GGUFWriter) -> None:
    """Close a file that holds a vocabulary and no tensors."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


def mismatches(path: Path, texts: Sequence[str], wanted: Sequence[Sequence[int]], *, special: bool = False) -> int:
    """Count the texts that llama.cpp cuts into other ids by a file's vocabulary; all when it refuses the file."""
    try:
        model = LoadedModel(path, vocabulary_only=True)
    except ToolkitError:
        return len(texts)
    try:
        reader = GgufTokenizer(model)
        return sum(
            reader.encode(text, parse_special=special) != list(ids) for text, ids in zip(texts, wanted, strict=True)
        )
    finally:
        model.close()


def _describe(definition: Mapping[str, Any] | None) -> str:
    """Name a pre-tokenizer as its file does, with its expressions."""
    if definition is None:
        return "none"
    if definition.get("type") == "Sequence":
        return f"Sequence({', '.join(_describe(part) for part in definition['pretokenizers'])})"
    pattern = definition.get("pattern")
    text = next(iter(pattern.values())) if isinstance(pattern, Mapping) else None
    return f"{definition.get('type')}({text})" if text else str(definition.get("type"))
