"""Examples → token ids with a loss weight each: 1 on every trained assistant turn and what ends it, 0 elsewhere.

A plain text is trained as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from toolkit.datasets.chat_tokenizer import ChatTokenizer, TokenPlaces
from toolkit.datasets.problems import condense
from toolkit.datasets.schema import Example
from toolkit.datasets.turns import RenderedChat, render_with_spans
from toolkit.errors import Problem, ToolkitError

# Texts and characters handed to the tokenizer at once: enough for its threads, little enough to bound the memory that
# offsets take (about 150 bytes a token).
_CHUNK_TEXTS = 1000
_CHUNK_CHARACTERS = 1_000_000


@dataclass(frozen=True, eq=False)
class TokenizedExample:
    """One sequence of T tokens.

    tokens:       (T,) int32
    loss_weights: (T,) float32, the weight of predicting `tokens[t]` (what stands at 0 never trains)
    truncated:    it was longer than `max_seq_tokens`
    where:        `file:line`
    """

    tokens: NDArray[np.int32]
    loss_weights: NDArray[np.float32]
    truncated: bool = False
    where: str = ""

    @property
    def trained_tokens(self) -> int:
        """Tokens that carry loss."""
        return int(np.count_nonzero(self.loss_weights[1:]))


@dataclass(frozen=True)
class TokenizedSet:
    """Examples ready for batching.

    examples:  in the order given, without the dropped ones
    truncated: how many were cut to `max_seq_tokens` (the dropped ones not counted)
    dropped:   one problem for each example whose trained tokens all lie beyond the cut; show them as warnings
    """

    examples: list[TokenizedExample]
    truncated: int
    dropped: tuple[Problem, ...] = ()


def tokenize_examples(examples: Sequence[Example], tokenizer: ChatTokenizer, max_seq_tokens: int) -> TokenizedSet:
    """Render, tokenise and weigh examples.

    The ids are those of the whole rendered conversation encoded at once, as a server encodes it. Where the template
    puts nothing behind the assistant's last turn, the end-of-text token is appended and trained.

    Args:
        examples: conversations, rendered by the chat template, and plain texts, taken as they are.
        tokenizer: the model's, from its folder or from a .gguf file.
        max_seq_tokens: longer examples lose their end.

    Raises:
        ToolkitError: conversations that the template refuses or in which nothing can be learnt (each with file and
            line, gathered), or a limit so low that no example keeps a trained token.
    """
    problems: list[Problem] = []
    dropped: list[Problem] = []
    kept: list[TokenizedExample] = []
    for rendered in _chunks(examples, tokenizer, problems):
        encodings = tokenizer.encode_batch([chat.text for _, chat in rendered])
        for (example, chat), encoding in zip(rendered, encodings, strict=True):
            tokens, weights = _weigh(chat, encoding, tokenizer)
            cut = _cut(tokens, weights, max_seq_tokens, example.where)
            if cut.trained_tokens:
                kept.append(cut)
            else:
                dropped.append(_beyond_the_cut(max_seq_tokens, example.where))
    if problems:
        raise ToolkitError.gather(condense(problems))
    if not kept:
        raise ToolkitError.gather(condense(dropped) or [Problem("there are no examples to learn from")])
    return TokenizedSet(kept, sum(example.truncated for example in kept), tuple(dropped))


def trained_pieces(example: TokenizedExample, tokenizer: ChatTokenizer) -> list[tuple[str, bool]]:
    """Return an example as (text, is it trained) pieces, for showing a person what the loss sees."""
    marks = zip(example.tokens.tolist(), (example.loss_weights != 0).tolist(), strict=True)
    return [
        (tokenizer.decode([token for token, _ in run]), trained) for trained, run in groupby(marks, key=lambda m: m[1])
    ]


def _chunks(
    examples: Sequence[Example], tokenizer: ChatTokenizer, problems: list[Problem]
) -> Iterator[list[tuple[Example, RenderedChat]]]:
    """Render examples and yield them in chunks that are bounded in number and in characters."""
    chunk: list[tuple[Example, RenderedChat]] = []
    characters = 0
    for example in examples:
        chat = _render(example, tokenizer, problems)
        if chat is None:
            continue
        chunk.append((example, chat))
        characters += len(chat.text)
        if len(chunk) >= _CHUNK_TEXTS or characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    yield chunk


def _render(example: Example, tokenizer: ChatTokenizer, problems: list[Problem]) -> RenderedChat | None:
    if example.text is not None:
        return RenderedChat(example.text, (), append_end=True, plain=True)
    if not any(message.role == "assistant" for message in example.messages):
        problems.append(Problem("no assistant turn: there is nothing to learn", example.where))
        return None
    try:
        return render_with_spans(example.messages, tokenizer, example.tools)
    except ToolkitError as error:
        problems.extend(Problem(problem.what, example.where, problem.hint) for problem in error.problems)
        return None


def _weigh(
    chat: RenderedChat, encoding: TokenPlaces, tokenizer: ChatTokenizer
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return ids (T,) and weights (T,) of a rendered conversation or a plain text."""
    if chat.plain:
        tokens = _text_ids(encoding.ids, tokenizer)
        return tokens, np.ones(len(tokens), dtype=np.float32)
    ids = [*encoding.ids, tokenizer.eos_id] if chat.append_end else encoding.ids
    tokens = np.asarray(ids, dtype=np.int32)
    weights = np.zeros(len(tokens), dtype=np.float32)
    for start, end in chat.spans:
        first, stop = _token_range(encoding, start, end)
        # Some templates let the next turn's opening token end this one (GLM): the model stops there, so it is trained.
        if stop < len(encoding.ids) and tokenizer.turn_end_id is None and encoding.ids[stop] in tokenizer.stop_ids:
            stop += 1
        weights[first:stop] = 1.0
    if chat.append_end:
        weights[-1] = 1.0
    return tokens, weights


