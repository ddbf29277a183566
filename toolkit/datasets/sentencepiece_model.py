"""SentencePiece's `tokenizer.model` (BPE), read without the sentencepiece package and spelt as a tokenizer.json.

The file is a protocol buffer: pieces with scores and types, and the settings of trainer and normaliser
(https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto). SentencePiece joins the neighbours
whose join is the piece with the highest score; `tokenizers` wants merges in order, so every way to cut a piece in two
pieces becomes a merge, in the order of the scores.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from toolkit.errors import Problem, ToolkitError

FILE_NAME = "tokenizer.model"
SPACE = "▁"

_SAVE_FAST = "Save it with a tokenizer.json: transformers' AutoTokenizer.from_pretrained(…).save_pretrained(…)"
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_BPE = 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class PieceType(IntEnum):
    """What a piece is (`ModelProto.SentencePiece.Type`)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary."""

    text: str
    score: float
    kind: PieceType


@dataclass(frozen=True)
class SentencePieceModel:
    """What a `tokenizer.model` says.

    special:      names as tokenizer_config.json has them (`bos_token`, …) to texts, as far as the file has them
    dummy_prefix: whether a space is put before every text
    """

    pieces: tuple[Piece, ...]
    special: Mapping[str, str]
    byte_fallback: bool
    dummy_prefix: bool


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Read a `tokenizer.model`. Raises ToolkitError when it is none, not BPE, or changes texts before it cuts them."""
    try:
        model = list(_fields(path.read_bytes()))
        pieces = tuple(_piece(value) for number, value in model if number == _PIECES)
        trainer = dict(_fields(_last(model, _TRAINER)))
        normalizer = dict(_fields(_last(model, _NORMALIZER)))
    except OSError as error:
        raise ToolkitError(f"cannot be read: {error.strerror or error}", where=path) from error
    except (ValueError, IndexError, TypeError, struct.error) as error:
        raise ToolkitError("not a SentencePiece model, or a damaged one", where=path) from error
    if not pieces:
        raise ToolkitError("not a SentencePiece model, or a damaged one", where=path)
    if trainer.get(3, 1) != _BPE:  # model_type: 1 unigram, 2 bpe, 3 word, 4 char
        raise ToolkitError("this SentencePiece model is not BPE", where=path, hint=_SAVE_FAST)
    _refuse_normalising(normalizer, path)
    return SentencePieceModel(
        pieces=pieces,
        special=_special(pieces, trainer),
        byte_fallback=bool(trainer.get(35, 0)),
        dummy_prefix=bool(normalizer.get(3, 1)),
    )


def _refuse_normalising(normalizer: Mapping[int, Any], path: Path) -> None:
    """Refuse what `tokenizers` would do a little otherwise: compiled tables, and runs of spaces made one."""
    name = bytes(normalizer.get(1, b"")).decode("utf-8", "replace") if normalizer.get(2) else ""
    if not name and normalizer.get(4, 1):
        name = "remove_extra_whitespaces"
    if name:
        raise ToolkitError(f"this SentencePiece model normalises its texts ({name})", where=path, hint=_SAVE_FAST)


