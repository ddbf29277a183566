"""A file's chat template as llama-cpp-python renders it: what its server and its `create_chat_completion` send."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from toolkit.datasets.schema import Message
from toolkit.errors import ToolkitError
from toolkit.gguf_backend.tokenizer import GgufTokenizer

Render = Callable[[Sequence[Message], Sequence[Mapping[str, Any]], bool], str]


def python_template(tokenizer: GgufTokenizer) -> Render:
    """Return `render(messages, tools, add_generation_prompt)`, by llama-cpp-python's own formatter.

    Raises:
        ToolkitError: the file has no template, or that formatter cannot read it. `render` raises it when the template
            refuses a conversation or fails on it.
    """
    template = tokenizer.chat_template
    if template is None:
        raise ToolkitError("this file has no chat template")
    bos = "" if tokenizer.bos_id is None else tokenizer.id_to_token(tokenizer.bos_id)
    eos = tokenizer.id_to_token(tokenizer.eos_id)
    try:
        formatters = {
            prompt: Jinja2ChatFormatter(template, eos_token=eos, bos_token=bos, add_generation_prompt=prompt)
            for prompt in (False, True)
        }
    except Exception as error:  # a template is foreign code: it may fail in any way
        raise ToolkitError(f"llama-cpp-python cannot read the chat template: {error}") from error

    def render(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], prompt: bool) -> str:
        turns: Any = [message.as_dict() for message in messages]
        offered: Any = [dict(tool) for tool in tools] or None
        try:
            return formatters[prompt](messages=turns, tools=offered).prompt
        except Exception as error:
            raise ToolkitError(f"the chat template refuses this conversation: {error}") from error

    return render
