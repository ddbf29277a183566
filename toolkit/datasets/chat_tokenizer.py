"""What tokenising conversations asks of a tokenizer: met by a model folder's and by the one inside a .gguf file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from toolkit.datasets.schema import Message


class TokenPlaces(Protocol):
    """The tokens of one text and the characters that each stands for."""

    @property
    def ids(self) -> list[int]:
        """Token ids, in order."""
        ...

    def char_to_token(self, character: int, /) -> int | None:
        """Return the index of the first token that stands for a character, or None where there is none."""
        ...

    def token_to_chars(self, token: int, /) -> tuple[int, int] | None:
        """Return the (start, end) of the characters of the token at this index."""
        ...


class ChatTokenizer(Protocol):
    """Renders conversations and knows where its tokens stand in the text."""

    @property
    def eos_id(self) -> int:
        """Id of the token that ends a text."""
        ...

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Every id that ends a turn."""
        ...

    @property
    def turn_end(self) -> str:
        """What the template writes after an assistant turn, up to and including its special token."""
        ...

    @property
    def turn_end_id(self) -> int | None:
        """Id of that special token; None when there is none."""
        ...

    @property
    def writes_generation_prompt(self) -> bool:
        """Whether `add_generation_prompt` makes a difference to the template."""
        ...

    @property
    def text_start_id(self) -> int | None:
        """Id of the token that the model's texts begin with; None where they begin with their first word."""
        ...

    def render(
        self, messages: Sequence[Message], /, *, add_generation_prompt: bool, tools: Sequence[Mapping[str, Any]] = ()
    ) -> str:
        """Write a conversation as one text. Raises ToolkitError when the template refuses it."""
        ...

    def encode_batch(self, texts: Sequence[str], /) -> Sequence[TokenPlaces]:
        """Encode rendered texts, special tokens parsed, nothing added."""
        ...

    def decode(self, ids: Sequence[int], /) -> str:
        """Return the text of some ids."""
        ...
