"""Which files are judged and which split each belongs to; marks in a file's bytes that reading passes over."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.datasets.folders import folder_names, split_files, split_of
from toolkit.datasets.lines import check_data_file, data_suffix, open_data
from toolkit.datasets.validation.findings import Findings
from toolkit.errors import Problem, ToolkitError

SPLITS = ("train", "validation", "test")
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Source:
    """One file and the split that it belongs to (`train` where its name says nothing)."""

    path: Path
    split: str


def find_sources(paths: Sequence[Path | str]) -> list[Source]:
    """Return the files of the given files and folders, in order.

    Raises:
        ToolkitError: a path is missing, no data file, or a folder without train file; all of them gathered.
    """
    problems: list[Problem] = []
    sources: list[Source] = []
    for path in (Path(path).expanduser() for path in paths):
        try:
            sources.extend(_folder_sources(path) if path.is_dir() else [_file_source(path)])
        except ToolkitError as error:
            problems.extend(error.problems)
    if problems:
        raise ToolkitError.gather(problems)
    return sources


def _file_source(path: Path) -> Source:
    check_data_file(path)
    return Source(path, split_of(path.name) or "train")


def _folder_sources(folder: Path) -> list[Source]:
    found = split_files(folder_names(folder), str(folder), f"{folder}/{{}}")
    return [Source(folder / name, split) for split in SPLITS for name in found.get(split, ())]


def note_marks(path: Path, findings: Findings) -> None:
    """Note a byte-order mark and Windows line ends, which reading passes over: the first line that has one."""
    if data_suffix(path.name).lower() == ".parquet":
        return
    try:
        with open_data(path) as file:
            line, cut = 1, False
            while piece := file.read(_PIECE_BYTES):
                if line == 1 and file.tell() == len(piece) and piece.startswith(b"\xef\xbb\xbf"):
                    findings.add("bom", f"{path}:1", "the file begins with a byte-order mark")
                place = 0 if cut and piece.startswith(b"\n") else piece.find(b"\r\n")
                if place >= 0:
                    line += piece.count(b"\n", 0, place)
                    findings.add("line-ends", f"{path}:{line}", "the line ends in CR LF")
                    return
                line += piece.count(b"\n")
                cut = piece.endswith(b"\r")
    except (OSError, EOFError, zlib.error):
        return  # Reading the records says what is wrong, with its place.
