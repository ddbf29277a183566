"""Reads PDF (pypdf) and Word files (python-docx) in a process of its own, which is ended when it takes too much.

A file can be made so that its parser runs for hours or unpacks gigabytes from kilobytes. Here that costs `SECONDS` and
a skipped file, not the server. The child gets the bytes on its standard input and answers with JSON; it has no other
work, and on Linux no more memory than `MEMORY_BYTES` (macOS keeps no such limit; time and sizes hold there too).
"""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from toolkit.mcp_server.chunking import Section

SECONDS = 60
MEMORY_BYTES = 2 * 1024**3
MAX_PAGES = 2_000
MAX_CHARACTERS = 20_000_000
MAX_UNPACKED_BYTES = 200 * 1024 * 1024

_PROGRAM = (
    "import sys; sys.path.append(sys.argv[1]); from toolkit.mcp_server.office_reader import run; run(sys.argv[2])"
)


class Unreadable(Exception):
    """A file that is skipped; the message says why."""


def read_apart(kind: str, content: bytes) -> tuple[str, list[Section]]:
    """Return a PDF's or Word file's title and sections. Raises Unreadable with the reason."""
    try:
        done = subprocess.run(
            # -P: a folder `toolkit` where the server happens to be started is not ours
            [sys.executable, "-P", "-c", _PROGRAM, str(Path(__file__).parents[2]), kind],
            input=content,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # its threads' stacks would count against the memory
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unreadable(f"reading it took more than {SECONDS} seconds") from None
    except OSError as error:
        raise Unreadable(f"no process could be started to read it: {error.strerror or error}") from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise Unreadable("damaged, or made to exhaust its reader") from None
    if "reason" in answer:
        raise Unreadable(str(answer["reason"]))
    return str(answer["title"]), [Section(text, heading, None, page) for text, heading, page in answer["sections"]]


def read_pdf(content: bytes) -> tuple[str, list[Section]]:
    """Return the text of every page. Raises Unreadable."""
    from pypdf import PdfReader

    reader = PdfReader(io.BytesIO(content))
    if reader.is_encrypted and not reader.decrypt(""):
        raise Unreadable("it is encrypted with a password")
    if len(reader.pages) > MAX_PAGES:
        raise Unreadable(f"it has more than {MAX_PAGES:,} pages")
    sections, characters = [], 0
    for number, page in enumerate(reader.pages, 1):
        text = page.extract_text().replace("\0", "")
        characters += len(text)
        _check_length(characters)
        sections.append(Section(text, "", None, number))
    title = reader.metadata.title if reader.metadata is not None else None
    if not any(section.text.strip() for section in sections):
        raise Unreadable("its pages hold no text (scanned pictures need text recognition first)")
    return str(title or ""), sections


def read_word(content: bytes) -> tuple[str, list[Section]]:
    """Return the text under each heading, rows of tables as lines. Raises Unreadable."""
    import docx
    from docx.table import Table

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MAX_UNPACKED_BYTES:
            raise Unreadable(f"unpacked it is larger than {MAX_UNPACKED_BYTES // 1024 // 1024} MiB")
    document = docx.Document(io.BytesIO(content))
    trail: list[tuple[int, str]] = []
    sections: list[Section] = []
    lines: list[str] = []
    for block in document.iter_inner_content():
        if isinstance(block, Table):
            lines += _table_lines(block)
            continue
        level = _level(block)
        if level is None:
            lines += [block.text, ""]
            continue
        sections.append(Section("\n".join(lines), _trail(trail)))
        lines = []
        trail = [*(entry for entry in trail if entry[0] < level), (level, block.text.strip())]
    sections.append(Section("\n".join(lines), _trail(trail)))
    _check_length(sum(len(section.text) for section in sections))
    return document.core_properties.title or "", sections


def _level(paragraph: Any) -> int | None:
    """Return the level of a heading, 0 for the title, None for other paragraphs."""
    style = (paragraph.style.name or "") if paragraph.style is not None else ""
    if style == "Title":
        return 0
    name, _, number = style.partition(" ")
    return int(number) if name == "Heading" and number.isdigit() else None


def _table_lines(table: Any) -> Iterator[str]:
    for row in table.rows:
        yield " | ".join(" ".join(cell.text.split()) for cell in row.cells)
    yield ""


def _trail(trail: list[tuple[int, str]]) -> str:
    return " › ".join(words for _, words in trail if words)


def _check_length(characters: int) -> None:
    if characters > MAX_CHARACTERS:
        raise Unreadable(f"it has more than {MAX_CHARACTERS:,} characters")


_READERS: dict[str, Callable[[bytes], tuple[str, list[Section]]]] = {
    "application/pdf": read_pdf,
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": read_word,
}


def _limit_resources() -> None:
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def run(kind: str) -> None:
    """Be the child: read standard input, write the answer to standard output."""
    _limit_resources()
    logging.disable()
    answer: dict[str, Any]
    try:
        title, sections = _READERS[kind](sys.stdin.buffer.read())
        answer = {"title": title, "sections": [(part.text, part.heading, part.page) for part in sections]}
    except Unreadable as error:
        answer = {"reason": str(error)}
    except MemoryError:
        answer = {"reason": "reading it takes too much memory"}
    except Exception as error:  # a damaged file raises whatever its parser comes upon
        answer = {"reason": f"damaged ({type(error).__name__})"}
    sys.stdout.buffer.write(json.dumps(answer).encode("utf-8"))
