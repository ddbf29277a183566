"""A context for a task as an answer: `context.py` chooses and packs, the pieces get their fences here."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field

from toolkit.mcp_server.answers import NewNonce
from toolkit.mcp_server.fences import Fence, printable, random_nonce
from toolkit.mcp_server.settings import Services


class PartView(BaseModel):
    """A piece of the context."""

    kind: str
    id: str
    source: str
    tokens: int
    preservation: str | None = None


class LeftOutView(BaseModel):
    """Something that was relevant and is not in the context."""

    kind: str
    id: str
    reason: str


class ContextAnswer(BaseModel):
    """A context for a task: strict items first, word for word, then what is most relevant."""

    fence: str
    text: str = Field(description="The context; each piece between the fence's marks, with its source.")
    tokens: int = Field(description="How many tokens it is, marks included, by the server's count.")
    parts: list[PartView]
    left_out: list[LeftOutView] = Field(description="What did not fit, or was held back, and why; at most 50.")
    left_out_count: int
    notes: list[str]


def assemble(
    services: Services,
    query: str,
    token_budget: int,
    *,
    namespaces: Sequence[str] | None = None,
    kinds: Sequence[str] = ("memory", "document"),
    new_nonce: NewNonce = random_nonce,
) -> ContextAnswer:
    """Assemble a context within a budget that counts the fences too."""
    fence, context = _with_fences(services, query, token_budget, namespaces, kinds, new_nonce)
    return ContextAnswer(
        fence=fence.nonce,
        text=context.text,
        tokens=context.tokens,
        parts=[
            PartView(
                kind=part.kind,
                id=part.id,
                source=printable(source_of(part)),
                tokens=part.tokens,
                preservation=part.preservation,
            )
            for part in context.parts
        ],
        left_out=[LeftOutView(kind=one.kind, id=one.id, reason=one.reason) for one in context.left_out],
        left_out_count=context.left_out_count,
        notes=list(context.notes),
    )


def _with_fences(
    services: Services,
    query: str,
    token_budget: int,
    namespaces: Sequence[str] | None,
    kinds: Sequence[str],
    new_nonce: NewNonce,
) -> tuple[Fence, Any]:
    fence = Fence((), new_nonce)
    context = services.memory.assemble_context(
        query,
        token_budget,
        namespaces=namespaces,
        kinds=tuple(kinds),
        render=lambda part: fence.around(part.text, source_of(part)),
    )
    # What is chosen is known only now: a nonce that turns out to be part of a text is drawn again.
    if any(fence.nonce in part.text for part in context.parts):
        return _with_fences(services, query, token_budget, namespaces, kinds, new_nonce)
    return fence, context


def source_of(part: Any) -> str:
    """Say where a part of a context is from."""
    if part.kind == "memory":
        return f"memory item {part.id}, {part.preservation}"
    hit = part.hit
    return citation(part.source or f"document {part.id}", hit.start_line, hit.end_line, hit.page)


def citation(path: str, start_line: int | None, end_line: int | None, page: int | None) -> str:
    """Return a source as people cite it: the file with its lines, or its page."""
    if page is not None:
        return f"{path}, page {page}"
    if start_line is None:
        return path
    return (
        f"{path}, lines {start_line}-{end_line}" if end_line not in (None, start_line) else f"{path}, line {start_line}"
    )
