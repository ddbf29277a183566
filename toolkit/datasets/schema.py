"""What an example is, whatever file it came from: a conversation, its metadata and the place where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Role = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True)
class Message:
    """One turn. `role` is system | user | assistant."""

    role: str
    content: str

    def as_dict(self) -> dict[str, str]:
        """Return the mapping that chat templates expect."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True)
class Example:
    """A conversation with at least one assistant turn.

    messages: the turns, in order
    metadata: what the record said about itself (`id`, `category`, `key`, …); `{}` when it said nothing
    where:    `file:line`, for messages to the user
    """

    messages: tuple[Message, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""

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
