"""Reading tokenizers for GGUF: what is recognised, what is refused, and in which words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers

from tests.tiny_models import LLAMA3_PATTERN, QWEN2_PATTERN, QWEN2_TEMPLATE, write_tokenizer
from toolkit.datasets.tokenizer import Tokenizer as TrainedTokenizer
from toolkit.errors import ToolkitError
from toolkit.gguf_backend.model import LoadedModel
from toolkit.gguf_backend.tokenizer import GgufTokenizer
from toolkit.gguf_backend.weights import metadata_value, open_gguf
from toolkit.quantize.pre_tokenizer import finish_vocabulary, recognise
from toolkit.quantize.vocabulary import Vocabulary, read_vocabulary


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a Qwen2-shaped tokenizer alone, free to be changed."""
    write_tokenizer(tmp_path, "qwen2")
    return tmp_path


def read(folder: Path, rows: int = 400) -> Vocabulary:
    return read_vocabulary(folder, TrainedTokenizer.load(folder), rows)


def edit(folder: Path, change: Callable[[dict[str, Any]], None], name: str = "tokenizer.json") -> None:
    path = folder / name
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")


def test_rows_without_a_token_become_unused_fillers(folder: Path):
    vocabulary = read(folder, rows=400)
    size = TrainedTokenizer.load(folder).vocab_size
    assert len(vocabulary.tokens) == len(vocabulary.types) == 400
    assert vocabulary.tokens[size] == f"[PAD{size}]"
    assert set(vocabulary.types[size:]) == {gguf.TokenType.UNUSED}
    assert vocabulary.types[0] == gguf.TokenType.NORMAL


def test_special_and_added_tokens_have_types_of_their_own(folder: Path):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    vocabulary = read(folder)
    kinds = dict(zip(vocabulary.tokens, vocabulary.types, strict=True))
    assert kinds["<|im_end|>"] == gguf.TokenType.CONTROL
    assert kinds["<tool>"] == gguf.TokenType.USER_DEFINED


def test_merges_are_read_in_both_of_their_spellings(folder: Path):
    as_pairs = read(folder).merges
    edit(folder, lambda d: d["model"].update(merges=[" ".join(pair) for pair in d["model"]["merges"]]))
    assert read(folder).merges == as_pairs
    assert all(merge.count(" ") == 1 for merge in as_pairs)


def test_the_end_of_sequence_comes_first_and_the_end_of_turn_second(tmp_path: Path):
    write_tokenizer(tmp_path, "qwen2")
    edit(tmp_path, lambda d: d.update(eos_token="<|endoftext|>"), "tokenizer_config.json")
    tokenizer = TrainedTokenizer.load(tmp_path)
    spelled = [tokenizer.id_to_token(token) for token in read(tmp_path).stop_ids]
    assert spelled == ["<|endoftext|>", "<|im_end|>"]


def vocabulary_in_llama_cpp(folder: Path, vocabulary: Vocabulary) -> LoadedModel:
    path = folder / "vocabulary.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    vocabulary.write(writer)
    finish_vocabulary(writer)
    return LoadedModel(path, vocabulary_only=True)


def add_tokens(folder: Path, *tokens: str) -> list[int]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(list(tokens))
    tokenizer.save(str(folder / "tokenizer.json"))
    return [tokenizer.token_to_id(token) for token in tokens]


STOPS: dict[str, tuple[Any, Any]] = {
    "both lists": (["<done>", "<|im_end|>"], ["<over>", "<|endoftext|>"]),
    "a number and a list": ("<done>", ["<over>"]),
    "generation_config alone": (None, ["<done>", "<over>"]),
    "config alone": (["<done>", "<over>"], None),
}


@pytest.mark.parametrize("case", STOPS)
def test_generation_ends_where_the_configs_or_the_trained_template_say(folder: Path, case: str):
    """eos_token_id may be a number or a list in either file; the template's own end of turn counts as well."""
    ids = dict(zip(("<done>", "<over>"), add_tokens(folder, "<done>", "<over>"), strict=True))
    engine = Tokenizer.from_file(str(folder / "tokenizer.json"))
    edit(folder, lambda d: d.pop("eos_token"), "tokenizer_config.json")
    for name, ends in zip(("config.json", "generation_config.json"), STOPS[case], strict=True):
        listed = [engine.token_to_id(end) for end in ends] if isinstance(ends, list) else ends
        numbers = engine.token_to_id(listed) if isinstance(listed, str) else listed
        (folder / name).write_text(json.dumps({} if ends is None else {"eos_token_id": numbers}), "utf-8")
    tokenizer = TrainedTokenizer.load(folder)
    vocabulary = read(folder)
    assert vocabulary.stop_ids[0] == tokenizer.eos_id == ids["<done>"]
    assert vocabulary.stop_ids[1] == tokenizer.turn_end_id == engine.token_to_id("<|im_end|>")
    model = vocabulary_in_llama_cpp(folder, vocabulary)
    reader = GgufTokenizer(model)
    assert [token for token in tokenizer.stop_ids if not reader.ends_generation(token)] == []
    assert reader.ends_generation(ids["<over>"]) == (ids["<over>"] in tokenizer.stop_ids)
    assert not reader.ends_generation(engine.token_to_id("<|im_start|>"))
    model.close()


