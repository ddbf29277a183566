"""What a client may ask: the part of OpenAI's API that a local model can answer, checked before anything is computed.

Spec: https://platform.openai.com/docs/api-reference (chat completions, completions). Unknown fields are ignored, as
there; known ones that cannot be honoured are refused rather than ignored.
"""

from __future__ import annotations

import secrets
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from toolkit.datasets.schema import Message
from toolkit.protocols import Sampling

MAX_STOPS = 16
# Fields that change the answer, with the values that ask for nothing.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "tools": (None, []),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
    "presence_penalty": (None, 0, 0.0),
    "frequency_penalty": (None, 0, 0.0),
    "suffix": (None, ""),
    "echo": (None, False),
    "audio": (None,),
}


class RefusedError(Exception):
    """A request that cannot be answered: `message` for people, `param` and `code` for programs (both may be None)."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        """Keep the three parts of OpenAI's error object."""
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    include_usage: bool = False


class Request(BaseModel):
    """What both kinds of request share."""

    model_config = ConfigDict(extra="ignore")

    model: str = ""
    temperature: float = Field(default=0.8, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    seed: int | None = None
    stop: list[str] = Field(default=[], max_length=MAX_STOPS)
    stream: bool = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for name, harmless in _UNSUPPORTED.items():
                if values.get(name) not in harmless:
                    raise ValueError(f"{name}: not supported when trained weights are served; export to GGUF first")
            return {name: value for name, value in values.items() if value is not None}
        return values

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("stop")
    @classmethod
    def _no_empty_stop(cls, value: list[str]) -> list[str]:
        if "" in value:
            raise ValueError("an empty stop text would end every answer")
        return value

    def sampling(self, room: int, stop_ids: tuple[int, ...]) -> Sampling:
        """Say to a scorer how to pick; `room` is what the context leaves, in tokens. Without a seed one is drawn."""
        wanted = self.token_limit
        seed = secrets.randbits(31) if self.seed is None else self.seed % 2**31
        limit = room if wanted is None else min(wanted, room)
        return Sampling(limit, self.temperature, self.top_p, self.top_k, seed, stop_ids)

    @property
    def token_limit(self) -> int | None:
        """Longest answer asked for, in tokens."""
        raise NotImplementedError


class TurnPart(BaseModel):
    """A piece of a turn's content; text alone can be read."""

    type: Literal["text"]
    text: str


class Turn(BaseModel):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TurnPart]

    def message(self) -> Message:
        """Return it as the chat template sees it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message("system" if self.role == "developer" else self.role, text)


class ChatRequest(Request):
    """POST /v1/chat/completions."""

    messages: list[Turn] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)

    @property
    def token_limit(self) -> int | None:
        """Longest answer asked for; the newer name wins."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(Request):
    """POST /v1/completions: continue one text."""

    prompt: str
    max_tokens: int = Field(default=16, ge=1)

    @field_validator("prompt", mode="before")
    @classmethod
    def _single(cls, value: Any) -> Any:
        return value[0] if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str) else value

    @property
    def token_limit(self) -> int | None:
        """Longest answer asked for."""
        return self.max_tokens


def read_request(kind: type[ChatRequest] | type[CompletionRequest], body: bytes) -> ChatRequest | CompletionRequest:
    """Check a body. Raises RefusedError that names the first field at fault."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if not place and ": not supported" in message:
            place, message = message.split(": ", 1)
        raise RefusedError(f"{place}: {message}" if place else message, place or None) from error
