"""Released vocabularies, exported: llama.cpp gives the ids that their makers published, and those of Hugging Face."""

from __future__ import annotations

import os
import random
from pathlib import Path

import gguf
import pytest
import tokenizers

from tests.oracles.released_vocabularies import NAMES, expected_ids, rebuild
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.gguf_backend.model import LoadedModel
from toolkit.gguf_backend.tokenizer import GgufTokenizer
from toolkit.quantize.pre_tokenizer import finish_vocabulary
from toolkit.quantize.vocabulary import read_vocabulary

pytestmark = pytest.mark.slow

# `TOOLKIT_FUZZED_STRINGS=10000 pytest …` is the recorded run of docs/evidence.md.
FUZZED_STRINGS = int(os.environ.get("TOOLKIT_FUZZED_STRINGS", "1000"))
_ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "0123456789",
    " \t\n\r",
    ".,;:!?'\"()[]{}<>/\\|@#$%^&*-_=+`~",
    "äöüßéèñçøåÄÖÜ",
    "абвгдежзиклмнопрст",
    "你好世界中文字符測試",
    "🙂🚀👩‍💻🇩🇪❤️",
    "अआइईउऊकखगघ्ि",
    "'s't're've'm'll'd",
)


def fuzzed(count: int, seed: int) -> list[str]:
    """Make strings of runs out of several alphabets, as short words and long lines, NFC or not."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        runs = []
        for _ in range(draw.randint(1, 12)):
            alphabet = draw.choice(_ALPHABETS)
            runs.append("".join(draw.choices(alphabet, k=draw.randint(1, 8))))
        made.append("".join(runs))
    return made


@pytest.mark.parametrize("name", NAMES)
def test_the_exported_vocabulary_cuts_text_as_published_and_as_hugging_face_does(
    llama_cpp_source: Path, tmp_path: Path, name: str
) -> None:
    source = llama_cpp_source / "models" / f"ggml-vocab-{name}.gguf"
    rebuild(source, tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    vocabulary = read_vocabulary(tmp_path, tokenizer, theirs.get_vocab_size())
    file = tmp_path / "vocabulary.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    vocabulary.write(writer)
    finish_vocabulary(writer)
    model = LoadedModel(file, vocabulary_only=True)
    ours = GgufTokenizer(model)
    published = expected_ids(source)
    assert len(published) > 40
    wrong = [text for text, ids in published if ours.encode(text) != ids]
    assert not wrong
    # llama.cpp does not normalise to NFC, so texts are compared as they are after it.
    strings = [_normalised(theirs, text) if vocabulary.nfc else text for text in fuzzed(FUZZED_STRINGS, seed=5)]
    expected = [theirs.encode(text, add_special_tokens=False).ids for text in strings]
    wrong = [text for text, ids in zip(strings, expected, strict=True) if ours.encode(text, parse_special=True) != ids]
    model.close()
    assert not wrong


def _normalised(tokenizer: tokenizers.Tokenizer, text: str) -> str:
    return tokenizer.normalizer.normalize_str(text)  # type: ignore[union-attr]
