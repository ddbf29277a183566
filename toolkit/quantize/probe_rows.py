"""Which rows of tokens two models are compared on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.datasets.chat import tokenize_examples
from toolkit.datasets.schema import Example, Message
from toolkit.errors import ToolkitError
from toolkit.quantize.probes import CONVERSATIONS, TEXTS
from toolkit.quantize.samples import Samples, spread
from toolkit.quantize.source import Speaking

_SHORT_ROW, _LONG_ROW = 96, 256
_LOGITS_BUDGET_FLOATS = 2**26  # 256 MB for each set of logits that is compared
_FEWEST, _MOST = 384, 1536
_HELD_OUT, _TRAINED = 16, 4


@dataclass(frozen=True)
class ProbeRows:
    """Rows of tokens, and where the assistant's answers stand in them.

    tokens:       one list of ids for each row
    answers:      for each row (T,) bool: the tokens on which greedy choices are compared
    answers_from: whose answers these are, in words
    """

    tokens: list[list[int]]
    answers: list[NDArray[np.bool_]]
    answers_from: str


def choose_rows(source: Speaking, samples: Samples, context: int) -> ProbeRows:
    """Choose the probe conversations, examples of the data, and one long text (rotary faults show far out).

    The larger the vocabulary, the fewer positions: their logits must fit into memory.
    """
    budget = max(_FEWEST, min(_MOST, _LOGITS_BUDGET_FLOATS // source.vocabulary_rows))
    long_text = "\n".join(text for text in TEXTS if text.isprintable())
    long_row = source.tokenizer.encode(long_text)[: min(_LONG_ROW, context)]
    probes = [Example(conversation) for conversation in CONVERSATIONS]
    held_out = spread(samples.held_out, _HELD_OUT)
    rows, answers = [long_row], [np.zeros(len(long_row), bool)]
    for example in (*probes, *held_out, *spread(samples.training, _TRAINED)):
        ids, answer = _row(source, example, min(_SHORT_ROW, context))
        if len(ids) < 2 or sum(map(len, rows)) + len(ids) > budget:
            continue
        rows.append(ids)
        wanted = any(example is one for one in (held_out or probes))
        answers.append(answer if wanted else np.zeros(len(ids), bool))
    return ProbeRows(rows, answers, "the run's held-out data" if held_out else "the probe conversations")


def probe_rows(source: Speaking, conversations: Sequence[Sequence[Message]], context: int) -> list[list[int]]:
    """Choose rows as `choose_rows` does, from conversations alone."""
    examples = tuple(Example(tuple(conversation)) for conversation in conversations)
    return choose_rows(source, Samples(examples), context).tokens


def _row(source: Speaking, example: Example, length: int) -> tuple[list[int], NDArray[np.bool_]]:
    """Return the first `length` ids of an example and which of them are the assistant's; none if it is refused."""
    try:
        (done,) = tokenize_examples([example], source.tokenizer, length).examples
        return done.tokens.tolist(), (done.loss_weights != 0) & (np.arange(len(done.tokens)) > 0)
    except ToolkitError:
        pass  # nothing in it can be trained: no answer, or one behind the cut
    try:
        ids = source.tokenizer.encode_chat(example.messages, False, example.tools)[:length]
    except ToolkitError:
        return [], np.zeros(0, bool)  # some templates refuse a system message
    return ids, np.zeros(len(ids), bool)
