"""Published chat templates, in a file: llama-cpp-python renders tools, calls and results as transformers does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from toolkit.backends import Target
from toolkit.errors import ToolkitError
from toolkit.gguf_backend.python_template import python_template
from toolkit.gguf_backend.session import GgufScorer
from toolkit.quantize.export import ExportRequest, export_model
from toolkit.quantize.probes import TOOL_CONVERSATIONS
from toolkit.quantize.samples import Samples
from toolkit.quantize.source import open_source
from toolkit.quantize.verify_chat import chat_gate

pytestmark = pytest.mark.slow

# Of the models that are exported, and others; how many of the conversations with tools the template takes.
TEMPLATES = {
    "Qwen-Qwen2.5-7B-Instruct": 3,
    "Qwen-Qwen3-0.6B": 3,
    "Qwen3-Coder": 3,
    "meta-llama-Llama-3.1-8B-Instruct": 2,  # one call at a time
    "meta-llama-Llama-3.2-3B-Instruct": 2,
    "mistralai-Mistral-Nemo-Instruct-2407": 3,
    "ibm-granite-granite-3.3-2B-Instruct": 3,
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_published_template_renders_tools_as_in_transformers(
    llama_cpp_source: Path, build_tiny_model: Any, tmp_path: Path, name: str
) -> None:
    from transformers import AutoTokenizer

    folder = tmp_path / "model"
    shutil.copytree(build_tiny_model(family="qwen2" if "Qwen" in name else "llama"), folder)
    template = (llama_cpp_source / "models" / "templates" / f"{name}.jinja").read_text("utf-8")
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}), "utf-8")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    file = export_model(ExportRequest(Target("model", "tiny", folder), "F32", tmp_path, check=False)).path
    scorer = GgufScorer(file)
    passed, figures = chat_gate(open_source("tiny", folder, None), scorer.tokenizer(), Samples())
    assert passed, figures
    assert figures["tools"] == "rendered"
    theirs, render = AutoTokenizer.from_pretrained(folder), python_template(scorer.tokenizer())
    equal = 0
    for example in TOOL_CONVERSATIONS:
        turns: Any = [message.as_dict() for message in example.messages]
        try:
            text = render(example.messages, example.tools, True)
        except ToolkitError:
            with pytest.raises(Exception, match="."):
                theirs.apply_chat_template(turns, tools=list(example.tools), tokenize=False)
            continue
        tools: Any = list(example.tools)
        assert text == theirs.apply_chat_template(turns, tools=tools, tokenize=False, add_generation_prompt=True)
        equal += 1
    scorer.close()
    assert equal == TEMPLATES[name]
