"""The tools that find: search of the memory and of documents, a context for a task, the policy, health."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from mcp.server.mcpserver.tools import Tool
from pydantic import BaseModel, Field

from toolkit import __version__
from toolkit.errors import ToolkitError
from toolkit.mcp_server.answers import HitView, NewNonce, SearchAnswer, warning, within
from toolkit.mcp_server.context_answers import ContextAnswer, assemble, citation
from toolkit.mcp_server.fences import Fence, printable, random_nonce
from toolkit.mcp_server.filters import Filters
from toolkit.mcp_server.items import Item
from toolkit.mcp_server.settings import SWITCHED_OFF, Services
from toolkit.mcp_server.tools import ItemId, Level, Name, Namespace, Query, Tags, make_tool

if TYPE_CHECKING:
    from toolkit.mcp_server.search import Hit

MAX_RESULTS = 50
MAX_CONTEXT_TOKENS = 50_000
MAX_NAMESPACES = 16

Limit = Annotated[int, Field(description="How many results at most.", ge=1, le=MAX_RESULTS)]
Mode = Annotated[
    Literal["hybrid", "text", "vector"],
    Field(description="hybrid: by words and meaning; text: words; vector: meaning."),
]
Diversity = Annotated[
    float | None, Field(description="0: relevance alone; towards 1: results that differ from each other.", ge=0, le=1)
]
Namespaces = Annotated[
    list[Name] | None, Field(description="Only in these namespaces; null: in all.", max_length=MAX_NAMESPACES)
]
Kinds = Annotated[list[Literal["memory", "document"]], Field(description="What to draw from.", min_length=1)]


class PolicyAnswer(BaseModel):
    """What the policy says."""

    policy: dict[str, Any]


class HealthAnswer(BaseModel):
    """How the server is."""

    ok: bool
    version: str
    store: str
    policy: str
    roots: list[str]
    items: int
    documents: int
    passages: int
    waiting_for_embedding: int
    model: str = Field(description="The embedding model, or why there is none.")
    model_state: Literal["ready", "loading", "off", "failed"]
    search_answers_from: Literal["words and meaning", "words alone"]


def search_tools(services: Callable[[], Services], new_nonce: NewNonce = random_nonce) -> list[Tool]:
    """Return the tools that find things, and those that explain."""
    return [*_finding(services, new_nonce), *_explaining(services)]


def _finding(services: Callable[[], Services], new_nonce: NewNonce) -> list[Tool]:
    def memory_search(
        query: Query,
        limit: Limit = 10,
        namespaces: Namespaces = None,
        tags: Annotated[Tags, Field(description="Items that have all of these tags.")] = [],  # noqa: B006
        preservation: Annotated[Level, Field(description="Items of this level.")] = None,
        mode: Mode = "hybrid",
        diversity: Diversity = None,
    ) -> SearchAnswer:
        """Find items of the memory by meaning and by words, best first."""
        found = services().memory.search(
            query,
            limit=limit,
            namespaces=namespaces,
            tags=tuple(tags),
            preservation=preservation,
            mode=mode,
            diversity=diversity,
        )
        return _search_answer([(one.hit, one.item) for one in found.results], found, services(), new_nonce)

    def documents_search(
        query: Query,
        limit: Limit = 10,
        namespaces: Namespaces = None,
        mode: Mode = "hybrid",
        diversity: Diversity = None,
    ) -> SearchAnswer:
        """Find passages of ingested documents by meaning and by words, with file and lines to cite."""
        filters = Filters(kinds=("document",), namespaces=namespaces)
        found = services().search.find(query, limit=limit, filters=filters, mode=mode, diversity=diversity)
        return _search_answer([(hit, None) for hit in found.hits], found, services(), new_nonce)

    def assemble_context(
        query: Query,
        token_budget: Annotated[int, Field(description="How many tokens it may take.", ge=50, le=MAX_CONTEXT_TOKENS)],
        namespaces: Namespaces = None,
        kinds: Kinds = ["memory", "document"],  # noqa: B006
    ) -> ContextAnswer:
        """Put together what is known about a task within a token budget.

        Strict items come first, word for word; then what is most relevant. Says what was left out, and why.
        """
        return assemble(services(), query, token_budget, namespaces=namespaces, kinds=kinds, new_nonce=new_nonce)

    return [
        make_tool(memory_search, title="Search the memory", reads=True),
        make_tool(documents_search, title="Search the documents", reads=True),
        make_tool(assemble_context, title="Context for a task", reads=True),
    ]


def _explaining(services: Callable[[], Services]) -> list[Tool]:
    def explain_policy(
        namespace: Namespace = None,
        tags: Annotated[Tags, Field(description="Tags that a new item would have.")] = [],  # noqa: B006
        id: Annotated[ItemId | None, Field(description="An item: what may be done to it.")] = None,
    ) -> PolicyAnswer:
        """Explain what may be changed, merged or forgotten.

        The whole policy; what a new item in a namespace with some tags would get; what may be done to an item.
        """
        item = services().memory.get(id) if id is not None else None
        return PolicyAnswer(policy=services().policy.explain(namespace=namespace, tags=tuple(tags), item=item))

    def health() -> HealthAnswer:
        """Say how the server is: its store, its policy, whether the embedding model is ready."""
        return health_of(services())

    return [
        make_tool(explain_policy, title="Explain the policy", reads=True),
        make_tool(health, title="Health", reads=True),
    ]


def _search_answer(
    results: "Sequence[tuple[Hit, Item | None]]", found: Any, services: Services, new_nonce: NewNonce
) -> SearchAnswer:
    paths: dict[str, str] = {}
    views = [_hit_view(hit, item, services, paths) for hit, item in results]
    shown = views[: within(view.model_dump_json() for view in views)]
    fence = Fence((view.text for view in shown), new_nonce)
    for view in shown:
        view.warning = warning(view.text)
        view.text = fence.around(view.text, view.source)
    return SearchAnswer(
        fence=fence.nonce, mode=found.mode, notes=list(found.notes), results=shown, left_out=len(views) - len(shown)
    )


def _hit_view(hit: "Hit", item: Item | None, services: Services, paths: dict[str, str]) -> HitView:
    text = f"{hit.heading}\n\n{hit.text}" if hit.heading and hit.kind == "document" else hit.text
    view = HitView(
        kind=hit.kind,
        id=hit.owner_id,
        namespace=hit.namespace,
        text=text,
        source=f"memory item {hit.owner_id}",
        score=hit.score,
        similarity=hit.similarity,
        start_line=hit.start_line,
        end_line=hit.end_line,
        page=hit.page,
    )
    if item is not None:
        view.preservation, view.tags, view.created_at = item.preservation, list(item.tags), item.created_at
    elif hit.kind == "document":
        path = paths.setdefault(hit.owner_id, _path_of(services, hit.owner_id))
        view.source = printable(citation(path, hit.start_line, hit.end_line, hit.page))
    return view


def _path_of(services: Services, document_id: str) -> str:
    try:
        return str(services.documents.get(document_id).path)
    except ToolkitError:  # removed since it was found
        return f"document {document_id}"


def health_of(services: Services) -> HealthAnswer:
    """Look at the parts of an opened server."""
    with services.store.reading() as connection:
        counts = [
            connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("items", "documents", "passages", "unembedded")
        ]
    state, model = _model_state(services)
    return HealthAnswer(
        ok=state != "failed",
        version=__version__,
        store=str(services.store.path),
        policy=str(services.settings.policy or "built in"),
        roots=[str(root) for root in services.settings.roots],
        items=counts[0],
        documents=counts[1],
        passages=counts[2],
        waiting_for_embedding=counts[3],
        model=model,
        model_state=state,
        search_answers_from="words and meaning" if state == "ready" else "words alone",
    )


def _model_state(services: Services) -> tuple[Literal["ready", "loading", "off", "failed"], str]:
    embedder, fault = services.embedder.current, services.embedder.error or services.indexer.error
    if not services.settings.embeds:
        return "off", SWITCHED_OFF
    if fault is not None:
        return "failed", fault
    return ("ready", embedder.name) if embedder is not None else ("loading", "is being loaded")
