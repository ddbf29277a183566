"""The Modelfile that makes an exported file an Ollama model (https://docs.ollama.com/modelfile).

Ollama has a template language of its own, so a template is written only where the model's chat template is seen to
render what Ollama's would; else Ollama falls back on what it reads in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from toolkit.datasets.schema import Message
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.errors import ToolkitError

_PROBE = (
    Message("system", "Be brief."),
    Message("user", "Hello"),
    Message("assistant", "Hi!"),
    Message("user", "Bye"),
)

_CHATML = """\
{{- if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}
{{- range .Messages }}
{{- if ne .Role "system" }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}
{{- end }}<|im_start|>assistant
"""

_LLAMA3 = """\
{{- if .System }}<|start_header_id|>system<|end_header_id|>

{{ .System }}<|eot_id|>{{ end }}
{{- range .Messages }}
{{- if ne .Role "system" }}<|start_header_id|>{{ .Role }}<|end_header_id|>

{{ .Content }}<|eot_id|>{{ end }}
{{- end }}<|start_header_id|>assistant<|end_header_id|>

"""


def _chatml(messages: Sequence[Message]) -> str:
    turns = (f"<|im_start|>{message.role}\n{message.content}<|im_end|>\n" for message in messages)
    return "".join(turns) + "<|im_start|>assistant\n"


def _llama3(messages: Sequence[Message]) -> str:
    turns = (
        f"<|start_header_id|>{message.role}<|end_header_id|>\n\n{message.content}<|eot_id|>" for message in messages
    )
    return "".join(turns) + "<|start_header_id|>assistant<|end_header_id|>\n\n"


# What a template renders, beside the same in Ollama's language.
_TEMPLATES: tuple[tuple[Callable[[Sequence[Message]], str], str], ...] = ((_chatml, _CHATML), (_llama3, _LLAMA3))


def modelfile_text(file_name: str, tokenizer: Tokenizer) -> str:
    """Write a Modelfile for a file beside it: where it is, its template if that is a known one, its stop tokens."""
    lines = [f"FROM ./{file_name}"]
    template = ollama_template(tokenizer)
    if template is not None:
        lines.append(f'TEMPLATE """{template}"""')
    lines += [f'PARAMETER stop "{tokenizer.id_to_token(token)}"' for token in tokenizer.stop_ids]
    return "\n".join(lines) + "\n"


def ollama_template(tokenizer: Tokenizer) -> str | None:
    """Return the template in Ollama's language, or None when the model's renders something that is not known here."""
    try:
        rendered = tokenizer.render(_PROBE, add_generation_prompt=True)
    except ToolkitError:
        return None
    # llama.cpp adds the beginning of text itself.
    start = "" if tokenizer.bos_id is None else tokenizer.id_to_token(tokenizer.bos_id)
    for render, template in _TEMPLATES:
        if rendered.removeprefix(start) == render(_PROBE):
            return template
    return None