def test_of_many_stop_tokens_those_are_named_that_llama_cpp_does_not_know_by_their_spelling(folder: Path):
    ids = add_tokens(folder, "<done>", "<over>", "<|eot_id|>", "<eos>")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}), "utf-8")
    vocabulary = read(folder)
    assert [vocabulary.tokens[token] for token in vocabulary.stop_ids] == ["<|im_end|>", "<done>", "<over>"]
    model = vocabulary_in_llama_cpp(folder, vocabulary)
    assert all(GgufTokenizer(model).ends_generation(token) for token in TrainedTokenizer.load(folder).stop_ids)
    model.close()
    ids += add_tokens(folder, "<finis>")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}), "utf-8")
    with pytest.raises(ToolkitError, match="4 tokens end generation, and GGUF has room for 3: .*<finis>"):
        read(folder)


def test_an_end_is_added_to_texts_only_where_the_tokenizer_adds_it(folder: Path):
    from tokenizers import processors

    assert not read(folder).adds_eos
    engine = Tokenizer.from_file(str(folder / "tokenizer.json"))
    end = ("<|im_end|>", engine.token_to_id("<|im_end|>"))
    engine.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="$A <|im_end|>", pair="$A <|im_end|> $B <|im_end|>", special_tokens=[end]
    )
    engine.save(str(folder / "tokenizer.json"))
    vocabulary = read(folder)
    assert (vocabulary.adds_bos, vocabulary.adds_eos) == (False, True)
    vocabulary_in_llama_cpp(folder, vocabulary).close()
    assert metadata_value(open_gguf(folder / "vocabulary.gguf"), "tokenizer.ggml.add_eos_token") is True
    assert metadata_value(open_gguf(folder / "vocabulary.gguf"), "tokenizer.ggml.add_bos_token") is False


def test_a_beginning_of_text_is_added_only_where_the_tokenizer_adds_it(tmp_path: Path):
    (tmp_path / "llama").mkdir()
    (tmp_path / "qwen2").mkdir()
    write_tokenizer(tmp_path / "llama", "llama")
    write_tokenizer(tmp_path / "qwen2", "qwen2")
    llama, qwen2 = read(tmp_path / "llama"), read(tmp_path / "qwen2")
    assert llama.adds_bos
    assert llama.tokens[llama.bos_id] == "<|begin_of_text|>"
    assert not qwen2.adds_bos
    assert qwen2.bos_id == qwen2.stop_ids[0]


def test_the_chat_template_is_the_one_trained_with(folder: Path):
    assert read(folder).chat_template == QWEN2_TEMPLATE
    edit(folder, lambda d: d.pop("chat_template"), "tokenizer_config.json")
    fallback = read(folder).chat_template
    assert fallback is not None
    assert "### Instruction:" in fallback
    assert "bos_token" not in fallback


PATTERNS = {
    "qwen2": (QWEN2_PATTERN, False, "qwen2"),
    "qwen2 with a harmless group": (f"(?:{QWEN2_PATTERN})", False, "qwen2"),
    "llama 3": (LLAMA3_PATTERN, True, "llama-bpe"),
    "llama 3 that obeys its merges": (LLAMA3_PATTERN, False, "smaug-bpe"),
}
OTHERS = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
}


@pytest.mark.parametrize("case", PATTERNS)
def test_pre_tokenizers_are_recognised_by_what_they_do(folder: Path, case: str):
    pattern, ignores_merges, expected = PATTERNS[case]
    engine = Tokenizer.from_file(str(folder / "tokenizer.json"))
    engine.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    definition = json.loads(engine.to_str())
    definition["model"]["ignore_merges"] = ignores_merges
    assert recognise(engine, definition, folder) == expected


