"""Documents for training from scratch become rows without losing a token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.datasets import templates
from toolkit.datasets.corpus import PIECE_CHARACTERS, document_texts, read_corpus, rows, split_documents
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.errors import ToolkitError


@pytest.fixture
def tokenizer(make_tokenizer: Callable[..., Tokenizer]) -> Tokenizer:
    return make_tokenizer(templates.CHATML)


def test_documents_are_joined_by_the_end_of_text_token_and_cut_into_equal_rows(tokenizer: Tokenizer) -> None:
    documents = [{"text": f"document {i} " * (i % 5 + 1)} for i in range(30)]
    made = rows(documents, tokenizer, 16, seed=0)
    assert {len(row.tokens) for row in made[:-1]} == {16}
    stream = np.concatenate([row.tokens for row in made]).tolist()
    pieces = tokenizer.decode(stream).split("<|endoftext|>")
    assert sorted(pieces[:-1]) == sorted(document["text"] for document in documents)
    assert all((row.loss_weights == 1).all() and not row.truncated for row in made)


def test_the_order_of_documents_is_drawn_by_seed(tokenizer: Tokenizer) -> None:
    documents = [{"text": f"document {i}"} for i in range(30)]

    def stream(seed: int) -> list[int]:
        return np.concatenate([row.tokens for row in rows(documents, tokenizer, 16, seed=seed)]).tolist()

    assert stream(0) == stream(0) != stream(1)


def test_chat_documents_are_rendered_by_the_template(tokenizer: Tokenizer) -> None:
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    (row,) = rows([{"messages": messages}], tokenizer, 64)
    text = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi<|im_end|><|endoftext|>"
    assert tokenizer.decode(row.tokens.tolist()) == text
    assert list(document_texts([{"messages": messages}, {"text": "x"}])) == ["Hello", "Hi", "x"]


def test_a_rest_of_one_token_is_left_out_since_nothing_precedes_it(tokenizer: Tokenizer) -> None:
    length = len(tokenizer.encode("document")) + 1
    assert [len(row.tokens) for row in rows([{"text": "document"}], tokenizer, length - 1)] == [length - 1]


def test_a_folder_of_text_and_json_lines_is_read_in_the_order_of_names(tmp_path: Path, write_jsonl: Any) -> None:
    write_jsonl([{"text": "from json"}], "b.jsonl")
    (tmp_path / "a.txt").write_text("from text\n", encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    assert read_corpus(tmp_path) == [{"text": "from text"}, {"text": "from json"}]


def test_a_long_text_is_cut_at_empty_lines(tmp_path: Path) -> None:
    paragraph = "A line of text.\n" * 40
    path = tmp_path / "book.txt"
    path.write_text("\n".join([paragraph] * 30), encoding="utf-8")
    documents = read_corpus(path)
    assert 3 <= len(documents) <= 6
    assert all(len(d["text"]) <= 2 * PIECE_CHARACTERS and d["text"].endswith("text.") for d in documents)
    assert sum(d["text"].count("A line of text.") for d in documents) == 1200


def test_documents_are_held_out_by_seed(tokenizer: Tokenizer) -> None:
    documents = [{"text": str(i)} for i in range(100)]
    train, held = split_documents(iter(documents), 0.05, 0)
    assert (len(train), len(held)) == (95, 5)
    assert not any(document in train for document in held)
    assert split_documents(documents, 0.05, 0)[1] == held != split_documents(documents, 0.05, 1)[1]
    with pytest.raises(ToolkitError, match="one document"):
        split_documents(documents[:1], 0.05, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the corpus holds no text"),
        ("{", r"corpus\.jsonl:1: invalid JSON"),
        ('{"x": 1}', r"corpus\.jsonl:1: expected a field `text` or `messages`"),
        ('{"messages": [{"role": "user"}]}', r"corpus\.jsonl:1: each of `messages` needs a `role` and a `content`"),
        ("[]", r"corpus\.jsonl:1: expected a JSON object"),
    ],
)
def test_a_bad_corpus_is_refused_with_file_and_line(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ToolkitError, match=message):
        read_corpus(path)


def test_a_missing_or_empty_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="no such file or folder"):
        read_corpus(tmp_path / "nowhere")
    with pytest.raises(ToolkitError, match=r"no \.txt or \.jsonl file"):
        read_corpus(tmp_path)
