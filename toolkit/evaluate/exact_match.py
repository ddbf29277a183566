"""Exact match: does greedy decoding give the reference answer, character for character?

The only normalisation is that white space at both ends is stripped. An answer that has not ended after the tokens it is
given is wrong, even when it begins with the reference: a model that never stops has not learnt the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from toolkit.datasets.turns import render_with_spans
from toolkit.evaluate.intervals import Estimate, wilson_interval
from toolkit.evaluate.questions import Question
from toolkit.protocols import Sampling, Scorer

if TYPE_CHECKING:
    from toolkit.datasets.tokenizer import Tokenizer
    from toolkit.gguf_backend.tokenizer import GgufTokenizer

SPARE_TOKENS = 16
"""Tokens that an answer may take beyond its reference: the same text can be spelt with more, shorter tokens."""


@dataclass(frozen=True)
class Answer:
    """What a target said. `finished` is False when it ran out of tokens; `correct` is exact match, and finished."""

    text: str
    finished: bool
    correct: bool


def normalise(text: str) -> str:
    """Strip white space at both ends; case, punctuation and inner spacing count."""
    return text.strip()


def judge(text: str, finished: bool, reference: str) -> Answer:
    """Compare an answer with its reference."""
    return Answer(text, finished, finished and normalise(text) == normalise(reference))


def expected_text(question: Question, tokenizer: Tokenizer | GgufTokenizer) -> str:
    """Return what a target should write: the reference, or tool calls as the target's own chat template spells them.

    Raises ToolkitError when the template cannot write the calls.
    """
    if question.answer is None or not question.answer.tool_calls:
        return question.reference
    answer = replace(question.answer, trained=True)
    # A .gguf's tokenizer has the same face.
    chat = render_with_spans((*question.messages, answer), cast("Tokenizer", tokenizer), question.tools)
    start, end = chat.spans[-1]
    ends = [tokenizer.decode([stop]) for stop in tokenizer.stop_ids]
    last = max((stop for stop in ends if stop and chat.text[:end].endswith(stop)), key=len, default="")
    return chat.text[start:end].removesuffix(last)


def answer_questions(
    scorer: Scorer,
    tokenizer: Tokenizer | GgufTokenizer,
    questions: Sequence[Question],
    *,
    context: int | None = None,
    batch_size: int = 32,
    advance: Callable[[int], None] | None = None,
) -> list[Answer]:
    """Ask every question, greedily, and return the answers in the order of the questions.

    context: longest sequence that the model takes; a question without room for its reference counts as unanswered
    advance: called with the number of questions done
    """
    answers: list[Answer] = [Answer("", False, False)] * len(questions)
    prompts = [tokenizer.encode_chat(question.messages, True, question.tools) for question in questions]
    expected = [expected_text(question, tokenizer) for question in questions]
    references = [len(tokenizer.encode(text)) + 1 for text in expected]  # with the end-of-turn token
    for chosen, limit in _plan([len(prompt) for prompt in prompts], references, context, batch_size):
        if limit > 0:
            sampling = Sampling(max_new_tokens=limit, temperature=0.0, stop_ids=tuple(tokenizer.stop_ids))
            texts = _generate(scorer, tokenizer, [prompts[i] for i in chosen], sampling)
            for i, (text, finished) in zip(chosen, texts, strict=True):
                answers[i] = judge(text, finished, expected[i])
        if advance is not None:
            advance(len(chosen))
    return answers


def _plan(
    prompts: Sequence[int], references: Sequence[int], context: int | None, batch_size: int
) -> list[tuple[list[int], int]]:
    """Group questions into (indices, new tokens allowed), given the lengths of prompts and references in tokens.

    A batch goes on until its longest row is done, so answers of like length go together; and only as many as all fit
    into the context with the spare tokens. One that does not fit even by itself gets what room there is, or 0 where
    there is none for its reference.
    """
    plan: list[tuple[list[int], int]] = []
    for i in sorted(range(len(prompts)), key=lambda i: (references[i], prompts[i], i)):
        limit = references[i] + SPARE_TOKENS
        chosen = [*plan[-1][0], i] if plan else [i]
        fits = context is None or max(prompts[j] for j in chosen) + limit <= context
        if plan and fits and len(chosen) <= batch_size:
            plan[-1] = (chosen, limit)
        elif context is None or prompts[i] + limit <= context:
            plan.append(([i], limit))
        else:
            room = context - prompts[i]
            plan.append(([i], room if room >= references[i] else 0))
    return plan


def _generate(
    scorer: Scorer, tokenizer: Tokenizer | GgufTokenizer, prompts: Sequence[Sequence[int]], sampling: Sampling
) -> list[tuple[str, bool]]:
    """Collect the streamed tokens of each row into (text, finished)."""
    tokens: list[list[int]] = [[] for _ in prompts]
    finished = [False] * len(prompts)
    for item in scorer.generate(prompts, sampling):
        if item.token is not None:
            tokens[item.row].append(item.token)
        if item.finish_reason == "stop":
            finished[item.row] = True
    # Special tokens stay visible: an answer with a stray <|im_start|> in it is not the reference.
    return [(tokenizer.decode(row), done) for row, done in zip(tokens, finished, strict=True)]


def exact_match(answers: Sequence[Answer]) -> Estimate:
    """Return the share of correct answers with Wilson's 95 % interval. Raises ValueError without answers."""
    return wilson_interval(sum(answer.correct for answer in answers), len(answers))