@pytest.mark.parametrize("name", OTHERS)
def test_all_of_llama_cpps_pre_tokenizers_are_tried(folder: Path, name: str):
    engine = Tokenizer.from_file(str(folder / "tokenizer.json"))
    engine.pre_tokenizer = OTHERS[name]  # pyright: ignore[reportAttributeAccessIssue]
    assert recognise(engine, json.loads(engine.to_str()), folder) == name


FOREIGN = {
    "prefix space": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
        ]
    ),
    "two digits": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN.replace(r"\p{N}|", r"\p{N}{1,2}|")), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
    "case-sensitive contractions": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN.replace("(?i:", "(?:")), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_other_pre_tokenizers_are_refused_by_name(folder: Path, case: str):
    engine = Tokenizer.from_file(str(folder / "tokenizer.json"))
    engine.pre_tokenizer = FOREIGN[case]  # pyright: ignore[reportAttributeAccessIssue]
    engine.save(str(folder / "tokenizer.json"))
    edit(folder, join_digits)
    with pytest.raises(
        ToolkitError, match=r"pre-tokenizer .*ByteLevel.* cannot be exported. llama.cpp cuts text in \d+ ways"
    ):
        read(folder)


def test_a_cut_that_no_merge_of_the_vocabulary_crosses_makes_no_difference(folder: Path):
    engine = Tokenizer.from_file(str(folder / "tokenizer.json"))
    engine.pre_tokenizer = FOREIGN["two digits"]  # pyright: ignore[reportAttributeAccessIssue]
    assert not any(left[-1].isdigit() and right[0].isdigit() for left, right in merges_of(engine))
    assert recognise(engine, json.loads(engine.to_str()), folder) in {"qwen2", "smaug-bpe"}


def join_digits(definition: dict[str, Any]) -> None:
    """Give a vocabulary tokens of several digits, so that it matters how numbers are cut."""
    model = definition["model"]
    for left, right in (("1", "2"), ("12", "3"), ("3", "4"), ("4", "5"), ("7", "8"), ("5", "6"), ("1", "0")):
        model["vocab"].setdefault(left + right, max(model["vocab"].values()) + 1)
        model["merges"].append([left, right])
    taken = {token["content"]: token for token in definition["added_tokens"]}
    for number, token in enumerate(taken.values(), start=max(model["vocab"].values()) + 1):
        token["id"] = number
        model["vocab"].pop(token["content"], None)


def merges_of(engine: Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(engine.to_str())["model"]["merges"]
    return [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]


REFUSALS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "byte fallback": (lambda d: d["model"].update(byte_fallback=True), "does not work on bytes"),
    "Unigram": (lambda d: d["model"].update(type="Unigram"), "tokenizer model Unigram cannot be exported"),
    "lowercase": (lambda d: d.update(normalizer={"type": "Lowercase"}), "normaliser Lowercase cannot be exported"),
    "stripping token": (lambda d: d["added_tokens"][0].update(lstrip=True), "strips its surroundings"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_tokenizers_that_gguf_cannot_express_are_refused(folder: Path, tmp_path: Path, case: str):
    change, message = REFUSALS[case]
    trained = TrainedTokenizer.load(folder)
    edit(folder, change)
    with pytest.raises(ToolkitError, match=message):
        read_vocabulary(folder, trained, 400)


def test_further_chat_templates_are_kept_by_name(folder: Path):
    named = [{"name": "default", "template": QWEN2_TEMPLATE}, {"name": "tool_use", "template": "tools: {{ messages }}"}]
    edit(folder, lambda d: d.update(chat_template=named), "tokenizer_config.json")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("rag", "utf-8")
    vocabulary = read(folder)
    assert vocabulary.chat_template == QWEN2_TEMPLATE
    path = folder / "vocabulary.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    vocabulary.write(writer)
    finish_vocabulary(writer)
    assert metadata_value(open_gguf(path), "tokenizer.chat_template.tool_use") == "tools: {{ messages }}"
    assert metadata_value(open_gguf(path), "tokenizer.chat_template.rag") == "rag"
    assert metadata_value(open_gguf(path), "tokenizer.chat_templates") == ["tool_use", "rag"]


def test_a_vocabulary_larger_than_the_embedding_is_refused(folder: Path):
    with pytest.raises(ToolkitError, match="tokens beyond the 300 rows"):
        read(folder, rows=300)


def test_normalised_input_is_noted(folder: Path):
    assert not read(folder).nfc
    edit(folder, lambda d: d.update(normalizer={"type": "NFC"}))
    assert read(folder).nfc
    shutil.rmtree(folder)
