"""A tokenizer trained here is the one that transformers reads back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tokenizers

from toolkit.datasets.schema import Message
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.datasets.tokenizer_training import QWEN2_SPLIT, train_tokenizer
from toolkit.errors import ToolkitError

TEXTS = [
    "What is 12 plus 30? It's 42.",
    "naïve café 你好 🙂\n\n  def f(x):\n\treturn x",
    "Hello world, hello words",
] * 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train_tokenizer(TEXTS, 320, folder)
    return folder


def test_all_ids_lie_within_the_size_asked_for_and_specials_come_first(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.vocab_size == 320
    assert [tokenizer.token_to_id(t) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")] == [0, 1, 2]
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id, tokenizer.stop_ids) == (2, 0, None, (2,))


def test_every_byte_can_be_encoded_even_from_a_small_corpus(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["ab"], 300, tmp_path)
    assert 259 <= tokenizer.vocab_size <= 300
    text = "".join(map(chr, range(1, 0x250))) + "你🙂"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_same_texts_give_the_same_files(folder: Path, tmp_path: Path) -> None:
    train_tokenizer(iter(TEXTS), 320, tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_transformers_loads_it_and_agrees_on_ids_template_and_special_tokens(folder: Path) -> None:
    import transformers

    witness: Any = transformers.AutoTokenizer.from_pretrained(folder)  # noqa: TID251 - the witness
    tokenizer = Tokenizer.load(folder)
    for text in (*TEXTS[:3], "e\u0301 1234567 <|im_end|>", "\r\n\t "):
        assert tokenizer.encode(text, parse_special=True) == witness.encode(text)
    turns = [Message("system", "s"), Message("user", "12 plus 30?"), Message("assistant", "42")]
    plain = [turn.as_dict() for turn in turns]
    assert tokenizer.encode_chat(turns, False) == list(witness.apply_chat_template(plain, return_dict=False))
    assert (witness.eos_token, witness.pad_token, witness.bos_token) == ("<|im_end|>", "<|endoftext|>", None)
    assert len(witness) == tokenizer.vocab_size and witness.model_max_length == 1024


def test_the_pre_tokenizer_is_the_one_that_transformers_ships_for_qwen2() -> None:
    from transformers.models.qwen2 import tokenization_qwen2

    assert tokenization_qwen2.PRETOKENIZE_REGEX == QWEN2_SPLIT


def test_digits_stand_alone_and_a_word_keeps_one_leading_space(folder: Path) -> None:
    engine = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert engine.pre_tokenizer is not None
    pieces = [piece for piece, _ in engine.pre_tokenizer.pre_tokenize_str("plus 123  it's")]
    assert pieces == ["plus", "Ġ", "1", "2", "3", "Ġ", "Ġit", "'s"]


def test_a_size_below_the_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="258 entries are too few"):
        train_tokenizer(["a"], 258, tmp_path)
