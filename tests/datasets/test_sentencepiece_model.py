"""A `tokenizer.model` alone: the sentencepiece package is the witness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.quantize.sentencepiece_models import train_pieces, write_pieces_alone
from toolkit.datasets.sentencepiece_model import read_sentencepiece
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.errors import ToolkitError
from toolkit.quantize.probes import TEXTS

VARIANTS: dict[str, dict[str, Any]] = {
    "as Llama 2's": {},
    "without a space in front": {"add_dummy_prefix": False},
    "with symbols of its own": {"add_dummy_prefix": False, "user_defined_symbols": ["<tool>", "▁▁", "</b>"]},
    "without bytes": {"byte_fallback": False},
    "of other special tokens": {"bos_piece": "[BOS]", "eos_piece": "[EOS]", "pad_id": 3, "unk_id": 2, "eos_id": 0},
}


def fuzzed(count: int) -> list[str]:
    random = np.random.default_rng(5)
    alphabet = [*"abcdefghijklmnoprstuvwxyz    0123456789.,!?'\n\t", "the", " dog", "é", "ß", "你", "🙂", "▁", "<tool>"]
    return ["".join(random.choice(alphabet, random.integers(1, 40))) for _ in range(count)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_ids_and_texts_are_those_of_the_sentencepiece_package(tmp_path: Path, variant: str):
    import sentencepiece

    pieces = train_pieces(**VARIANTS[variant])
    write_pieces_alone(tmp_path, pieces)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=pieces)
    ours = Tokenizer.load(tmp_path)
    texts = [text for text in (*TEXTS, *fuzzed(1000)) if "\0" not in text]
    assert [text for text in texts if ours.encode(text) != theirs.encode(text)] == []
    if variant != "without bytes":  # an unknown token has no text that both could agree on
        wrong = [text for text in texts if ours.decode(theirs.encode(text)) != theirs.decode(theirs.encode(text))]
        assert wrong == []
    assert ours.vocab_size == theirs.get_piece_size()
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_id(), theirs.eos_id())


def test_the_models_own_special_tokens_are_known_without_any_other_file(tmp_path: Path):
    (tmp_path / "tokenizer.model").write_bytes(train_pieces())
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.special_tokens == {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    assert tokenizer.special_ids == {0, 1, 2}
    assert tokenizer.text_start_id == 1
    assert tokenizer.encode("<s>the", parse_special=True)[0] == 1


def test_whether_texts_begin_with_a_special_token_is_as_the_settings_say(tmp_path: Path):
    write_pieces_alone(tmp_path)
    for value, begins in ((True, 1), (False, None)):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": value}), "utf-8")
        assert Tokenizer.load(tmp_path).text_start_id == begins


def test_tokens_that_other_files_add_follow_the_models_own(tmp_path: Path):
    write_pieces_alone(tmp_path)
    size = len(read_sentencepiece(tmp_path / "tokenizer.model").pieces)
    entry = {"content": "<|end|>", "special": True, "lstrip": False, "rstrip": False, "single_word": False}
    settings = {"added_tokens_decoder": {str(size): entry}, "eos_token": "<|end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|user|>": size + 1}), "utf-8")
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.eos_id == size
    assert tokenizer.token_to_id("<|user|>") == size + 1
    assert tokenizer.encode("a<|user|>", parse_special=True)[-1] == size + 1
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|user|>": 300}), "utf-8")
    with pytest.raises(ToolkitError, match="the added token '<|user|>' has the id of"):
        Tokenizer.load(tmp_path)


def test_files_that_are_no_such_model_are_refused_in_words(tmp_path: Path):
    path, whole = tmp_path / "tokenizer.model", train_pieces()
    for content in (b"", b"not a model", whole[: len(whole) // 2], whole[:-3] + b"\xff\xff\xff", b"\x0a\xff"):
        path.write_bytes(content)
        with pytest.raises(ToolkitError, match="not a SentencePiece model, or a damaged one"):
            Tokenizer.load(tmp_path)
    for name, option in (("nmt_nfkc", {"normalization_rule_name": "nmt_nfkc"}), ("remove_extra_whitespaces", {})):
        path.write_bytes(train_pieces(**{"remove_extra_whitespaces": True, **option}))
        with pytest.raises(ToolkitError, match=rf"normalises its texts \({name}\).*save_pretrained"):
            Tokenizer.load(tmp_path)
    path.write_bytes(train_pieces(vocab_size=350, model_type="unigram", byte_fallback=False, hard_vocab_limit=False))
    with pytest.raises(ToolkitError, match=r"this SentencePiece model is not BPE.*save_pretrained"):
        Tokenizer.load(tmp_path)
