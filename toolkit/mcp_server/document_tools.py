"""The tools of documents: files and folders below the listed roots, read into the search."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import anyio
import anyio.from_thread
import anyio.to_thread
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.tools import Tool
from pydantic import BaseModel, Field

from toolkit.errors import ToolkitError
from toolkit.mcp_server.answers import NewNonce, number_of, within
from toolkit.mcp_server.fences import printable, random_nonce
from toolkit.mcp_server.settings import Services
from toolkit.mcp_server.tools import MAX_LISTED, Cursor, ItemId, Namespace, make_tool

MAX_SKIPPED = 20
MAX_REPORTS = 100
"""About how many reports of progress an ingest makes, however many files there are."""


class SkippedView(BaseModel):
    """A file that was not read, and why."""

    path: str
    reason: str


class IngestAnswer(BaseModel):
    """What became of the files."""

    added: int
    changed: int
    unchanged: int
    removed: int = Field(description="Documents whose files are gone.")
    skipped: list[SkippedView] = Field(description=f"At most {MAX_SKIPPED} files that were not read, and why.")
    skipped_count: int


class DocumentView(BaseModel):
    """A document that can be searched."""

    id: str
    namespace: str
    title: str
    path: str
    media_type: str
    size_bytes: int
    ingested_at: str


class DocumentsAnswer(BaseModel):
    """The documents, by path."""

    documents: list[DocumentView]
    roots: list[str] = Field(description="The folders that documents may be read from.")
    next_cursor: str | None = None


class RemovedAnswer(BaseModel):
    """A document after it was removed from the store; its file is untouched."""

    id: str
    path: str


def document_tools(services: Callable[[], Services], new_nonce: NewNonce = random_nonce) -> list[Tool]:
    """Return the tools that read documents in, list them and remove them; `documents_search` is in search_tools."""

    async def documents_ingest(
        path: Annotated[str, Field(description="A file or a folder below a root.", min_length=1, max_length=4_096)],
        context: Context,
        namespace: Namespace = None,
    ) -> IngestAnswer:
        """Read a file or a folder into the search: Markdown, text, code, HTML, PDF, DOCX.

        Again, it reads only what has changed and removes what is gone. Reports progress; can be cancelled.
        """
        return await _ingest(services, path, namespace, context)

    def documents_list(
        namespace: Namespace = None,
        limit: Annotated[int, Field(description="How many documents at most.", ge=1, le=MAX_LISTED)] = 50,
        cursor: Cursor = None,
    ) -> DocumentsAnswer:
        """List the documents that can be searched, and the folders that more may be read from."""
        opened = services()
        chosen = opened.policy.namespace_for(namespace) if namespace is not None else None
        found = opened.documents.list(chosen)
        start = number_of(cursor, len(found))
        views = [_document_view(one) for one in found[start : start + limit]]
        shown = views[: within(view.model_dump_json() for view in views)]
        after = start + len(shown)
        return DocumentsAnswer(
            documents=shown,
            roots=[str(root) for root in opened.settings.roots],
            next_cursor=str(after) if after < len(found) else None,
        )

    def documents_remove(id: ItemId) -> RemovedAnswer:
        """Remove a document from the search; its file is left alone."""
        removed = services().documents.remove(id)
        return RemovedAnswer(id=removed.id, path=str(removed.path))

    return [
        make_tool(documents_ingest, title="Read documents in", destroys=True, repeats=True),
        make_tool(documents_list, title="List documents", reads=True),
        make_tool(documents_remove, title="Remove a document", destroys=True),
    ]


async def _ingest(services: Callable[[], Services], path: str, namespace: str | None, context: Context) -> IngestAnswer:
    """Ingest on a thread. When the client cancels, the thread is told, and ends after the file that it is at."""
    stop = threading.Event()

    async def watch() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            stop.set()

    def progress(done: int, total: int, *_: object) -> None:
        if not stop.is_set() and (done % max(1, total // MAX_REPORTS) == 0 or done == total):
            anyio.from_thread.run(context.report_progress, done, total)

    def work() -> IngestAnswer | ToolkitError:
        # A fault is handed over, not raised: out of a task group it would come in a group of its own.
        try:
            opened = services()
            chosen = opened.policy.namespace_for(namespace)
            # Without a request (execution.py) there is nobody to report to.
            report = progress if context.protocol_version is not None else None
            return _ingest_answer(
                opened.documents.ingest(Path(path), namespace=chosen, progress=report, cancelled=stop.is_set)
            )
        except ToolkitError as error:
            return error

    answer: IngestAnswer | ToolkitError | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        answer = await anyio.to_thread.run_sync(work)
        group.cancel_scope.cancel()
    assert answer is not None, "a cancelled group has raised"
    if isinstance(answer, ToolkitError):
        raise answer
    return answer


def _ingest_answer(done: Any) -> IngestAnswer:
    skipped = [SkippedView(path=printable(str(one)), reason=reason) for one, reason in done.skipped]
    return IngestAnswer(
        added=done.added,
        changed=done.changed,
        unchanged=done.unchanged,
        removed=done.removed,
        skipped=skipped[:MAX_SKIPPED],
        skipped_count=len(skipped),
    )


def _document_view(one: Any) -> DocumentView:
    return DocumentView(
        id=one.id,
        namespace=one.namespace,
        title=printable(one.title),
        path=printable(str(one.path), 1_000),
        media_type=one.media_type,
        size_bytes=one.size_bytes,
        ingested_at=str(one.ingested_at),
    )
