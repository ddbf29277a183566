"""The tokenizer as GGUF stores it: tokens with types, merges, pre-tokenizer, special ids, chat template.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer. Byte-level BPE (`tokenizer.ggml.model` =
gpt2) and SentencePiece's BPE (= llama).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import tokenizers

from toolkit.datasets.chat_template import FALLBACK_TEMPLATE
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.errors import Problem, ToolkitError
from toolkit.gguf_backend.model import LoadedModel
from toolkit.gguf_backend.tokenizer import GgufTokenizer
from toolkit.models import TOKENIZER_FILES
from toolkit.quantize import sentencepiece
from toolkit.quantize.pre_tokenizer import finish_vocabulary, recognise, vocabulary_file

# GGUF has room for three ids that end generation: end of sequence, of turn, of message.
_MAX_STOP_IDS = 3


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says about its tokenizer.

    tokens:        one text for each row of the embedding, bytes spelled as characters (added tokens: as they are)
    types:         gguf.TokenType for each
    merges:        "left right", in order of rank; none for SentencePiece
    scores:        SentencePiece alone: one for each token; the join with the highest comes first
    pre_tokenizer: llama.cpp's name for how text is cut before merging
    space_prefix:  SentencePiece alone: whether a space is put before every text
    swallows_space: whether the trained tokenizer loses a space at the start of a text (llama.cpp does not)
    unknown_id:    the token for what has none, if there is one
    templates:     further chat templates by name
    stop_ids:      ids that end generation, the first being the end of sequence, three at most: all of them, but for
                   those that llama.cpp knows by their spelling anyway, where there are more
    bos_id:        beginning of sequence; the end of sequence where the tokenizer has none (llama.cpp would assume id
                   11)
    nfc:           whether the trained tokenizer normalises its input (llama.cpp does not)
    """

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    pre_tokenizer: str
    stop_ids: tuple[int, ...]
    bos_id: int
    pad_id: int
    adds_bos: bool
    adds_eos: bool
    chat_template: str | None
    nfc: bool
    scores: tuple[float, ...] = ()
    space_prefix: bool = False
    swallows_space: bool = False
    unknown_id: int | None = None
    templates: tuple[tuple[str, str], ...] = ()

    def write(self, writer: gguf.GGUFWriter) -> None:
        """Add the `tokenizer.` keys to a file."""
        if self.scores:
            sentencepiece.write(writer, self.tokens, self.types, self.scores, self.unknown_id, self.space_prefix)
        else:
            writer.add_tokenizer_model("gpt2")
            writer.add_tokenizer_pre(self.pre_tokenizer)
            writer.add_token_list(list(self.tokens))
            writer.add_token_types(list(self.types))
            writer.add_token_merges(list(self.merges))
        writer.add_bos_token_id(self.bos_id)
        writer.add_eos_token_id(self.stop_ids[0])
        if len(self.stop_ids) > 1:
            writer.add_eot_token_id(self.stop_ids[1])
        if len(self.stop_ids) > 2:
            writer.add_eom_token_id(self.stop_ids[2])
        writer.add_pad_token_id(self.pad_id)
        writer.add_add_bos_token(self.adds_bos)
        writer.add_add_eos_token(self.adds_eos)
        if self.chat_template is not None:
            writer.add_chat_template(self.chat_template)
        for name, template in self.templates:
            writer.add_string(f"tokenizer.chat_template.{name}", template)
        if self.templates:
            writer.add_array("tokenizer.chat_templates", [name for name, _ in self.templates])


def read_vocabulary(folder: Path, tokenizer: Tokenizer, rows: int) -> Vocabulary:
    """Translate a model folder's tokenizer; `rows` is the height of the embedding.

    Raises ToolkitError gathering what GGUF or llama.cpp cannot express.
    """
    path = next((folder / name for name in TOKENIZER_FILES if (folder / name).is_file()), folder)
    text = path.read_text("utf-8") if path.suffix == ".json" else tokenizer.definition
    definition = json.loads(text)
    problems = _problems(definition, path)
    if problems:
        raise ToolkitError.gather(problems)
    engine = tokenizers.Tokenizer.from_str(text)
    tokens, types = _tokens(definition, rows, path)
    merges = tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in definition["model"]["merges"])
    bare = engine.encode("a", add_special_tokens=False).ids
    marked = engine.encode("a", add_special_tokens=True).ids
    common: dict[str, Any] = {
        "stop_ids": _stop_ids(tokenizer),
        "bos_id": tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id,
        "pad_id": tokenizer.pad_id,
        "adds_bos": marked != bare and marked[0] == tokenizer.bos_id,
        "adds_eos": marked != bare and marked[-1] == tokenizer.eos_id,
        "chat_template": stored_template(tokenizer),
        "templates": further_templates(folder),
        "nfc": _normaliser(definition) == "NFC",
    }
    if not sentencepiece.is_sentencepiece(definition):
        return _with_room(Vocabulary(tokens, types, merges, recognise(engine, definition, path), **common), folder)
    unknown = definition["model"].get("unk_token")
    unknown_id = None if unknown is None else engine.token_to_id(unknown)
    types = tuple(sentencepiece.token_type(text, kind, unknown) for text, kind in zip(tokens, types, strict=True))
    tokens = tuple(sentencepiece.stored_text(text, kind) for text, kind in zip(tokens, types, strict=True))
    scores = sentencepiece.scores(tokens, merges)
    swallows = sentencepiece.swallows_space(definition)
    prefix = sentencepiece.recognise_space_prefix(tokenizer, tokens, types, scores, unknown_id, swallows, path)
    more = {"scores": scores, "space_prefix": prefix, "swallows_space": swallows, "unknown_id": unknown_id}
    return _with_room(Vocabulary(tokens, types, (), "default", **common, **more), folder)


