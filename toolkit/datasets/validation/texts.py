"""An example as validation looks at it: its prompt, its answer, their words, and numbers that stand for them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from hashlib import blake2b

from toolkit.datasets.schema import Example, Message

# Operators count as words: `12 + 7` and `12 - 7` are different questions. Without spaces, a character is a word.
_ASCII_WORDS = re.compile(r"[a-z0-9_]+|[-+*/=<>^%]")
_WORDS = re.compile(
    "[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
    "|[^\\W\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+|[-+*/=<>^%\u2212\u00d7\u00f7]"
)
_UNSPACED = re.compile("[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_QUOTED = re.compile(r"\"[^\"\n]*\"|`[^`\n]*`|'[^'\n]{2,}'(?!\w)|“[^”\n]*”|```.*?```", re.DOTALL)
_NUMBERS = re.compile(r"\d+(?:[.,:/]\d+)*")
# A capitalised word behind a lower-case letter, a comma or the like: a name, not the beginning of a sentence.
_NAMES = re.compile(r"(?<=[a-z0-9,;@#\"] )[A-Z][\w’'-]*")
_OPENING_WORDS = 3


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case, operators among them, other punctuation left out."""
    lower = text.lower()
    return (_ASCII_WORDS if lower.isascii() else _WORDS).findall(lower)


def count_words(text: str) -> int:
    """Count words as a person does: what stands between white space, or characters of a script without spaces."""
    unspaced = 0 if text.isascii() else len(_UNSPACED.findall(text))
    return len(text.split()) + unspaced


def prompt_of(example: Example) -> str:
    """Return what stands before the last answer, without the system turn; empty for a plain text."""
    return "\n".join(message.content for message in _before_answer(example) if message.role != "system")


def question_of(example: Example) -> str:
    """Return the last thing that the user says before the last answer; empty where there is none."""
    asked = [message.content for message in _before_answer(example) if message.role == "user"]
    return asked[-1] if asked else ""


def system_of(example: Example) -> str:
    """Return the system prompt, empty where there is none."""
    return example.messages[0].content if example.messages and example.messages[0].role == "system" else ""


def answer_of(example: Example) -> str:
    """Return the last answer, its calls written out; a plain text is all answer."""
    if example.text is not None:
        return example.text
    return _said(example.messages[_last_answer(example)])


def _said(message: Message) -> str:
    calls = [json.dumps(call.as_dict()["function"], sort_keys=True, ensure_ascii=False) for call in message.tool_calls]
    return "\n".join(part for part in (message.content, *calls) if part)


def _last_answer(example: Example) -> int:
    places = [index for index, message in enumerate(example.messages) if message.role == "assistant"]
    return places[-1] if places else len(example.messages) - 1


def _before_answer(example: Example) -> Iterable[Message]:
    return example.messages[: _last_answer(example)] if example.messages else ()


def number_of(text: str) -> int:
    """Return a 64-bit number that stands for a text (BLAKE2b), never 0."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little") or 1


def content_number(example: Example) -> int:
    """Return the number of everything that an example says: equal for exact duplicates, white space apart."""
    turns = [[m.role, " ".join(_said(m).split()), m.trained] for m in (*example.messages, *example.rejected)]
    text = "" if example.text is None else " ".join(example.text.split())
    tools = json.dumps([dict(tool) for tool in example.tools], sort_keys=True) if example.tools else ""
    return number_of(json.dumps([turns, len(example.messages), tools, text], ensure_ascii=False))


def template_of(prompt: str) -> str:
    """Return a prompt with its numbers, names and quoted texts taken out: what a generator's template leaves."""
    masked = _QUOTED.sub("«»", prompt)
    masked = _NUMBERS.sub("#", masked)
    return " ".join(_NAMES.sub("@", masked).lower().split())


def opening_of(template: str) -> str:
    """Return the first words of a template."""
    return " ".join(template.split(" ", _OPENING_WORDS)[:_OPENING_WORDS])
