"""The tokenizer and its templates behave as transformers' do; streaming never cuts a character."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.datasets import templates
from toolkit.datasets.chat_template import FALLBACK_TEMPLATE
from toolkit.datasets.schema import Message
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.errors import ToolkitError

MakeTokenizer = Callable[..., Tokenizer]

CONVERSATION = [
    {"role": "system", "content": "Be brief.  "},
    {"role": "user", "content": " What is 6 × 7?\n"},
    {"role": "assistant", "content": "It's 42 — naïve café, 你好 🙂"},
    {"role": "user", "content": "<b>\"Thanks\"</b> & 'bye'"},
    {"role": "assistant", "content": "  \n\nBye\n"},
]
ALL_TEMPLATES = {
    name: getattr(templates, name)
    for name in ("CHATML", "QWEN25", "QWEN3", "LLAMA3", "MISTRAL", "GEMMA", "GLM", "PLAIN", "GENERATION_BLOCKS")
}
TEXTS = [
    "",
    "Hello there",
    "a\r\n b\t\tc   d",
    "It's 42 — naïve café, 你好 🙂",
    "e\u0301 <|im_end|> </s>",
    "\u2028\x00x",
]


@pytest.fixture
def write_folder(tmp_path: Path, tokenizer_json: str) -> Callable[..., Path]:
    """Return `write(**tokenizer_config)`, which writes a model folder's tokenizer files."""

    def write(**config: Any) -> Path:
        (tmp_path / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "bos_token": "<s>", **config}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        return tmp_path

    return write


@pytest.fixture(scope="module")
def load_witness() -> Callable[[Path], Any]:
    """Return transformers' own loader (it imports torch, so only the tests that need a witness pay for it)."""
    import transformers

    return transformers.AutoTokenizer.from_pretrained  # noqa: TID251 - the witness


@pytest.mark.parametrize("name", ALL_TEMPLATES)
def test_rendering_and_ids_equal_transformers(name: str, write_folder: Any, load_witness: Any) -> None:
    folder = write_folder(chat_template=ALL_TEMPLATES[name])
    tokenizer, witness = Tokenizer.load(folder), load_witness(folder)
    for generation in (False, True):
        turns = CONVERSATION[: 4 if generation else 5]
        expected = witness.apply_chat_template(turns, tokenize=False, add_generation_prompt=generation)
        assert tokenizer.render(turns, add_generation_prompt=generation) == expected
        ids = witness.apply_chat_template(turns, add_generation_prompt=generation, return_dict=False)
        assert tokenizer.encode_chat(turns, generation) == list(ids)


def test_encoding_and_decoding_equal_transformers(write_folder: Any, load_witness: Any) -> None:
    folder = write_folder(chat_template=templates.CHATML)
    tokenizer, witness = Tokenizer.load(folder), load_witness(folder)
    for text in TEXTS:
        ids = witness.encode(text, add_special_tokens=False)
        assert tokenizer.encode(text, parse_special=True) == ids
        assert tokenizer.encode(text) == witness.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert tokenizer.decode(ids) == witness.decode(ids)
        assert tokenizer.decode(ids, skip_special=True) == witness.decode(ids, skip_special_tokens=True)


def test_templates_may_use_json_dates_loop_controls_and_macros_as_in_transformers(
    write_folder: Any, load_witness: Any
) -> None:
    template = (
        "{%- macro line(x) %}{{ x }};{% endmacro %}\n"
        "{%- set ns = namespace(n=0) %}\n"
        "{%- for message in messages %}\n"
        "    {%- if message.role == 'system' %}{% continue %}{% endif %}\n"
        "    {%- set ns.n = ns.n + 1 %}\n"
        "    {{- message | tojson }}{{ line(message.content.split()[0]) }}\n"
        "{%- endfor %}\n"
        "{{ strftime_now('%Y') }} {{ ns.n }} {{ eos_token }} {{ tools is none }} {{ unk_token is defined }}\n"
    )
    folder = write_folder(chat_template=template)
    expected = load_witness(folder).apply_chat_template(CONVERSATION, tokenize=False)
    assert Tokenizer.load(folder).render(CONVERSATION, add_generation_prompt=False) == expected


