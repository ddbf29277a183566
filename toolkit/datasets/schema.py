"""What an example is, whatever file it came from: a conversation, its metadata and the place where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call that the assistant makes.

    name:      of the function
    arguments: by name, decoded (never the JSON text of them): what chat templates expect
    id:        what a tool result names to say which call it answers, where the record gives one
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the mapping that chat templates expect."""
        identity = {} if self.id is None else {"id": self.id}
        return {**identity, "type": "function", "function": {"name": self.name, "arguments": dict(self.arguments)}}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn.

    role:         system | user | assistant | tool
    content:      text; empty where an assistant turn holds calls alone
    tool_calls:   calls of an assistant turn, after its content
    name:         of the function whose result a tool turn holds, where the record gives one
    tool_call_id: the call that a tool turn answers, where the record names it
    trained:      False keeps an assistant turn out of the loss (`weight: 0`)
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    name: str | None = None
    tool_call_id: str | None = None
    trained: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return the mapping that chat templates expect: only the fields that the turn has."""
        fields: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            fields["tool_calls"] = [call.as_dict() for call in self.tool_calls]
        if self.name is not None:
            fields["name"] = self.name
        if self.tool_call_id is not None:
            fields["tool_call_id"] = self.tool_call_id
        return fields


@dataclass(frozen=True, slots=True)
class Example:
    """Something to learn from: a conversation with at least one trained assistant turn, or a plain text.

    messages: the turns, in order; none when the example is a text
    metadata: what the record said about itself (`id`, `category`, `key`, …); `{}` when it said nothing
    where:    `file:line`, for messages to the user
    tools:    JSON schemas of the functions that the assistant may call, for the chat template
    text:     plain text, every token trained; None for a conversation
    rejected: of a preference pair, the worse conversation; `messages` is the better one. Both begin with the prompt
    """

    messages: tuple[Message, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    text: str | None = None
    rejected: tuple[Message, ...] = ()

    @property
    def key(self) -> str | None:
        """The semantic key (operands, term and phrasing, …): examples that share it stand on one side of a split."""
        key = self.metadata.get("key")
        return None if key is None else str(key)

    @property
    def category(self) -> str | None:
        """The family that the example belongs to, if the record names one."""
        category = self.metadata.get("category")
        return None if category is None else str(category)

    @property
    def uses_tools(self) -> bool:
        """Whether tools are offered, called or answered for."""
        return bool(self.tools) or any(message.tool_calls or message.role == "tool" for message in self.messages)