def further_templates(folder: Path) -> tuple[tuple[str, str], ...]:
    """Read a folder's chat templates beside the default one: in tokenizer_config.json or a folder of their own."""
    found: dict[str, str] = {}
    settings = folder / "tokenizer_config.json"
    named = json.loads(settings.read_text("utf-8")).get("chat_template") if settings.is_file() else None
    if isinstance(named, list):
        found |= {entry["name"]: entry["template"] for entry in named}
    # transformers 5 writes them there: https://huggingface.co/docs/transformers/chat_templating_writing
    for file in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        found[file.stem] = file.read_text("utf-8")
    return tuple((name, template) for name, template in found.items() if name != "default")


def _stop_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Order the ids that end generation: the end of sequence, the end of a turn, then what else there is."""
    ordered = [tokenizer.eos_id, tokenizer.turn_end_id, *tokenizer.stop_ids]
    return tuple(dict.fromkeys(token for token in ordered if token is not None))


def _with_room(vocabulary: Vocabulary, where: Path) -> Vocabulary:
    """Leave out the stop ids that llama.cpp knows by their spelling, where there are more than the format has room for.

    Raises ToolkitError when even so too many are left: at some of them the file would not end.
    """
    first, *others = vocabulary.stop_ids
    if len(others) < _MAX_STOP_IDS:
        return vocabulary
    with vocabulary_file() as path:
        writer = gguf.GGUFWriter(path, "llama")
        replace(vocabulary, stop_ids=(first,)).write(writer)
        finish_vocabulary(writer)
        model = LoadedModel(path, vocabulary_only=True)
        try:
            reader = GgufTokenizer(model)
            unknown = [token for token in others if not reader.ends_generation(token)]
        finally:
            model.close()
    if len(unknown) >= _MAX_STOP_IDS:
        spelt = ", ".join(vocabulary.tokens[token] for token in (first, *unknown))
        raise ToolkitError(
            f"{len(unknown) + 1} tokens end generation, and GGUF has room for {_MAX_STOP_IDS}: {spelt}",
            where=where,
            hint="Take those that it never writes out of eos_token_id in generation_config.json",
        )
    room = _MAX_STOP_IDS - 1 - len(unknown)
    named = {*unknown, *[token for token in others if token not in unknown][:room]}
    return replace(vocabulary, stop_ids=(first, *(token for token in others if token in named)))


def stored_template(tokenizer: Tokenizer) -> str | None:
    """Return the template that the model was trained with, as a file holds it."""
    if tokenizer.chat_template == FALLBACK_TEMPLATE and not tokenizer.render([], add_generation_prompt=False):
        # The fallback asks for a beginning of text that this tokenizer does not use; in a GGUF file it would be
        # defined.
        return FALLBACK_TEMPLATE.removeprefix("{{ bos_token }}")
    return tokenizer.chat_template


def _problems(definition: Mapping[str, Any], path: Path) -> list[Problem]:
    model = definition.get("model") or {}
    if sentencepiece.is_sentencepiece(definition):
        return [*sentencepiece.problems_of(definition, path), *_stripping_problems(definition, path)]
    found = []
    hint = "Supported: byte-level and SentencePiece BPE"
    kind = model.get("type", "unknown")
    if kind != "BPE":
        found.append(Problem(f"tokenizer model {kind} cannot be exported", str(path), hint))
    elif model.get("byte_fallback") or "ByteLevel" not in json.dumps(definition.get("pre_tokenizer")):
        found.append(Problem("a BPE tokenizer that does not work on bytes cannot be exported", str(path), hint))
    normaliser = _normaliser(definition)
    if normaliser not in (None, "NFC"):
        found.append(Problem(f"normaliser {normaliser} cannot be exported", str(path), "Supported: none, NFC"))
    return [*found, *_stripping_problems(definition, path)]


def _stripping_problems(definition: Mapping[str, Any], path: Path) -> list[Problem]:
    return [
        Problem(f"the added token {token['content']!r} strips its surroundings: cannot be exported", str(path))
        for token in definition.get("added_tokens") or []
        if token.get("lstrip") or token.get("rstrip") or token.get("single_word")
    ]


def _normaliser(definition: Mapping[str, Any]) -> str | None:
    normaliser = definition.get("normalizer")
    if normaliser is None:
        return None
    if normaliser.get("type") == "Sequence":
        parts = [part.get("type") for part in normaliser.get("normalizers", [])]
        return None if not parts else parts[0] if len(parts) == 1 else f"Sequence({', '.join(parts)})"
    return normaliser.get("type")


def _tokens(definition: Mapping[str, Any], rows: int, path: Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """List tokens and types by id; ids that no token has (the embedding is often padded) become unused fillers."""
    texts: dict[int, str] = {index: text for text, index in definition["model"]["vocab"].items()}
    types = dict.fromkeys(texts, int(gguf.TokenType.NORMAL))
    for token in definition.get("added_tokens") or []:
        texts[token["id"]] = token["content"]
        types[token["id"]] = int(gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED)
    beyond = [index for index in texts if index >= rows]
    if beyond:
        raise ToolkitError(
            f"holds {len(beyond)} tokens beyond the {rows} rows of the model's embedding (up to id {max(beyond)})",
            where=path,
        )
    listed = tuple(texts.get(index, f"[PAD{index}]") for index in range(rows))
    return listed, tuple(int(types.get(index, gguf.TokenType.UNUSED)) for index in range(rows))
