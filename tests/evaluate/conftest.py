"""Fakes for evaluation: a byte tokenizer and a scorer that knows its answers by heart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pytest

from toolkit.datasets.schema import Example, Message
from toolkit.protocols import Batch, GeneratedToken, Sampling

END = 256
PAD = 257


class ByteTokenizer:
    """One token per UTF-8 byte, and two special tokens."""

    stop_ids = (END,)
    pad_id = PAD

    def encode(self, text: str, *, parse_special: bool = False) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        return bytes(token for token in ids if token < 256).decode(errors="replace")

    def encode_chat(
        self, messages: Sequence[Message], add_generation_prompt: bool, tools: Sequence[object] = ()
    ) -> list[int]:
        return self.encode("".join(f"{message.role}: {message.content}\n" for message in messages) + "assistant: ")


class KnowingScorer:
    """Answers by the user's last words, one token of each row at a time, and remembers what it was asked."""

    def __init__(self, answers: Mapping[str, str], *, endless: Sequence[str] = ()) -> None:
        self.answers = dict(answers)
        self.endless = set(endless)
        self.calls: list[tuple[int, Sampling]] = []

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterator[GeneratedToken]:
        self.calls.append((len(prompts), sampling))
        streams = []
        for prompt in prompts:
            asked = bytes(prompt).decode().rsplit("user: ", 1)[1].removesuffix("\nassistant: ")
            streams.append((asked, list(self.answers.get(asked, "?").encode())))
        for position in range(sampling.max_new_tokens + 1):
            for row, (asked, tokens) in enumerate(streams):
                yield from self._token(row, asked, tokens, position, sampling.max_new_tokens)

    def _token(self, row: int, asked: str, tokens: list[int], position: int, limit: int) -> Iterator[GeneratedToken]:
        stop = len(tokens) if asked not in self.endless else limit + 1
        if position < min(stop, limit):
            yield GeneratedToken(row, tokens[position] if position < len(tokens) else ord("!"))
        elif position == stop:
            yield GeneratedToken(row, None, "stop")
        elif position == limit:
            yield GeneratedToken(row, None, "length")


class UniformScorer:
    """Gives every token of a row the NLL that its first token names, in nats."""

    def evaluate(self, batch: Batch) -> tuple[float, float]:
        assert batch.tokens.shape[0] == 1, "one example at a time"
        return float(batch.tokens[0, 0]) * batch.trained_weight, batch.trained_weight


@pytest.fixture
def byte_tokenizer() -> ByteTokenizer:
    """A tokenizer whose ids are bytes."""
    return ByteTokenizer()


@pytest.fixture
def knowing_scorer() -> type[KnowingScorer]:
    """The class of scorers that answer from a dictionary."""
    return KnowingScorer


@pytest.fixture
def uniform_scorer() -> UniformScorer:
    """A scorer with known losses."""
    return UniformScorer()


@pytest.fixture
def example():
    """Build an example from a question, an answer and perhaps a family."""

    def build(question: str, answer: str, category: str | None = None, where: str = "") -> Example:
        metadata = {} if category is None else {"category": category}
        return Example((Message("user", question), Message("assistant", answer)), metadata, where or f"data:{question}")

    return build
