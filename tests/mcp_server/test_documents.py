"""Documents are kept in step with the disk, below the listed roots and nowhere else."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.mcp_server.stand_in import StandInEmbedder
from toolkit.errors import ToolkitError
from toolkit.mcp_server.documents import Documents, Ingested
from toolkit.mcp_server.embeddings import BackgroundEmbedder
from toolkit.mcp_server.model_files import find_token_counter
from toolkit.mcp_server.office_reader import Unreadable
from toolkit.mcp_server.roots import Roots
from toolkit.mcp_server.search import Filters, Indexer, Search
from toolkit.mcp_server.store import Store

LONG_AGO = datetime(2026, 11, 1, tzinfo=UTC).timestamp()


class Library:
    """A root with files, the documents over it, and a search."""

    def __init__(self, folder: Path, **options) -> None:
        self.root = folder / "root"
        self.root.mkdir()
        self.outside = folder / "outside"
        self.outside.mkdir()
        self.store = Store(folder / "memory.sqlite3")
        self.embedder = StandInEmbedder()
        background = BackgroundEmbedder(embedder=self.embedder)
        self.indexer = Indexer(self.store, background)
        self.search = Search(self.store, background)
        self.documents = Documents(self.store, self.search, self.indexer, [self.root], **options)

    def write(self, name: str, text: str, *, time: float = LONG_AGO) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (time, time))
        return path

    def ingest(self, name: str = ".", **options) -> Ingested:
        done = self.documents.ingest(self.root / name, namespace=options.pop("namespace", "default"), **options)
        self.indexer.flush()
        return done

    def found(self, query: str) -> list[str]:
        return [hit.text for hit in self.search.find(query).hits]

    def names(self) -> list[str]:
        return [Path(document.path).name for document in self.documents.list()]


@pytest.fixture
def library(tmp_path):
    library = Library(tmp_path)
    yield library
    library.search.close()
    library.store.close()


def test_a_folder_is_read_and_hits_cite_file_and_lines(library):
    library.write("kitchen/milk.md", "# Kitchen\n\nSome words.\n\n## Milk\n\nMilk is ordered on Mondays.\n")
    library.write("coal.txt", "Coal is kept in the cellar.\n")

    assert library.ingest() == Ingested(added=2)

    hit = library.search.find("when is milk ordered").hits[0]
    assert (hit.text, hit.heading, hit.start_line, hit.end_line) == (
        "Milk is ordered on Mondays.",
        "Kitchen › Milk",
        7,
        7,
    )
    document = library.documents.get(hit.owner_id)
    assert document.path == str(library.root / "kitchen" / "milk.md")
    assert (document.title, document.media_type, document.namespace) == ("Kitchen", "text/markdown", "default")
    assert "Milk is ordered on Mondays." in document.text


def test_ingesting_again_touches_what_changed_and_removes_what_is_gone(library, monkeypatch):
    library.write("same.md", "# Same\n\nNothing new here.\n")
    library.write("changed.md", "# One\n\nFirst paragraph.\n\n# Two\n\nSecond paragraph.\n")
    library.write("gone.md", "Farewell to everybody.\n")
    library.ingest()
    ids = {document.path: document.id for document in library.documents.list()}
    library.embedder.calls.clear()
    library.write("changed.md", "# One\n\nFirst paragraph.\n\n# Two\n\nAnother paragraph.\n", time=LONG_AGO + 60)
    (library.root / "gone.md").unlink()
    opened = []
    read = Roots.read
    monkeypatch.setattr(Roots, "read", lambda self, path, most: (opened.append(path.name), read(self, path, most))[1])

    assert library.ingest() == Ingested(changed=1, unchanged=1, removed=1)

    assert opened == ["changed.md"]
    assert library.embedder.calls == [["Two\nAnother paragraph."]]
    assert library.found("farewell everybody") == [] or "Farewell" not in " ".join(library.found("farewell everybody"))
    assert {document.path: document.id for document in library.documents.list()}.items() <= ids.items()


def test_a_file_written_again_within_the_clocks_grain_is_read_again(library):
    now = datetime.now(UTC).timestamp()
    library.write("a.txt", "first text", time=now)
    library.ingest()
    library.write("a.txt", "other text", time=now)
    assert library.ingest() == Ingested(changed=1)


def test_a_touched_file_with_the_same_bytes_is_unchanged(library):
    library.write("a.txt", "the text")
    library.ingest()
    library.write("a.txt", "the text", time=LONG_AGO + 600)
    assert library.ingest() == Ingested(unchanged=1)


def test_only_what_lies_below_the_ingested_path_and_in_its_namespace_is_removed(library):
    for name in ("a/x.txt", "b/y.txt", "ab/z.txt"):
        library.write(name, f"text of {name}")
    library.ingest()
    library.ingest("a", namespace="other")
    for name in ("a/x.txt", "b/y.txt", "ab/z.txt"):
        (library.root / name).unlink()
    assert library.ingest("a") == Ingested(removed=1)
    assert library.names() == ["x.txt", "z.txt", "y.txt"]
    (library.root / "a").rmdir()
    assert library.ingest("a", namespace="other") == Ingested(removed=1)


def test_a_single_file_can_be_ingested_and_a_missing_one_is_an_error(library):
    library.write("a.txt", "text")
    library.write("b.txt", "text")
    assert library.ingest("a.txt") == Ingested(added=1)
    with pytest.raises(ToolkitError, match="no such file or folder"):
        library.ingest("c.txt")


def test_hidden_and_ignored_files_are_left_out_even_when_asked_for(library):
    for name in (".env", ".git/config.txt", "node_modules/a.js", "x/__pycache__/b.py", "lib.min.js", "kept.txt"):
        library.write(name, "secret words")
    assert library.ingest() == Ingested(added=1)
    for name in (".env", ".git", "node_modules/a.js"):
        with pytest.raises(ToolkitError, match="hidden or ignored"):
            library.ingest(name)


def test_ignore_patterns_can_be_given(tmp_path):
    library = Library(tmp_path, ignore=["drafts/*", "*.log"])
    for name in ("drafts/a.txt", "b.log", "c.txt"):
        library.write(name, "words")
    library.ingest()
    assert library.names() == ["c.txt"]
    library.store.close()


def test_what_cannot_be_read_is_skipped_with_its_reason_and_the_rest_goes_on(tmp_path):
    library = Library(tmp_path, max_bytes=1000)
    library.write("big.txt", "x " * 600)
    library.write("photo.jpeg", "pixels")
    (library.root / "binary.txt").write_bytes(b"\0\1\2")
    os.mkfifo(library.root / "pipe.txt")
    library.write("good.txt", "good words")
    done = library.ingest()
    assert done.added == 1
    assert {Path(path).name: reason for path, reason in done.skipped} == {
        "big.txt": "larger than 0.000953674 MiB",
        "photo.jpeg": "files like .jpeg are not read",
        "binary.txt": "binary",
        "pipe.txt": "not a plain file",
    }
    library.write("good.txt", "\0\0", time=LONG_AGO + 60)
    assert library.ingest().removed == 1
    library.store.close()


def test_a_file_that_cannot_be_opened_today_stays_in_the_store(library, monkeypatch):
    library.write("a.txt", "the text")
    library.ingest()
    library.write("a.txt", "new text", time=LONG_AGO + 60)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Roots, "read", refuse)
    done = library.ingest()
    assert done.removed == 0 and done.skipped[0][1] == "cannot be read: Permission denied"
    assert library.found("text") == ["the text"]


# --- roots -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["../outside/secret.txt", "/etc/passwd", "a/../../outside/secret.txt"])
def test_a_path_that_leads_out_of_the_roots_is_refused(library, path):
    (library.outside / "secret.txt").write_text("secret words")
    with pytest.raises(ToolkitError, match="not below a listed folder"):
        library.documents.ingest(library.root / path, namespace="default")


def test_without_roots_nothing_is_read_and_the_error_says_what_to_type(library):
    documents = Documents(library.store, library.search, library.indexer, [])
    with pytest.raises(ToolkitError, match="no folder is listed.*--root"):
        documents.ingest(library.root, namespace="default")


def test_links_out_of_the_roots_are_not_followed(library):
    (library.outside / "secret.txt").write_text("secret words")
    (library.root / "link.txt").symlink_to(library.outside / "secret.txt")
    (library.root / "folder").symlink_to(library.outside)
    done = library.ingest()
    assert done.added == 0
    assert {reason for _, reason in done.skipped} == {"a link that leads out of the listed folders"}
    for name in ("link.txt", "folder", "folder/secret.txt"):
        with pytest.raises(ToolkitError, match="not below a listed folder"):
            library.ingest(name)


def test_links_inside_the_roots_are_read_once_where_they_lead(library):
    library.write("real/a.txt", "real words")
    (library.root / "link.txt").symlink_to(library.root / "real" / "a.txt")
    (library.root / "again").symlink_to(library.root / "real")
    (library.root / "loop").symlink_to(library.root)
    done = library.ingest()
    assert done.added == 1 and library.names() == ["a.txt"]
    assert [reason for _, reason in done.skipped] == ["a linked folder", "a linked folder"]


def test_a_link_to_a_hidden_file_inside_the_roots_is_not_followed(library):
    library.write(".secrets/key.txt", "secret words")
    (library.root / "link.txt").symlink_to(library.root / ".secrets" / "key.txt")
    assert library.ingest().added == 0


def test_a_root_that_is_a_link_is_the_folder_that_it_leads_to(library, tmp_path):
    library.write("a.txt", "words")
    (tmp_path / "alias").symlink_to(library.root)
    documents = Documents(library.store, library.search, library.indexer, [tmp_path / "alias"])
    assert documents.ingest(tmp_path / "alias" / "a.txt", namespace="default").added == 1
    assert library.documents.list()[0].path == str(library.root / "a.txt")


def test_a_path_with_a_nul_in_it_is_refused_in_words(library):
    with pytest.raises(ToolkitError, match="NUL"):
        library.documents.ingest(library.root / "a\0b.txt", namespace="default")


@pytest.mark.parametrize("swapped", ["file", "folder"])
def test_a_link_that_is_put_in_place_after_the_look_is_not_followed(library, monkeypatch, swapped):
    (library.outside / "a.txt").write_text("secret words")
    path = library.write("folder/a.txt", "own words")
    roots = library.documents.roots
    place = roots.place(path)

    def swap(_):
        if swapped == "file":
            path.unlink()
            path.symlink_to(library.outside / "a.txt")
        else:
            path.parent.rename(library.root / "moved")
            path.parent.symlink_to(library.outside)
        return place

    monkeypatch.setattr(roots, "place", swap)
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    with pytest.raises(OSError):
        roots.read(path, 1000)
    assert before == 0 or len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_grows_while_it_is_read_is_refused(library, monkeypatch):
    path = library.write("a.txt", "x" * 100)
    fstat = os.fstat

    def smaller(descriptor):
        status = fstat(descriptor)
        return os.stat_result((*status[:6], 5, *status[7:10])) if status.st_size == 100 else status

    monkeypatch.setattr(os, "fstat", smaller)
    with pytest.raises(Unreadable, match="larger than"):
        library.documents.roots.read(path, 50)


# --- progress, cancelling, text --------------------------------------------------------------------------------------


def test_progress_is_told_and_an_ingest_that_is_cancelled_keeps_what_it_has_and_removes_nothing(library):
    for number in range(5):
        library.write(f"{number}.txt", f"text number {number}")
    told: list[tuple[int, int]] = []
    library.ingest(progress=lambda done, of: told.append((done, of)))
    assert told == [(done, 5) for done in range(6)]
    (library.root / "4.txt").unlink()
    for number in range(4):
        library.write(f"{number}.txt", f"other text {number}", time=LONG_AGO + 60)
    answers = iter([False, False, True])
    done = library.ingest(cancelled=lambda: next(answers))
    assert (done.changed, done.removed, done.cancelled) == (2, 0, True)
    assert library.ingest() == Ingested(changed=2, unchanged=2, removed=1)


def test_a_document_is_given_back_whole_although_its_passages_overlap(tmp_path):
    library = Library(tmp_path, count_tokens=find_token_counter())
    text = "\n".join(f"Line number {i} tells something about the {i * 7 % 13}th room." for i in range(200))
    library.write("a.txt", text)
    library.ingest()
    (document,) = library.documents.list()
    assert library.documents.get(document.id).text == text
    library.store.close()


def test_a_document_can_be_removed_and_its_file_stays(library):
    path = library.write("a.txt", "some words")
    library.ingest()
    removed = library.documents.remove(library.documents.list()[0].id)
    assert removed.path == str(path) and path.exists()
    assert library.documents.list() == [] and library.found("words") == []
    for action in (library.documents.get, library.documents.remove):
        with pytest.raises(ToolkitError, match="no such document"):
            action(removed.id)


def test_everything_is_read_again_when_it_would_be_cut_otherwise(library, monkeypatch):
    library.write("a.txt", "some words")
    library.ingest()
    monkeypatch.setattr("toolkit.mcp_server.documents.READING", "next")
    assert library.ingest() == Ingested(changed=1)
    assert library.ingest() == Ingested(unchanged=1)


def test_the_same_file_in_two_namespaces_is_two_documents(library):
    library.write("a.txt", "some words")
    library.ingest()
    library.ingest(namespace="other")
    assert len({document.id for document in library.documents.list()}) == 2
    assert [document.namespace for document in library.documents.list("other")] == ["other"]
    assert len(library.search.find("words", filters=Filters(namespaces=["other"])).hits) == 1


def test_the_time_of_an_ingest_comes_from_the_clock_that_is_handed_in(tmp_path):
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC) + timedelta(seconds=0.6)
    library = Library(tmp_path, now=lambda: moment)
    library.write("a.txt", "words")
    library.ingest()
    assert library.documents.list()[0].ingested_at == "2026-01-02T03:04:05+00:00"
    library.store.close()
