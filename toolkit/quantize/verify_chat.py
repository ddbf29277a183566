"""The chat gate: is a conversation the same text and the same ids on both sides, and does generation end?"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from toolkit.datasets.schema import Example
from toolkit.errors import ToolkitError
from toolkit.gguf_backend.python_template import python_template
from toolkit.gguf_backend.tokenizer import GgufTokenizer
from toolkit.quantize.probes import CONVERSATIONS, TOOL_CONVERSATIONS
from toolkit.quantize.samples import Samples
from toolkit.quantize.source import Source
from toolkit.quantize.verify_text import normal_text


@dataclass
class _Tally:
    """What was found while conversations were compared."""

    compared: int = 0
    refused: int = 0
    different_texts: int = 0
    different_ids: int = 0
    bos: Counter[int] = field(default_factory=Counter)


def chat_gate(source: Source, ours: GgufTokenizer, samples: Samples) -> tuple[bool, dict[str, Any]]:
    """Render conversations as trained, from the file as this toolkit does and as llama-cpp-python does; compare.

    With a system message, over several turns, with tools offered, called and answered, each with and without the
    prompt for an answer. Then llama.cpp is asked whether it ends at every stop token, and where texts begin and end.
    Returns (passed, figures).
    """
    try:
        foreign = python_template(ours)
    except ToolkitError as error:
        return False, {"error": str(error)}
    tally = _Tally()
    examples = [*map(Example, CONVERSATIONS), *TOOL_CONVERSATIONS]
    for example in (*examples, *(one for one in samples.all if one.text is None)):
        for prompt in (False, True):
            _compare(source, ours, foreign, example, prompt, tally)
    stops = source.tokenizer.stop_ids
    figures = {
        "conversations": tally.compared,
        "refused_by_the_template": tally.refused,
        "tools": "rendered" if knows_tools(source) else "the template has none",
        "different_texts": tally.different_texts,
        "different_ids": tally.different_ids,
        "bos_in_a_conversation": max(tally.bos, default=0),
        "wrong_bos": sum(count for found, count in tally.bos.items() if found > 1),
        "stop_tokens": [source.tokenizer.id_to_token(token) for token in stops],
        "never_ending": [ours.id_to_token(token) for token in stops if not ours.ends_generation(token)],
        "eos_differs": ours.eos_id != source.tokenizer.eos_id,
        "bos_differs": source.tokenizer.bos_id not in (None, ours.bos_id)
        or ours.adds_bos != source.vocabulary.adds_bos,
        "sha256": hashlib.sha256((ours.chat_template or "").encode()).hexdigest(),
    }
    faults = ("different_texts", "different_ids", "wrong_bos", "never_ending", "eos_differs", "bos_differs")
    return tally.refused < tally.compared and not any(figures[fault] for fault in faults), figures


def knows_tools(source: Source) -> bool:
    """Say whether the template writes anything of the tools that are offered to it."""
    offered = TOOL_CONVERSATIONS[0]

    def render(example: Example) -> str | None:
        return _text(lambda: source.tokenizer.render(example.messages, add_generation_prompt=True, tools=example.tools))

    return render(offered) != render(Example(offered.messages))


def _compare(
    source: Source,
    ours: GgufTokenizer,
    foreign: Callable[..., str],
    example: Example,
    prompt: bool,
    tally: _Tally,
) -> None:
    """Render and encode one conversation on all sides; what a template refuses, all must refuse."""
    messages, tools = example.messages, example.tools
    trained = _text(lambda: source.tokenizer.render(messages, add_generation_prompt=prompt, tools=tools))
    mine = _text(lambda: ours.render(messages, add_generation_prompt=prompt, tools=tools))
    theirs = _text(lambda: foreign(messages, tools, prompt))
    tally.compared += 1
    tally.different_texts += not trained == mine == theirs
    if trained is None or theirs is None:
        tally.refused += 1
        return
    expected = source.tokenizer.encode(normal_text(source, trained), parse_special=True)
    got = ours.encode(normal_text(source, theirs), parse_special=True)
    tally.different_ids += expected != got
    if source.tokenizer.bos_id is not None:
        tally.bos[got.count(source.tokenizer.bos_id)] += 1


def _text(render: Callable[[], str]) -> str | None:
    try:
        return render()
    except ToolkitError:
        return None
