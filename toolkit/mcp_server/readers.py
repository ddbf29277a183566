"""Reads a file's bytes into sections: Markdown, text, code and HTML here, PDF and Word in a process of their own.

What cannot be read raises `Unreadable` with a reason that fits into a sentence: "skipped: …". No file can do more harm
than that: sizes are bounded, and the two formats whose parsers can be made to run or grow without end are read where
they can be stopped (`office_reader.py`).
"""

from __future__ import annotations

import codecs
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from markdown_it import MarkdownIt

from toolkit.mcp_server.chunking import Section
from toolkit.mcp_server.code_sections import code_sections
from toolkit.mcp_server.office_reader import Unreadable, read_apart

READING = "2"
"""Counted up when the same bytes would be read or cut otherwise: every document is then read again."""
MAX_BYTES = 20 * 1024 * 1024
MAX_HTML_BYTES = 5 * 1024 * 1024  # a million nested elements in it take some 20 seconds

TEXT_TYPES = {".txt": "text/plain", ".text": "text/plain", ".log": "text/plain", ".rst": "text/x-rst"}
MARKDOWN_TYPES = {".md": "text/markdown", ".markdown": "text/markdown", ".mdx": "text/markdown"}
HTML_TYPES = {".html": "text/html", ".htm": "text/html", ".xhtml": "text/html"}
OFFICE_TYPES = {
    ".pdf": "application/pdf",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
}
CODE_SUFFIXES = frozenset(
    ".py .pyi .js .jsx .ts .tsx .mjs .cjs .java .kt .kts .scala .go .rs .c .h .cc .cpp .cxx .hpp .cs .swift .m .mm"
    " .rb .php .pl .lua .r .jl .hs .ml .ex .exs .erl .clj .sh .bash .zsh .fish .ps1 .sql .css .scss .vue .svelte .dart"
    " .zig .nim .json .jsonl .yaml .yml .toml .ini .cfg .conf .csv .tsv .xml .proto .graphql .tf .cmake .gradle .make"
    " .mk .tex".split()
)
CODE_NAMES = frozenset({"makefile", "dockerfile", "justfile", "rakefile", "gemfile", "cmakelists.txt", "jenkinsfile"})
PLAIN_NAMES = frozenset({"readme", "license", "licence", "changelog", "authors", "contributing", "notice", "todo"})

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DROPPED_TAGS = ("script", "style", "noscript", "template", "svg", "head", "nav", "iframe", "object")
_BLOCK_TAGS = ("h1", "h2", "h3", "h4", "h5", "h6", "p", "li", "pre", "blockquote", "td", "th", "dt", "dd", "figcaption")
_CONTAINERS = ("html", "body", "div", "section", "article", "main", "aside", "header", "footer", "table", "ul", "ol")


@dataclass(frozen=True)
class ReadDocument:
    """What a file says. title: its first heading or title, else its name."""

    title: str
    media_type: str
    sections: tuple[Section, ...]


def media_type(name: str) -> str | None:
    """Return the type that a file's name claims, or None when such files are not read."""
    path = PurePosixPath(name.lower())
    for types in (MARKDOWN_TYPES, TEXT_TYPES, HTML_TYPES, OFFICE_TYPES):
        if path.suffix in types:
            return types[path.suffix]
    if path.suffix in CODE_SUFFIXES or path.name in CODE_NAMES:
        return "text/x-python" if path.suffix in (".py", ".pyi") else "text/x-code"
    return "text/plain" if path.suffix == "" and path.name in PLAIN_NAMES else None


def read_document(content: bytes, name: str) -> ReadDocument:
    """Read a file's bytes by the type that its name claims. Raises Unreadable with the reason."""
    kind = media_type(name)
    if kind is None:
        raise Unreadable(f"files like {PurePosixPath(name).suffix or PurePosixPath(name).name} are not read")
    most = MAX_HTML_BYTES if kind == "text/html" else MAX_BYTES
    if len(content) > most:
        raise Unreadable(f"larger than {most // 1024 // 1024} MiB")
    if kind in OFFICE_TYPES.values():
        title, sections = read_apart(kind, content)
    else:
        title, sections = _TEXT_READERS.get(kind, _read_code)(decode(content))
    sections = tuple(section for section in sections if section.text.strip())
    if not sections:
        raise Unreadable("there is no text in it")
    return ReadDocument(title.strip() or PurePosixPath(name).name, kind, sections)


def decode(content: bytes) -> str:
    """Return text with Unix line ends: by its byte-order mark, else UTF-8, else Windows-1252.

    Raises Unreadable for what is no text.
    """
    for mark, encoding in _BOMS:
        if content.startswith(mark):
            return _lines(content[len(mark) :].decode(encoding, errors="replace"))
    if b"\0" in content[:8192]:
        raise Unreadable("binary")
    try:
        return _lines(content.decode("utf-8"))
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
    strange = sum(
        1 for character in text[:8192] if character == "�" or (ord(character) < 32 and character not in "\n\r\t\f")
    )
    if strange > len(text[:8192]) / 50:
        raise Unreadable("binary")
    return _lines(text)


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "").replace("\f", "\n")


