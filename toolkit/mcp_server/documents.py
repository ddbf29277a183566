"""Documents: files below the listed roots, cut into passages, kept in step with what lies on the disk.

Ingesting a folder again touches what changed: a file whose size, time and reader are the recorded ones is not opened,
one whose bytes are the same is not read again, and of one that did change only the new passages are embedded. What is
gone from the disk goes from the store. Every file is a transaction of its own, so an end half-way loses nothing.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from toolkit.errors import ToolkitError
from toolkit.mcp_server.chunking import MAX_TOKENS, chunk_section
from toolkit.mcp_server.model_files import TokenCounter
from toolkit.mcp_server.office_reader import Unreadable
from toolkit.mcp_server.passages import Passage, delete_passages, replace_passages
from toolkit.mcp_server.readers import MAX_BYTES, READING, media_type, read_document
from toolkit.mcp_server.roots import IGNORED, MAX_FILES, FileContent, Place, Roots
from toolkit.mcp_server.search import Indexer, Search
from toolkit.mcp_server.store import Store

# A file that was written less than this before it was read may have been written again within the clock's grain.
_SETTLED_NS = 2_000_000_000
_SHOWN = ("id", "namespace", "path", "title", "media_type", "size_bytes", "sha256", "ingested_at")
_STORED = (*_SHOWN, "root", "modified_ns", "reading")
_COLUMNS = ", ".join(_SHOWN)


@dataclass(frozen=True)
class Document:
    """A file that was ingested. text: what it says, from `get` alone."""

    id: str
    namespace: str
    path: str
    title: str
    media_type: str
    size_bytes: int
    sha256: str
    ingested_at: str
    text: str = ""


@dataclass(frozen=True)
class Ingested:
    """What an ingest did, in files. skipped: (path, reason). cancelled: it was ended early; nothing was removed."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    skipped: tuple[tuple[str, str], ...] = ()
    cancelled: bool = False


@dataclass
class _Tally:
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("added", "changed", "unchanged"), 0))
    skipped: list[tuple[str, str]] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)
    cancelled: bool = False


