"""What teaches a model to answer badly: chatbot talk, missing context, answers that break off, loop or echo."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from toolkit.datasets.schema import Example

_AS_AN_AI = (
    "as an ai", "as a language model", "as a large language model", "i am an ai", "i'm an ai",
    "i am a language model", "i'm a language model", "i cannot browse", "i can't browse", "my knowledge cutoff",
    "my training data", "as of my last update",
)  # fmt: skip
_POINTS_AT_CONTEXT = (
    "in the passage", "the passage above", "according to the passage", "the text above", "in the text above",
    "the given text", "the given context", "the provided context", "the context provided", "the provided text",
    "according to the context", "according to the text", "according to the article", "in the article",
    "the document above", "the table above", "the provided document",
)  # fmt: skip
_INPUT_SHOULD_FOLLOW = re.compile(r"\b(?:following|below)\b[^.?!\n]*:\s*$", re.IGNORECASE)
_CONTEXT_WORDS = 30
_OPEN_WORDS = frozenset(
    "a an the and or but of to with for from in on at by is are was were that which because if than".split()
)
_SENTENCE_WORDS = 8
_ECHO_WORDS = 4
_REPEATED_WORDS, _REPEATED_RUN, _REPEATED_SHARE = 24, 4, 0.5
_QUOTED_SYSTEM_WORDS = 12


def judge_answer(
    example: Example, prompt: str, answer: str, prompt_words: Sequence[str], answer_words: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yield (kind of finding, what is wrong) about an example's last answer; of a plain text only loops count."""
    if repeats_itself(answer_words):
        yield "repetition", f"half of the answer's runs of {_REPEATED_RUN} words repeat earlier ones"
    if example.text is not None:
        return
    lower = answer.lower()
    phrase = next((phrase for phrase in _AS_AN_AI if phrase in lower), None)
    if phrase is not None:
        yield "as-an-ai", f"the answer says {phrase!r}"
    missing = _missing_context(example, prompt, lower, prompt_words)
    if missing:
        yield "missing-context", missing
    broken = _breaks_off(answer, answer_words)
    if broken:
        yield "truncated", broken
    if len(prompt_words) >= _ECHO_WORDS and list(answer_words[: len(prompt_words)]) == list(prompt_words):
        yield "echo", "the answer begins with the whole question"


def repeats_itself(words: Sequence[str]) -> bool:
    """Say whether at least half of a text's runs of four words stand in it before, as when a model loops."""
    if len(words) < _REPEATED_WORDS:
        return False
    runs = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    return 1 - len(set(runs)) / len(runs) >= _REPEATED_SHARE


def quotes_system_prompt(system_words: Sequence[str], answer_words: Sequence[str]) -> bool:
    """Say whether an answer holds twelve words of its system prompt in a row."""
    if len(system_words) < _QUOTED_SYSTEM_WORDS or len(answer_words) < _QUOTED_SYSTEM_WORDS:
        return False
    return not _runs_of(tuple(system_words)).isdisjoint(_runs(answer_words))


@lru_cache(maxsize=64)
def _runs_of(words: tuple[str, ...]) -> frozenset[tuple[str, ...]]:
    return frozenset(_runs(words))


def _runs(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(words[i : i + _QUOTED_SYSTEM_WORDS]) for i in range(len(words) - _QUOTED_SYSTEM_WORDS + 1))


def _missing_context(example: Example, prompt: str, lower_answer: str, prompt_words: Sequence[str]) -> str:
    if _INPUT_SHOULD_FOLLOW.search(prompt):
        return "the question ends where its input should follow"
    if len(example.messages) > 2 or len(prompt_words) >= _CONTEXT_WORDS:
        return ""
    phrase = next((phrase for phrase in _POINTS_AT_CONTEXT if phrase in lower_answer), None)
    return f"the answer speaks of {phrase!r}, but the question brings no text" if phrase else ""


def _breaks_off(answer: str, words: Sequence[str]) -> str:
    if answer.count("```") % 2:
        return "a code block is not closed"
    end = answer.rstrip()
    if len(words) < _SENTENCE_WORDS or not end:
        return ""
    if end.endswith((",", "(")):
        return f"the answer ends in {end[-1]!r}"
    if end[-1].isalpha() and words[-1] in _OPEN_WORDS:
        return f"the answer ends in {words[-1]!r}"
    return ""