def _read_text(text: str) -> tuple[str, list[Section]]:
    return "", [_section(text.split("\n"), 0)]


def _read_markdown(text: str) -> tuple[str, list[Section]]:
    """Cut at headings, as a Markdown parser sees them: a `#` in a code block is none."""
    lines = text.split("\n")
    tokens = MarkdownIt("commonmark").parse(text)
    trail: list[tuple[int, str]] = []
    sections, begin, title = [], 0, ""
    for place, token in enumerate(tokens):
        if token.type != "heading_open" or token.map is None or token.level:
            continue
        sections.append(_section(lines[begin : token.map[0]], begin, _trail(trail)))
        level, words = int(token.tag[1]), tokens[place + 1].content.replace("\n", " ").strip()
        trail = [*(entry for entry in trail if entry[0] < level), (level, words)]
        title = title or words
        begin = token.map[1]
    sections.append(_section(lines[begin:], begin, _trail(trail)))
    return title, sections


def _read_html(text: str) -> tuple[str, list[Section]]:
    from bs4 import BeautifulSoup, MarkupResemblesLocatorWarning, XMLParsedAsHTMLWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MarkupResemblesLocatorWarning)
        warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)
        try:
            page = BeautifulSoup(text, "html.parser")
            title = page.title.get_text(" ", strip=True) if page.title else ""
            return title, _html_sections(page)
        except RecursionError:
            raise Unreadable("its elements are nested too deeply") from None


def _is_unseen(tag: Any) -> bool:
    """Say whether a reader of the page would not see an element: what hides there is often meant for machines."""
    style = str(tag.attrs.get("style", "")).replace(" ", "").lower()
    return tag.name in _DROPPED_TAGS or "hidden" in tag.attrs or "display:none" in style or "visibility:hidden" in style


def _html_sections(page: Any) -> list[Section]:
    trail: list[tuple[int, str]] = []
    sections: list[Section] = []
    words: list[str] = []
    numbers: list[int] = []

    def close() -> None:
        if words:
            sections.append(Section("\n".join(words), _trail(trail), tuple(numbers)))
        words.clear()
        numbers.clear()

    for line, name, text in _html_blocks(page):
        if name[0] == "h" and name[1:].isdigit():
            close()
            level = int(name[1:])
            trail = [*(entry for entry in trail if entry[0] < level), (level, " ".join(text.split()))]
        else:
            shown = text.split("\n") if name == "pre" else [" ".join(text.split())]
            words += shown
            numbers += [line] * len(shown)
    close()
    return sections


def _html_blocks(page: Any) -> list[tuple[int, str, str]]:
    """Return (line in the file, tag, text) of everything that stands as a block, in order, nothing twice.

    One walk, in which every element hands its block on: asking each text for its parents would take hours on a page
    that is nested a million deep.
    """
    from bs4 import NavigableString
    from bs4.element import PreformattedString

    blocks: list[tuple[int, str, str]] = []
    inside: dict[int, Any] = {id(page): page}  # element → the block that it stands in, None where it is not seen
    last: Any = None
    for node in page.descendants:
        block = inside[id(node.parent)]
        if not isinstance(node, NavigableString):
            outer = block is not None and (node.name in _BLOCK_TAGS or node.name in _CONTAINERS)
            inside[id(node)] = None if block is None or _is_unseen(node) else node if outer else block
        elif block is not None and node.strip() and not isinstance(node, PreformattedString):
            if block is last:
                blocks[-1] = (*blocks[-1][:2], blocks[-1][2] + str(node))
            else:
                blocks.append((getattr(block, "sourceline", None) or 1, block.name, str(node)))
            last = block
    return blocks


def _read_code(text: str) -> tuple[str, list[Section]]:
    return "", code_sections(text, python=False)


def _read_python(text: str) -> tuple[str, list[Section]]:
    return "", code_sections(text, python=True)


def _section(lines: list[str], begin: int, heading: str = "") -> Section:
    return Section("\n".join(lines), heading, range(begin + 1, begin + len(lines) + 1))


def _trail(trail: list[tuple[int, str]]) -> str:
    return " › ".join(words for _, words in trail if words)


_TEXT_READERS: dict[str, Callable[[str], tuple[str, list[Section]]]] = {
    "text/plain": _read_text,
    "text/x-rst": _read_text,
    "text/markdown": _read_markdown,
    "text/html": _read_html,
    "text/x-python": _read_python,
    "text/x-code": _read_code,
}