def tokenizer_definition(folder: Path, settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Spell a folder's `tokenizer.model` as the text of a tokenizer.json; return it with the special tokens' names.

    settings: tokenizer_config.json; tokens that it adds, and added_tokens.json, are added here too

    Raises:
        ToolkitError: the file cannot be read, is not BPE, or an added token has no place.
    """
    path = folder / FILE_NAME
    model = read_sentencepiece(path)
    added = _added_tokens(folder, model, settings, path)
    vocabulary = {piece.text: number for number, piece in enumerate(model.pieces)}
    if len(vocabulary) < len(model.pieces):
        raise ToolkitError("holds the same piece twice", where=path)
    special = {**model.special, **{key: value for key, value in settings.items() if key.endswith("_token")}}
    definition = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added[number] for number in sorted(added)],
        "normalizer": _normalizer(model),
        "pre_tokenizer": None,
        "post_processor": _post_processor(vocabulary | _ids(added), special, settings),
        "decoder": _decoder(model),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": model.special.get("unk_token"),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": model.byte_fallback,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": _merges(model, vocabulary),
        },
    }
    return json.dumps(definition, ensure_ascii=False), dict(model.special)


def _merges(model: SentencePieceModel, vocabulary: Mapping[str, int]) -> list[list[str]]:
    """List every cut of a piece into two pieces: the highest score first, then by the vocabulary's order."""
    joinable = {piece.text for piece in model.pieces if piece.kind == PieceType.NORMAL}
    ranked = sorted(
        (piece for piece in model.pieces if piece.text in joinable and len(piece.text) > 1),
        key=lambda piece: (-piece.score, vocabulary[piece.text]),
    )
    return [
        [piece.text[:cut], piece.text[cut:]]
        for piece in ranked
        for cut in range(1, len(piece.text))
        if piece.text[:cut] in joinable and piece.text[cut:] in joinable
    ]


def _normalizer(model: SentencePieceModel) -> dict[str, Any]:
    prefix = [{"type": "Prepend", "prepend": SPACE}] if model.dummy_prefix else []
    steps = [*prefix, _replace({"String": " "}, SPACE)]
    return {"type": "Sequence", "normalizers": steps}


def _replace(pattern: Mapping[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": dict(pattern), "content": content}


def _decoder(model: SentencePieceModel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        _replace({"String": SPACE}, " "),
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if model.dummy_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def _post_processor(
    ids: Mapping[str, int], special: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Say which special tokens a text gets: transformers' SentencePiece models begin texts unless told otherwise."""
    begin, end = (_text(special.get(name)) for name in ("bos_token", "eos_token"))
    starts = [begin] if begin in ids and settings.get("add_bos_token") is not False else []
    ends = [end] if end in ids and settings.get("add_eos_token") else []
    if not starts and not ends:
        return None

    def sequence(name: str, number: int) -> list[dict[str, Any]]:
        tokens = [*starts, None, *ends]
        return [
            {"Sequence": {"id": name, "type_id": number}}
            if token is None
            else {"SpecialToken": {"id": token, "type_id": number}}
            for token in tokens
        ]

    used = {token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in (*starts, *ends) if token}
    pair = [*sequence("A", 0), *sequence("B", 1)]
    return {"type": "TemplateProcessing", "single": sequence("A", 0), "pair": pair, "special_tokens": used}


def _added_tokens(
    folder: Path, model: SentencePieceModel, settings: Mapping[str, Any], path: Path
) -> dict[int, dict[str, Any]]:
    """List the tokens that are matched as they are, by id: the model's own special ones, and those added to it."""
    found: dict[int, dict[str, Any]] = {}
    for number, piece in enumerate(model.pieces):
        if piece.kind in (PieceType.CONTROL, PieceType.UNKNOWN, PieceType.USER_DEFINED):
            own = piece.kind == PieceType.USER_DEFINED
            found[number] = _added(number, {"content": piece.text, "special": not own})
            # SentencePiece looks for them once spaces are spelt `▁`. With a space in front, that spelling would put
            # one before each of them, so there they are looked for as they are.
            found[number]["normalized"] = own and not model.dummy_prefix
    for number, entry in (settings.get("added_tokens_decoder") or {}).items():
        found[int(number)] = _added(int(number), entry)
    file = folder / "added_tokens.json"
    if file.is_file():
        for text, number in json.loads(file.read_text("utf-8")).items():
            found.setdefault(int(number), _added(int(number), {"content": text, "special": True}))
    problems = [
        Problem(f"the added token {entry['content']!r} has the id of {model.pieces[number].text!r}", str(path))
        for number, entry in found.items()
        if number < len(model.pieces) and model.pieces[number].text != entry["content"]
    ]
    if problems:
        raise ToolkitError.gather(problems)
    return found


def _added(number: int, entry: Mapping[str, Any]) -> dict[str, Any]:
    flags = {key: bool(entry.get(key, False)) for key in ("single_word", "lstrip", "rstrip")}
    special = bool(entry.get("special", True))
    return {"id": number, "content": entry["content"], **flags, "normalized": False, "special": special}


def _ids(added: Mapping[int, Mapping[str, Any]]) -> dict[str, int]:
    return {entry["content"]: number for number, entry in added.items()}


def _text(token: Any) -> str:
    return str(token["content"]) if isinstance(token, Mapping) else str(token or "")


def _special(pieces: tuple[Piece, ...], trainer: Mapping[int, Any]) -> dict[str, str]:
    # Field numbers and defaults of `TrainerSpec`; an id of -1 (a 64-bit varint) means that there is none.
    wanted = {"unk_token": (40, 0), "bos_token": (41, 1), "eos_token": (42, 2), "pad_token": (43, -1)}
    found = {}
    for name, (number, default) in wanted.items():
        place = trainer.get(number, default)
        if isinstance(place, int) and 0 <= place < len(pieces):
            found[name] = pieces[place].text
    return found


def _piece(data: Any) -> Piece:
    fields = dict(_fields(data))
    (score,) = struct.unpack("<f", fields.get(2, bytes(4)))
    return Piece(bytes(fields[1]).decode("utf-8"), score, PieceType(fields.get(3, PieceType.NORMAL)))


def _last(model: list[tuple[int, Any]], wanted: int) -> bytes:
    return next((value for number, value in reversed(model) if number == wanted), b"")


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield (field number, value) of a message: whole numbers as int, everything else as bytes.

    https://protobuf.dev/programming-guides/encoding. Raises ValueError or IndexError when it is cut short.
    """
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, place = _varint(data, place)
            yield number, value if value < 1 << 63 else value - (1 << 64)
            continue
        if kind == _BYTES:
            size, place = _varint(data, place)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"unknown kind of field {kind}")
        if place + size > len(data):
            raise ValueError("cut short")
        yield number, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        octet = data[place]
        value |= (octet & 0x7F) << shift
        place += 1
        if octet < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("a number that is too long")
