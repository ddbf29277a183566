"""Cuts a section of a document into passages that the embedding model reads whole.

A passage is a slice of the section's text, character for character, so it can be quoted and its lines are known. Cuts
fall between lines, or between sentences of a long line, at a blank line where one is near the end; each passage begins
with the last sentences or lines of the one before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from toolkit.mcp_server.passages import Passage

MAX_TOKENS = 256
OVERLAP_TOKENS = 32
# A line of more tokens than this is cut between its sentences.
LONG_LINE = 64
# A blank line is worth a passage that is filled to this share only.
WORTH = 0.5

Count = Callable[[str], int]

_SENTENCE_END = re.compile(r"(?<=[.!?…。！？])[\"'”’)\]]*\s+|(?<=[。！？])")
_WORD_END = re.compile(r"\s+")


@dataclass(frozen=True)
class Section:
    """A stretch of a document under one heading.

    lines: for each line of `text` its number in the file, from 1; None where there are none
    page:  of a PDF, from 1
    """

    text: str
    heading: str = ""
    lines: Sequence[int] | None = None
    page: int | None = None


@dataclass(frozen=True)
class _Atom:
    """What is not cut: text[start:end]. after_blank: a blank line, or the section's beginning, is before it."""

    start: int
    end: int
    tokens: int
    after_blank: bool


def chunk_text(text: str, count: Count, *, max_tokens: int = MAX_TOKENS) -> list[Passage]:
    """Cut a text without a file, such as a memory item."""
    return chunk_section(Section(text), count, max_tokens=max_tokens)


def chunk_section(
    section: Section, count: Count, *, max_tokens: int = MAX_TOKENS, overlap_tokens: int = OVERLAP_TOKENS
) -> list[Passage]:
    """Cut a section into passages of at most `max_tokens`, heading included. count: tokens, special ones included."""
    heading = _short_heading(section.heading, count, max_tokens)
    # Two special tokens are in each count, and the heading's are spent in every passage.
    room = max_tokens - (count(heading) if heading else 2)
    atoms = list(_atoms(section.text, count, room))
    passages = []
    first = stop = 0
    while first < len(atoms):
        stop = _stop(atoms, first, stop, room)
        passages.append(_passage(section, heading, atoms[first].start, atoms[stop - 1].end))
        if stop == len(atoms):
            break
        first = _overlapping(atoms, first, stop, overlap_tokens, room)
    return passages


def _stop(atoms: Sequence[_Atom], first: int, before: int, room: int) -> int:
    """Return where the passage that begins at `first` ends: behind `before`, where the last one ended."""
    stop, filled, paragraph = first, 0, 0
    while stop < len(atoms) and (stop == first or filled + atoms[stop].tokens <= room):
        if stop > max(first, before) and atoms[stop].after_blank and filled >= WORTH * room:
            paragraph = stop
        filled += atoms[stop].tokens
        stop += 1
    if stop == len(atoms) or atoms[stop].after_blank:
        return stop
    return paragraph or stop


def _overlapping(atoms: Sequence[_Atom], first: int, stop: int, overlap: int, room: int) -> int:
    """Return where the next passage begins: some atoms before `stop`, never so early that it brings nothing new."""
    begin, taken = stop, 0
    while begin - 1 > first and taken + atoms[begin - 1].tokens <= overlap:
        if taken + atoms[begin - 1].tokens + atoms[stop].tokens > room:
            break
        begin -= 1
        taken += atoms[begin].tokens
    return begin


def _atoms(text: str, count: Count, room: int) -> Iterator[_Atom]:
    place, after_blank = 0, True
    for line in text.splitlines(keepends=True):
        start, end = place, place + len(line.rstrip())
        place += len(line)
        if not line.strip():
            after_blank = True
            continue
        tokens = _tokens(text[start:end], count)
        if tokens <= min(LONG_LINE, room):
            yield _Atom(start, end, tokens, after_blank)
        else:
            for number, (piece_start, piece_end, piece_tokens) in enumerate(_pieces(text, start, end, count, room)):
                yield _Atom(piece_start, piece_end, piece_tokens, after_blank and number == 0)
        after_blank = False


def _pieces(text: str, start: int, end: int, count: Count, room: int) -> Iterator[tuple[int, int, int]]:
    """Cut a long line between sentences; a sentence that does not fit between words; a word anywhere."""
    for from_, to in _cut(text, start, end, _SENTENCE_END):
        tokens = _tokens(text[from_:to], count)
        if tokens <= room:
            yield from_, to, tokens
            continue
        yield from _gathered(text, list(_cut(text, from_, to, _WORD_END)), count, room)


def _gathered(text: str, words: Sequence[tuple[int, int]], count: Count, room: int) -> Iterator[tuple[int, int, int]]:
    """Join words into pieces of about a quarter of the room, so that some of them can overlap."""
    size = max(1, min(room, OVERLAP_TOKENS))
    begin, end, filled = -1, -1, 0
    for from_, to in words:
        tokens = _tokens(text[from_:to], count)
        if begin >= 0 and filled + tokens > size:
            yield begin, end, filled
            begin = -1
        if tokens > size:  # a word of a hundred letters: as many characters as fit, whatever they are
            for place in range(from_, to, size):
                stop = min(place + size, to)
                yield place, stop, _tokens(text[place:stop], count)
            begin = -1
            continue
        if begin < 0:
            begin, filled = from_, 0
        end, filled = to, filled + tokens
    if begin >= 0:
        yield begin, end, filled


def _cut(text: str, start: int, end: int, between: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    place = start
    for found in between.finditer(text, start, end):
        if found.start() > place:
            yield place, found.start()
        place = found.end()
    if place < end:
        yield place, end


def _tokens(text: str, count: Count) -> int:
    return max(1, count(text) - 2)


def _passage(section: Section, heading: str, start: int, end: int) -> Passage:
    text = section.text[start:end]
    if section.lines is None:
        return Passage(text, heading, page=section.page)
    first = section.text.count("\n", 0, start)
    last = first + text.count("\n")
    return Passage(text, heading, section.lines[first], section.lines[last], section.page)


def _short_heading(heading: str, count: Count, max_tokens: int) -> str:
    """A heading takes a quarter of a passage at most; of a long trail the innermost titles stay."""
    while heading and count(heading) > max_tokens // 4:
        _, separator, inner = heading.partition(" › ")
        heading = inner if separator else heading[: len(heading) // 2].rstrip()
    return heading