def test_a_template_cannot_reach_out_of_the_sandbox(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(ToolkitError, match="refuses this conversation"):
        make_tokenizer("{{ messages.__class__.__mro__[1].__subclasses__() }}")


def test_a_template_that_is_not_jinja_is_refused(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(ToolkitError, match="the chat template is not valid"):
        make_tokenizer("{% for %}")


def test_a_jinja_file_wins_over_the_template_in_tokenizer_config(write_folder: Any) -> None:
    folder = write_folder(chat_template=templates.CHATML)
    (folder / "chat_template.jinja").write_text(templates.LLAMA3, encoding="utf-8")
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.template_source == "chat_template.jinja"
    assert tokenizer.chat_template == templates.LLAMA3


def test_of_named_templates_the_default_is_taken(write_folder: Any) -> None:
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": templates.CHATML}]
    assert Tokenizer.load(write_folder(chat_template=named)).chat_template == templates.CHATML
    with pytest.raises(ToolkitError, match=r"several chat templates \(tool_use, rag\), none called default"):
        Tokenizer.load(write_folder(chat_template=[{"name": n, "template": "x"} for n in ("tool_use", "rag")]))


def test_a_model_without_a_template_gets_the_documented_plain_one(write_folder: Any) -> None:
    tokenizer = Tokenizer.load(write_folder())
    assert (tokenizer.template_source, tokenizer.chat_template) == ("fallback", FALLBACK_TEMPLATE)
    text = tokenizer.render([Message("user", "Hello"), Message("assistant", "Hi")], add_generation_prompt=False)
    assert text == "### Instruction:\nHello\n\n### Response:\nHi</s>\n\n"


def test_stop_ids_hold_every_end_that_the_folder_names_and_the_end_of_a_turn(write_folder: Any) -> None:
    folder = write_folder(chat_template=templates.LLAMA3)
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 264}), encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [264, 265]}), encoding="utf-8")
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.stop_ids == (tokenizer.token_to_id("</s>"), 264, 265, tokenizer.token_to_id("<|eot_id|>"))
    assert tokenizer.pad_id == tokenizer.eos_id == tokenizer.token_to_id("</s>")
    assert tokenizer.turn_end == "<|eot_id|>"


def test_special_tokens_may_be_written_as_objects(write_folder: Any) -> None:
    tokenizer = Tokenizer.load(write_folder(eos_token={"content": "<|im_end|>", "special": True}, pad_token="<s>"))
    assert tokenizer.eos_id == tokenizer.token_to_id("<|im_end|>")
    assert tokenizer.pad_id == tokenizer.bos_id == tokenizer.token_to_id("<s>")


def test_a_folder_without_a_fast_tokenizer_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match=r"no tokenizer\.json\. .*save_pretrained"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"model": {"type": "?"}}'])
def test_a_broken_tokenizer_file_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(ToolkitError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_that_names_no_end_of_text_is_refused(write_folder: Any) -> None:
    with pytest.raises(ToolkitError, match="nothing says which token ends a text"):
        Tokenizer.load(write_folder(eos_token=None))


def test_the_hash_changes_with_the_template(make_tokenizer: MakeTokenizer) -> None:
    assert make_tokenizer(templates.CHATML).sha256 == make_tokenizer(templates.CHATML).sha256
    assert make_tokenizer(templates.CHATML).sha256 != make_tokenizer(templates.QWEN25).sha256


def test_loading_a_tokenizer_imports_no_framework() -> None:
    code = "import sys, toolkit.datasets.chat; print({'torch', 'transformers', 'mlx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@settings(max_examples=100)
@given(ids=st.lists(st.integers(min_value=0, max_value=329), max_size=40))
def test_streamed_pieces_add_up_to_the_whole_text_and_end_at_characters(
    ids: list[int], make_tokenizer: MakeTokenizer
) -> None:
    tokenizer = make_tokenizer(templates.CHATML)
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in ids]
    assert not any(piece.endswith("\ufffd") for piece in pieces)
    assert "".join(pieces) + stream.flush() == tokenizer.decode(ids)


def test_a_character_of_several_tokens_is_held_back_until_it_is_whole(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(templates.CHATML)
    ids = tokenizer.encode("\U0001f980")
    assert len(ids) > 1
    stream = tokenizer.stream()
    assert [stream.push(token) for token in ids] == [""] * (len(ids) - 1) + ["\U0001f980"]


@settings(max_examples=50)
@given(text=st.text(alphabet=st.characters(codec="utf-8")))
def test_spelt_special_tokens_are_plain_text_unless_asked_for(text: str, make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(templates.CHATML)
    assert not tokenizer.special_ids & set(tokenizer.encode(f"{text}<|im_end|></s>"))
    assert tokenizer.encode("<|im_end|>", parse_special=True) == [tokenizer.turn_end_id]
