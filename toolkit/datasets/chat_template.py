"""Chat templates, rendered as transformers renders them, without transformers.

A template is Jinja2 code that comes with a model, so it runs in Jinja's immutable sandbox, with the environment that
transformers documents (https://huggingface.co/docs/transformers/chat_templating): `trim_blocks`, `lstrip_blocks`,
loop controls, `tojson` without HTML escapes, `raise_exception`, `strftime_now`, and `{% generation %}` blocks (which
only mark text). `tests/datasets/test_tokenizer.py` compares with transformers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from toolkit.datasets.schema import Message
from toolkit.errors import ToolkitError

FALLBACK_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }}\n\n"
    "{% elif message.role == 'user' %}### Instruction:\n{{ message.content }}\n\n"
    "{% else %}### Response:\n{{ message.content }}{{ eos_token }}\n\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}### Response:\n{% endif %}"
)
"""For base models that bring no template: plain headings that need no special token but the model's own end of text."""

CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML, one of the templates that llama.cpp recognises; tokenizers trained here get it."""


class ChatTemplate:
    """A compiled template and the special tokens that it may mention."""

    def __init__(self, source: str, variables: Mapping[str, Any], where: str = "") -> None:
        """Compile a template.

        Args:
            source: Jinja2 text.
            variables: special tokens by name (`bos_token`, `eos_token`, …) as the template sees them.
            where: the file that the template stands in, for messages.

        Raises:
            ToolkitError: the template is not valid Jinja2.
        """
        self.source = source
        self.where = where
        self._variables = dict(variables)
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise ToolkitError(f"the chat template is not valid: {error}", where=where) from error

    def render(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """Write a conversation as one text; with `add_generation_prompt`, up to where the model's answer begins.

        `tools` are the JSON schemas of the functions that the assistant may call.

        Raises:
            ToolkitError: the template refuses the conversation (some demand that roles alternate) or fails on it.
        """
        turns = [message.as_dict() if isinstance(message, Message) else dict(message) for message in messages]
        try:
            return self._template.render(
                messages=turns,
                tools=[dict(tool) for tool in tools] or None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._variables,
            )
        except Exception as error:  # a template is foreign code: it may fail in any way
            raise ToolkitError(f"the chat template refuses this conversation: {error}", where=self.where) from error


class _GenerationBlock(Extension):
    """`{% generation %}…{% endgeneration %}` marks the assistant's text for transformers; here it renders its body."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """Replace the block by its body."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