def _cut(tokens: NDArray[np.int32], weights: NDArray[np.float32], max_seq_tokens: int, where: str) -> TokenizedExample:
    if len(tokens) <= max_seq_tokens:
        return TokenizedExample(tokens, weights, False, where)
    # Copied, since a view would keep the whole text's arrays.
    return TokenizedExample(tokens[:max_seq_tokens].copy(), weights[:max_seq_tokens].copy(), True, where)


def _text_ids(ids: Sequence[int], tokenizer: ChatTokenizer) -> NDArray[np.int32]:
    """Put the model's beginning-of-text token before a text, where it has one, and its end-of-text token behind."""
    start = [] if tokenizer.text_start_id in (None, *ids[:1]) else [tokenizer.text_start_id]
    end = [] if list(ids[-1:]) == [tokenizer.eos_id] else [tokenizer.eos_id]
    return np.asarray([*start, *ids, *end], dtype=np.int32)


def _token_range(encoding: TokenPlaces, start: int, end: int) -> tuple[int, int]:
    """Return [first, stop) of the tokens that begin at or behind character `start` and hold characters before `end`.

    A token that begins before `start` is part of the prompt: the model never has to write it.
    """
    first = next(_tokens_of(encoding, range(start, end)), None)
    if first is None:
        return 0, 0
    count = len(encoding.ids)
    while first < count and _first_character(encoding, first) < start:
        first += 1
    # A character of several bytes may be spread over several tokens, of which the first is found.
    stop = next(_tokens_of(encoding, range(end - 1, start - 1, -1))) + 1
    while stop < count and _first_character(encoding, stop) < end:
        stop += 1
    return first, stop


def _first_character(encoding: TokenPlaces, token: int) -> int:
    place = encoding.token_to_chars(token)
    if place is None:
        raise IndexError(f"token {token} of {len(encoding.ids)}")
    return place[0]


def _tokens_of(encoding: TokenPlaces, characters: range) -> Iterator[int]:
    """Yield the token of each character in turn; characters that the normaliser dropped have none."""
    for character in characters:
        token = encoding.char_to_token(character)
        if token is not None:
            yield token


def _beyond_the_cut(max_seq_tokens: int, where: str) -> Problem:
    return Problem(
        f"its prompt alone fills max_seq_tokens {max_seq_tokens}, so nothing is left to learn",
        where,
        "Raise data.max_seq_tokens or shorten the prompt",
    )