class Documents:
    """What is read from files. Safe to use from many threads and processes.

    roots: the folders that files may be read from; none means that nothing can be ingested
    """

    def __init__(
        self,
        store: Store,
        search: Search,
        indexer: Indexer,
        roots: Sequence[Path],
        *,
        ignore: Sequence[str] = IGNORED,
        max_bytes: int = MAX_BYTES,
        count_tokens: TokenCounter | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._search = search
        self._indexer = indexer
        self.roots = Roots(roots, ignore=ignore)
        self._max_bytes = max_bytes
        self._count_tokens = count_tokens
        self._now = now

    def ingest(
        self,
        path: Path,
        *,
        namespace: str,
        progress: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Ingested:
        """Bring the store in step with a file or folder, and what is below it.

        progress: is told (files done, files in all)
        cancelled: is asked before each file; the files until then stay ingested

        Raises ToolkitError when the path is not below a listed root, or nothing is there and nothing was.
        """
        place = self.roots.place(path)
        known = self._known(place, namespace)
        files = self._files(place)
        if not files and not known and not place.path.exists():
            raise ToolkitError("no such file or folder", where=path)
        tally = _Tally()
        for done, (file, reason) in enumerate(files):
            if cancelled is not None and cancelled():
                tally.cancelled = True
                break
            if progress is not None:
                progress(done, len(files))
            self._take(place, file, reason, namespace, known, tally)
        if progress is not None and not tally.cancelled:
            progress(len(files), len(files))
        gone = [] if tally.cancelled else [row for file, row in known.items() if file not in tally.kept]
        for row in gone:
            self._delete(row["id"])
        self._indexer.notify()
        return Ingested(**tally.counts, removed=len(gone), skipped=tuple(tally.skipped), cancelled=tally.cancelled)

    def list(self, namespace: str | None = None) -> list[Document]:
        """Return the documents by path."""
        condition, parameters = ("WHERE namespace = ?", [namespace]) if namespace is not None else ("", [])
        with self._store.reading() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM documents {condition} ORDER BY path, namespace", parameters
            )
            return [Document(*row) for row in map(tuple, rows)]

    def get(self, document_id: str) -> Document:
        """Return a document with its text, as it was ingested. Raises ToolkitError when there is none."""
        with self._store.reading() as connection:
            found = self._row(connection, document_id)
            rows = connection.execute(
                "SELECT text, heading FROM passages WHERE kind = 'document' AND owner_id = ? ORDER BY ordinal",
                (document_id,),
            ).fetchall()
        return replace(found, text=_joined([(row[0], row[1]) for row in rows]))

    def remove(self, document_id: str) -> Document:
        """Take a document out of the store; its file stays. Raises ToolkitError when there is none."""
        with self._store.reading() as connection:
            found = self._row(connection, document_id)
        self._delete(document_id)
        return found

    # --- one file ----------------------------------------------------------------------------------------------------

    def _take(
        self, place: Place, file: Path, reason: str, namespace: str, known: dict[str, sqlite3.Row], tally: _Tally
    ) -> None:
        row = known.get(str(file))
        try:
            if reason:
                raise Unreadable(reason)
            outcome = self._bring_in(place, file, namespace, row)
        except Unreadable as error:
            # A file that is no text any more has no passages either; the folder above it may say more than one reason.
            tally.skipped.append((str(file), str(error)))
            return
        except FileNotFoundError:  # deleted since the folder was listed
            return
        except (OSError, ToolkitError) as error:
            if isinstance(error, ToolkitError) and not self._left_the_roots(file):
                raise
            # It may be readable again tomorrow: what is known of it stays.
            tally.skipped.append((str(file), f"cannot be read: {getattr(error, 'strerror', None) or error}"))
            if isinstance(error, OSError):
                tally.kept.add(str(file))
            return
        tally.kept.add(str(file))
        tally.counts[outcome] += 1

    def _bring_in(self, place: Place, file: Path, namespace: str, row: sqlite3.Row | None) -> str:
        kind = media_type(file.name)
        if kind is None:
            raise Unreadable(f"files like {file.suffix or file.name} are not read")
        if not _is_utf8(str(file)):
            raise Unreadable("its name is not UTF-8")
        reading = f"{READING}; {self._counter().name}"
        if row is not None and row["reading"] == reading and _untouched(file, row):
            return "unchanged"
        read = self.roots.read(file, self._max_bytes)
        sha256 = hashlib.sha256(read.content).hexdigest()
        if row is not None and row["reading"] == reading and row["sha256"] == sha256:
            self._note_times(row["id"], read)
            return "unchanged"
        document = read_document(read.content, file.name)
        passages = [
            passage
            for section in document.sections
            for passage in chunk_section(section, self._counter(), max_tokens=MAX_TOKENS)
        ]
        record = Document(
            document_id(namespace, file),
            namespace,
            str(file),
            document.title[:300],
            document.media_type,
            read.size_bytes,
            sha256,
            self._now().isoformat(timespec="seconds"),
        )
        self._write(record, place.root, read, reading, passages)
        return "added" if row is None else "changed"

    def _write(
        self, record: Document, root: Path, read: FileContent, reading: str, passages: Sequence[Passage]
    ) -> None:
        with self._store.writing() as connection:
            row = {**asdict(record), "root": str(root), "modified_ns": read.modified_ns, "reading": reading}
            names, places = ", ".join(_STORED), ", ".join(f":{name}" for name in _STORED)
            connection.execute(f"INSERT OR REPLACE INTO documents ({names}) VALUES ({places})", row)
            replace_passages(connection, "document", record.id, record.namespace, passages)

    def _note_times(self, document_id: str, read: FileContent) -> None:
        with self._store.writing() as connection:
            connection.execute("UPDATE documents SET modified_ns = ? WHERE id = ?", (read.modified_ns, document_id))

    def _delete(self, document_id: str) -> None:
        with self._store.writing() as connection:
            delete_passages(connection, "document", document_id)
            connection.execute("DELETE FROM documents WHERE id = ?", (document_id,))

    # --- what is there -----------------------------------------------------------------------------------------------

    def _files(self, place: Place) -> list[tuple[Path, str]]:
        files: dict[Path, str] = {}
        for path, reason in self.roots.files(place):
            files.setdefault(path, reason)
            if len(files) > MAX_FILES:
                raise ToolkitError(
                    f"more than {MAX_FILES:,} files are below this folder", where=place.path, hint="Ingest its folders"
                )
        return sorted(files.items())

    def _known(self, place: Place, namespace: str) -> dict[str, sqlite3.Row]:
        """Return what the store has of this namespace at or below a place, by path."""
        below = str(place.path).rstrip("/") + "/"
        with self._store.reading() as connection:
            rows = connection.execute(
                "SELECT id, path, sha256, size_bytes, modified_ns, reading, ingested_at FROM documents"
                " WHERE namespace = ? AND (path = ? OR substr(path, 1, ?) = ?)",
                (namespace, str(place.path), len(below), below),
            ).fetchall()
        return {row["path"]: row for row in rows}

    def _row(self, connection: sqlite3.Connection, document_id: str) -> Document:
        row = connection.execute(f"SELECT {_COLUMNS} FROM documents WHERE id = ?", (document_id,)).fetchone()
        if row is None:
            raise ToolkitError(
                "there is no such document", where=document_id, hint="The list of documents has their ids"
            )
        return Document(*tuple(row))

    def _counter(self) -> TokenCounter:
        if self._count_tokens is None:
            self._count_tokens = self._search.count_tokens()
        return self._count_tokens

    def _left_the_roots(self, file: Path) -> bool:
        try:
            self.roots.place(file)
        except ToolkitError:
            return True
        return False


def document_id(namespace: str, path: Path) -> str:
    """Return a document's id: the same for the same file in the same namespace, on every ingest."""
    return "doc-" + hashlib.sha256(f"{namespace}\0{path}".encode("utf-8", errors="surrogateescape")).hexdigest()[:16]


def _untouched(file: Path, row: sqlite3.Row) -> bool:
    status = file.stat(follow_symlinks=False)
    ingested_ns = int(datetime.fromisoformat(row["ingested_at"]).timestamp() * 1e9)
    settled = status.st_mtime_ns + _SETTLED_NS < ingested_ns
    return settled and (status.st_size, status.st_mtime_ns) == (row["size_bytes"], row["modified_ns"])


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _joined(passages: Sequence[tuple[str, str]]) -> str:
    """Put passages together again: headings where they change, what two of them share once."""
    text, heading = "", ""
    for passage, title in passages:
        if title != heading:
            text += f"\n\n{title}\n\n" if text else f"{title}\n\n"
            heading = title
            text += passage
            continue
        shared = next((size for size in range(min(len(passage), 2_000), 0, -1) if text.endswith(passage[:size])), 0)
        text += passage[shared:] if shared else f"\n{passage}" if text else passage
    return text
