"""SentencePiece vocabularies in GGUF; the witnesses are the sentencepiece package and tokenizers itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.quantize.sentencepiece_models import Spelling, train_pieces, write_pieces_alone, write_sentencepiece
from tests.tiny_models import TinyModel, build
from toolkit.backends import Target
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.errors import ToolkitError
from toolkit.gguf_backend.model import LoadedModel
from toolkit.gguf_backend.tokenizer import GgufTokenizer
from toolkit.quantize.export import ExportRequest, export_model
from toolkit.quantize.pre_tokenizer import finish_vocabulary
from toolkit.quantize.probes import TEXTS
from toolkit.quantize.vocabulary import Vocabulary, read_vocabulary


@pytest.fixture(scope="module")
def pieces() -> bytes:
    return train_pieces()


@pytest.fixture
def read(tmp_path: Path, pieces: bytes) -> Callable[[Spelling], Vocabulary]:
    def make(spelling: Spelling) -> Vocabulary:
        write_sentencepiece(tmp_path, spelling, proto=pieces)
        return read_vocabulary(tmp_path, Tokenizer.load(tmp_path), 420)

    return make


def fuzzed(count: int) -> list[str]:
    """Draw strings of words, spaces, digits, rare characters and bits of both."""
    random = np.random.default_rng(3)
    alphabet = [*"abcdefghijklmnoprstuvwxyz    0123456789.,!?'\n\t", "the", " dog", "é", "ß", "你", "🙂", "▁", "\u0301"]
    return ["".join(random.choice(alphabet, random.integers(1, 40))) for _ in range(count)]


def test_llama_cpp_gives_the_ids_of_the_sentencepiece_package(
    read: Callable[[Spelling], Vocabulary], pieces: bytes, tmp_path: Path
):
    import sentencepiece

    vocabulary = read("prepend")
    assert vocabulary.space_prefix
    path = tmp_path / "vocabulary.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    vocabulary.write(writer)
    finish_vocabulary(writer)
    model = LoadedModel(path, vocabulary_only=True)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=pieces)
    texts = [text for text in (*TEXTS, *fuzzed(1000)) if "\0" not in text]
    assert [text for text in texts if theirs.encode(text) != GgufTokenizer(model).encode(text)] == []
    model.close()


ALONE: dict[str, dict[str, Any]] = {
    "as Llama 2's": {},
    "without a space in front": {"add_dummy_prefix": False},
    "with symbols of its own": {"add_dummy_prefix": False, "user_defined_symbols": ["<tool>", "▁▁", "</b>"]},
}


@pytest.mark.parametrize("variant", ALONE)
def test_a_tokenizer_model_alone_gives_the_packages_ids_in_llama_cpp(tmp_path: Path, variant: str):
    import sentencepiece

    proto = train_pieces(**ALONE[variant])
    write_pieces_alone(tmp_path, proto)
    vocabulary = read_vocabulary(tmp_path, Tokenizer.load(tmp_path), 420)
    assert vocabulary.space_prefix == (variant == "as Llama 2's")
    path = tmp_path / "vocabulary.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    vocabulary.write(writer)
    finish_vocabulary(writer)
    model = LoadedModel(path, vocabulary_only=True)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=proto)
    texts = [text for text in (*TEXTS, *fuzzed(1000), "a<tool>b</b>  c<tool>") if "\0" not in text]
    if "user_defined_symbols" in ALONE[variant]:  # llama.cpp looks for real spaces, not for their spelling
        texts = [text for text in texts if "▁" not in text]
    assert [text for text in texts if theirs.encode(text) != GgufTokenizer(model).encode(text)] == []
    model.close()


@pytest.mark.parametrize("form", ["gguf", "safetensors"])
def test_a_folder_with_a_tokenizer_model_alone_passes_every_gate(tmp_path: Path, pieces: bytes, form: Any):
    folder = build(tmp_path / "model", TinyModel(family="llama", vocab_size=420, tied=False))
    write_pieces_alone(folder, pieces)
    out = tmp_path / "out" if form == "safetensors" else tmp_path / "out.gguf"
    report = export_model(ExportRequest(Target("model", "tiny", folder), "F32", out, format=form))
    assert report.failed == ()
    if form == "safetensors":  # it can be read where sentencepiece is not installed
        from transformers import AutoTokenizer

        ids = AutoTokenizer.from_pretrained(out).encode("the dog", add_special_tokens=False)
        assert ids == Tokenizer.load(folder).encode("the dog")


def test_tokens_have_the_types_that_llama_cpp_asks_for(read: Callable[[Spelling], Vocabulary]):
    vocabulary = read("prepend")
    kinds = dict(zip(vocabulary.tokens, vocabulary.types, strict=True))
    assert kinds["<unk>"] == gguf.TokenType.UNKNOWN
    assert kinds["<s>"] == kinds["</s>"] == gguf.TokenType.CONTROL
    assert kinds["<0x0A>"] == gguf.TokenType.BYTE
    assert kinds["▁the"] == gguf.TokenType.NORMAL
    assert vocabulary.merges == ()
    assert vocabulary.adds_bos


def test_a_space_that_the_tokenizer_swallows_is_noted(read: Callable[[Spelling], Vocabulary]):
    assert read("metaspace").swallows_space
    assert not read("prepend").swallows_space


def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(read: Callable[[Spelling], Vocabulary]):
    """With a space before the first piece of a text alone, what follows a special token differs."""
    with pytest.raises(ToolkitError, match=r"reads \d+ of 80 probes otherwise"):
        read("first")


def test_a_missing_byte_token_is_refused(tmp_path: Path, pieces: bytes):
    write_sentencepiece(tmp_path, proto=pieces)
    definition = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    vocabulary = definition["model"]["vocab"]
    vocabulary["lost"] = vocabulary.pop("<0x41>")
    tokenizer = Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition), "utf-8")
    with pytest.raises(ToolkitError, match="1 of the 256 byte tokens are missing"):
        read_vocabulary(tmp_path, tokenizer, 420)


@pytest.mark.parametrize("spelling", ["prepend", "metaspace"])
def test_a_mistral_with_sentencepiece_passes_every_gate(tmp_path: Path, pieces: bytes, spelling: Spelling):
    folder = build(tmp_path / "model", TinyModel(family="mistral", vocab_size=420, tied=False))
    write_sentencepiece(folder, spelling, proto=pieces)
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((folder / name).read_text("utf-8"))
        (folder / name).write_text(json.dumps({**settings, "bos_token_id": 1, "eos_token_id": 2}), "utf-8")
    report = export_model(ExportRequest(Target("model", "tiny", folder), "F32", tmp_path / "out"))
    assert len(report.gates) == 6
    assert report.failed == ()
    from toolkit.gguf_backend.session import GgufScorer

    scorer = GgufScorer(report.path)
    (encoding,) = scorer.tokenizer().encode_batch(["the dog</s>the  dog"])
    assert [("the dog</s>the  dog"[start:end]) for start, end in encoding.offsets][:2] != []
    assert encoding.offsets[-1][1] == len("the dog</s>the  dog")
    scorer.close()


@pytest.mark.slow
def test_a_folder_with_a_tokenizer_model_alone_is_trained_asked_and_exported(tmp_path: Path, pieces: bytes):
    from tests.small_runs import settings, toolkit, write_questions

    folder = build(tmp_path / "model", TinyModel(family="llama", vocab_size=420, tied=False))
    write_pieces_alone(folder, pieces)
    data = write_questions(tmp_path / "sums.jsonl")
    short = settings(train__max_steps=3, train__batch_size=4, train__device="cpu", backend="torch")
    for words in (
        ("finetune", "--name", "mine", "--model", folder, "--data", data, *short),
        ("finetune", "--name", "full", "--method", "full", "--model", folder, "--data", data, *short),
        ("evaluate", folder, "mine", "--data", data, "--max-examples", 4, "--device", "cpu"),
        ("chat", "mine", "--prompt", "1 plus 2?", "--max-tokens", 3),
        ("export", "mine", "--quant", "Q8_0"),
        ("export", "full", "--quant", "Q8_0"),
    ):
        result = toolkit(*words)
        assert result.exit_code == 0, (words, result.stderr)
