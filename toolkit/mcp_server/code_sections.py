"""Cuts source code where a reader would: between functions and classes.

Python is parsed. Other languages are cut by their layout: where a line begins at the left margin after a blank line.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator

from toolkit.mcp_server.chunking import Section

# A class of more lines than this is cut between its methods.
LONG_CLASS_LINES = 40
_CLOSES = re.compile(r"[)\]}]|end\b|else\b|elif\b|except\b|finally\b|catch\b|fi\b|done\b|esac\b")


def code_sections(text: str, *, python: bool) -> list[Section]:
    """Return the sections of a source file, every line in exactly one of them."""
    lines = text.split("\n")
    starts = _python_starts(text) if python else None
    if starts is None:
        starts = dict(_layout_starts(lines))
    places = sorted({0, *starts})
    sections = []
    for begin, end in zip(places, [*places[1:], len(lines)], strict=True):
        numbers = range(begin + 1, end + 1)
        sections.append(Section("\n".join(lines[begin:end]), starts.get(begin, ""), numbers))
    return sections


def _python_starts(text: str) -> dict[int, str] | None:
    """Return line (from 0) → heading of every definition, or None when it is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in strings are none of ours
            body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    starts: dict[int, str] = {}
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            heading = f"{'class' if isinstance(node, ast.ClassDef) else 'def'} {node.name}"
            starts[_first_line(node)] = heading
            if isinstance(node, ast.ClassDef) and (node.end_lineno or 0) - node.lineno > LONG_CLASS_LINES:
                for method in node.body:
                    if isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef)):
                        starts[_first_line(method)] = f"{heading} › def {method.name}"
            starts.setdefault(node.end_lineno or 0, "")
    return starts


def _first_line(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1


def _layout_starts(lines: list[str]) -> Iterator[tuple[int, str]]:
    after_blank = True
    for number, line in enumerate(lines):
        if after_blank and line[:1].strip() and not _CLOSES.match(line):
            yield number, ""
        after_blank = not line.strip()
