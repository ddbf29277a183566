"""The tools of documents: found with file and lines, read in with progress, cancelled, removed."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import pytest
from mcp import Client

from tests.mcp_server.conftest import ask, call
from toolkit.mcp_server.settings import Services


def test_documents_are_found_with_file_and_lines_in_a_fence(services: Services, notes: Path) -> None:
    done = call(services, "documents_ingest", {"path": str(notes)})
    assert (done["added"], done["skipped_count"]) == (2, 0)
    found = call(services, "documents_search", {"query": "red door"})
    best = found["results"][0]
    assert best["source"].startswith(str(notes / "keys.md")) and best["start_line"] and best["kind"] == "document"
    assert best["text"].startswith(f"<<<untrusted {found['fence']} from {notes / 'keys.md'}")
    assert "The red door is locked." in best["text"] and best["text"].endswith(f"<<<end {found['fence']}>>>")
    listed = call(services, "documents_list", {})["documents"]
    assert {Path(one["path"]).name for one in listed} == {"keys.md", "backup.txt"}
    (notes / "keys.md").unlink()
    again = call(services, "documents_ingest", {"path": str(notes)})
    assert (again["removed"], again["unchanged"]) == (1, 1)
    left = call(services, "documents_list", {})["documents"]
    assert call(services, "documents_remove", {"id": left[0]["id"]})["path"] == str(notes / "backup.txt")
    assert (notes / "backup.txt").exists() and not call(services, "documents_list", {})["documents"]


@pytest.mark.parametrize("mode", ["legacy"])
def test_ingesting_reports_progress_and_stops_when_it_is_cancelled(services: Services, notes: Path, mode: str) -> None:
    for number in range(60):
        (notes / f"n{number:03}.md").write_text(f"# Note {number}\n\nText number {number}.\n")
    reports: list[tuple[float, float | None]] = []

    async def talk(client: Client) -> None:
        async def progress(done: float, total: float | None, message: str | None) -> None:
            reports.append((done, total))
            if len(reports) == 5:
                scope.cancel()

        with anyio.CancelScope() as scope:
            await client.call_tool("documents_ingest", {"path": str(notes)}, progress_callback=progress)
        assert scope.cancelled_caught
        with anyio.fail_after(10):
            health = await client.call_tool("health", {})
        assert not health.is_error, "the connection goes on"

    ask(services, talk, mode=mode)
    assert [done for done, _ in reports] == sorted(done for done, _ in reports) and reports[0][1] == 62
    time.sleep(0.3)
    assert len(services.documents.list()) < 62, "it went on after it was cancelled"


def test_progress_is_reported_to_the_end_but_not_for_each_of_many_files(services: Services, notes: Path) -> None:
    for number in range(250):
        (notes / f"n{number:03}.txt").write_text(f"{number}")
    reports: list[float] = []

    async def talk(client: Client) -> None:
        async def progress(done: float, total: float | None, message: str | None) -> None:
            reports.append(done)

        await client.call_tool("documents_ingest", {"path": str(notes)}, progress_callback=progress)

    ask(services, talk)
    assert 50 <= len(reports) <= 130 and reports == sorted(reports) and reports[-1] == 252
