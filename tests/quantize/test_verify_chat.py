"""The chat gate: tools, several turns, refusals, and llama-cpp-python's own rendering beside ours."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolkit.backends import Target
from toolkit.datasets.schema import Example, Message
from toolkit.gguf_backend.python_template import python_template
from toolkit.gguf_backend.session import GgufScorer
from toolkit.quantize.export import ExportRequest, export_model
from toolkit.quantize.probes import CONVERSATIONS, TOOL_CONVERSATIONS, TOOLS
from toolkit.quantize.samples import Samples
from toolkit.quantize.source import open_source
from toolkit.quantize.verify_chat import chat_gate

Build = Callable[..., Path]

# As published templates do it: tools as JSON in the system turn, calls as JSON, results in turns of their own.
TOOL_TEMPLATE = (
    "{%- if tools %}{{- '<|im_start|>system\n' }}"
    "{%- if messages[0].role == 'system' %}{{- messages[0].content + '\n' }}{%- endif %}"
    "{%- for tool in tools %}{{- tool | tojson + '\n' }}{%- endfor %}{{- '<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'tool' %}"
    "{{- '<|im_start|>user\n<tool_response>' + message.content + '</tool_response><|im_end|>\n' }}"
    "{%- elif message.role != 'system' or not tools %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content }}"
    "{%- for call in message.tool_calls or [] %}"
    '{{- \'<tool_call>{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{- call.function.arguments | tojson + '}</tool_call>' }}"
    "{%- endfor %}{{- '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)

NO_DATA = Samples()


def with_template(folder: Path, target: Path, template: str) -> Path:
    """Copy a model folder with another chat template."""
    shutil.copytree(folder, target)
    settings = json.loads((target / "tokenizer_config.json").read_text("utf-8"))
    (target / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}), "utf-8")
    (target / "chat_template.jinja").unlink(missing_ok=True)
    return target


def judged(folder: Path, out: Path, samples: Samples = NO_DATA) -> tuple[bool, dict[str, Any]]:
    """Export a folder and run the chat gate over the file."""
    file = export_model(ExportRequest(Target("model", "tiny", folder), "F32", out, check=False)).path
    scorer = GgufScorer(file)
    try:
        return chat_gate(open_source("tiny", folder, None), scorer.tokenizer(), samples)
    finally:
        scorer.close()


def test_tools_calls_and_results_are_rendered_alike_on_all_sides_and_as_transformers_renders_them(
    build_tiny_model: Build, tmp_path: Path
):
    from transformers import AutoTokenizer

    folder = with_template(build_tiny_model(), tmp_path / "model", TOOL_TEMPLATE)
    passed, figures = judged(folder, tmp_path)
    assert passed
    assert figures["tools"] == "rendered"
    assert figures["conversations"] == 2 * (len(CONVERSATIONS) + len(TOOL_CONVERSATIONS))
    assert (figures["different_texts"], figures["different_ids"], figures["refused_by_the_template"]) == (0, 0, 0)
    scorer = GgufScorer(tmp_path / "tiny-F32.gguf")
    render = python_template(scorer.tokenizer())
    theirs = AutoTokenizer.from_pretrained(folder)
    texts = []
    for example in (*map(Example, CONVERSATIONS), *TOOL_CONVERSATIONS):
        turns, tools = [message.as_dict() for message in example.messages], list(example.tools) or None
        expected = theirs.apply_chat_template(turns, tools=tools, tokenize=False, add_generation_prompt=True)
        texts.append(render(example.messages, example.tools, True))
        assert texts[-1] == expected
        ids = theirs.apply_chat_template(turns, tools=tools, add_generation_prompt=True)["input_ids"]
        assert scorer.tokenizer().encode_chat(example.messages, True, example.tools) == ids
    assert all(TOOLS[0]["function"]["name"] in text for text in texts[-len(TOOL_CONVERSATIONS) :])
    scorer.close()


def test_a_template_without_tools_is_said_to_have_none(build_tiny_model: Build, tmp_path: Path):
    passed, figures = judged(build_tiny_model(family="llama", tied=False), tmp_path)
    assert passed
    assert figures["tools"] == "the template has none"
    assert figures["bos_in_a_conversation"] == 1


def test_a_beginning_of_text_written_twice_fails(build_tiny_model: Build, tmp_path: Path):
    folder = build_tiny_model(family="llama", tied=False)
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    twice = with_template(folder, tmp_path / "model", "{{ bos_token }}" + settings["chat_template"])
    passed, figures = judged(twice, tmp_path)
    assert not passed
    assert figures["wrong_bos"] == figures["conversations"]


def test_a_template_that_llama_cpp_python_renders_otherwise_fails(build_tiny_model: Build, tmp_path: Path):
    """Documents are none here and not defined there."""
    template = TOOL_TEMPLATE + "{{ 'defined' if documents is defined }}"
    passed, figures = judged(with_template(build_tiny_model(), tmp_path / "model", template), tmp_path)
    assert not passed
    assert figures["different_texts"] == figures["conversations"]


def test_what_a_template_refuses_must_be_refused_on_all_sides(build_tiny_model: Build, tmp_path: Path):
    refusing = "{%- if messages[0].role == 'system' %}{{ raise_exception('no system') }}{%- endif %}" + TOOL_TEMPLATE
    passed, figures = judged(with_template(build_tiny_model(), tmp_path / "model", refusing), tmp_path)
    assert passed
    assert figures["refused_by_the_template"] == 6
    nothing = with_template(build_tiny_model(), tmp_path / "other", "{{ raise_exception('no') }}{{ bos_token }}")
    with pytest.raises(Exception, match="refuses"):
        judged(nothing, tmp_path / "out")


def test_conversations_of_the_data_are_compared_with_their_tools(build_tiny_model: Build, tmp_path: Path):
    folder = with_template(build_tiny_model(), tmp_path / "model", TOOL_TEMPLATE)
    samples = Samples(
        (Example((Message("user", "a"), Message("assistant", "b")), tools=TOOLS[:1]),), (Example((), text="c"),)
    )
    _, without = judged(folder, tmp_path)
    passed, figures = judged(folder, tmp_path / "again", samples)
    assert passed
    assert figures["conversations"] == without["conversations"] + 2
