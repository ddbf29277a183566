"""How many tokens examples have, as the model's chat template writes them; what it refuses is a finding."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from toolkit.datasets.schema import Example, Message
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.datasets.turns import render_with_spans
from toolkit.datasets.validation.findings import Findings
from toolkit.errors import ToolkitError


def count_tokens(examples: Sequence[Example], tokenizer: Tokenizer, findings: Findings) -> list[int]:
    """Return the tokens of each example; where the template refuses one, those of its texts alone."""
    return tokenizer.count_batch([_rendered(example, tokenizer, findings) for example in examples])


def _rendered(example: Example, tokenizer: Tokenizer, findings: Findings) -> str:
    if example.text is not None:
        return example.text
    try:
        return render_with_spans(example.messages, tokenizer, example.tools).text
    except ToolkitError as error:
        kind = "no-tools" if example.uses_tools and not writes_tools(tokenizer) else "template"
        findings.add(kind, example.where, error.problems[0].what, error.problems[0].hint)
        return "\n".join(message.content for message in example.messages)


@lru_cache(maxsize=4)
def writes_tools(tokenizer: Tokenizer) -> bool:
    """Say whether a model's template does anything with tools: where it does not, no single example is at fault."""
    tool = {"type": "function", "function": {"name": "probe", "parameters": {"type": "object", "properties": {}}}}
    asked = [Message("user", "Hello")]
    try:
        without = tokenizer.render(asked, add_generation_prompt=False)
        return tokenizer.render(asked, add_generation_prompt=False, tools=[tool]) != without
    except ToolkitError:
        return False
