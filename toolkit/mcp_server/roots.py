"""The only folders that documents are read from, and reading in them without being led out.

A path is resolved first, links included, and must then lie below a listed root. Between that look and the reading a
folder can be swapped for a link, so a file is opened part by part from its root, each part refused if it is a link by
then (`O_NOFOLLOW`), and read from what was opened.
"""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import ToolkitError
from toolkit.mcp_server.office_reader import Unreadable

IGNORED = ("node_modules", "__pycache__", "bower_components", "site-packages", "*.egg-info", "*.min.js", "*.min.css")
MAX_FILES = 100_000

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # a pipe is refused, not waited for


@dataclass(frozen=True)
class Place:
    """A resolved path below a root."""

    root: Path
    path: Path

    @property
    def parts(self) -> tuple[str, ...]:
        """The names from the root to it."""
        return self.path.relative_to(self.root).parts


@dataclass(frozen=True)
class FileContent:
    """A file as it was when it was read."""

    content: bytes
    size_bytes: int
    modified_ns: int


class Roots:
    """The listed folders, resolved once. ignore: patterns of names and of paths below a root, as in a shell."""

    def __init__(self, roots: Sequence[Path], *, ignore: Sequence[str] = IGNORED) -> None:
        self.folders = tuple(dict.fromkeys(Path(os.path.realpath(root)) for root in roots))
        self._ignore = tuple(ignore)

    def place(self, path: Path) -> Place:
        """Resolve a path. Raises ToolkitError when it is not below a root, or is hidden or ignored there."""
        if "\0" in str(path):
            raise ToolkitError("a path holds no NUL character", where="path")
        if not self.folders:
            raise ToolkitError(
                "no folder is listed that documents may be read from",
                where=path,
                hint="Name one when the server is started: --root FOLDER",
            )
        resolved = Path(os.path.realpath(path.expanduser()))
        for root in sorted(self.folders, key=lambda folder: -len(folder.parts)):
            if resolved.is_relative_to(root):
                found = Place(root, resolved)
                self._refuse_ignored(found, path)
                return found
        listed = ", ".join(str(root) for root in self.folders)
        raise ToolkitError(
            "not below a listed folder, links followed", where=path, hint=f"Listed are: {listed}; --root adds one"
        )

    def ignored(self, parts: Sequence[str]) -> bool:
        """Say whether a path below a root is left out: something in it is hidden, or matches a pattern."""
        if any(part.startswith(".") for part in parts):
            return True
        below = "/".join(parts)
        return any(
            fnmatch.fnmatch(below, pattern) or any(fnmatch.fnmatch(part, pattern) for part in parts)
            for pattern in self._ignore
        )

    def files(self, place: Place) -> Iterator[tuple[Path, str]]:
        """Yield (path, reason) of every file at or below a place, sorted; the reason, if any, is why it is left out.

        Links to files are followed where they lead to a file below a root; linked folders are left out, since what
        they show is read where it lies.
        """
        if place.path.is_dir():
            yield from self._below(place.root, place.path)
        elif place.path.exists():
            yield place.path, ""

    def read(self, path: Path, max_bytes: int) -> FileContent:
        """Read a file below a root, opened part by part without following links. Raises Unreadable, OSError."""
        place = self.place(path)
        descriptor = os.open(place.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for number, part in enumerate(place.parts, 1):
                last = number == len(place.parts)
                flags = os.O_RDONLY | _NOFOLLOW | (_NONBLOCK if last else os.O_DIRECTORY)
                inner = os.open(part, flags, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = inner
            return _content(descriptor, max_bytes)
        finally:
            os.close(descriptor)

    def _below(self, root: Path, folder: Path) -> Iterator[tuple[Path, str]]:
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            yield folder, f"cannot be read: {error.strerror or error}"
            return
        for entry in found:
            path = Path(entry.path)
            if self.ignored(path.relative_to(root).parts):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from self._below(root, path)
            elif entry.is_symlink():
                yield self._linked(path)
            else:
                yield path, "" if entry.is_file(follow_symlinks=False) else "not a plain file"

    def _linked(self, path: Path) -> tuple[Path, str]:
        try:
            target = self.place(path).path
        except ToolkitError:
            return path, "a link that leads out of the listed folders"
        if target.is_dir():
            return path, "a linked folder"
        return (target, "") if target.is_file() else (path, "a link to nothing")

    def _refuse_ignored(self, place: Place, path: Path) -> None:
        if place.parts and self.ignored(place.parts):
            raise ToolkitError(
                "hidden or ignored, so it is not read", where=path, hint="Copy it to a place that is neither"
            )


def _content(descriptor: int, max_bytes: int) -> FileContent:
    status = os.fstat(descriptor)
    too_large = f"larger than {max_bytes / 1024 / 1024:g} MiB"
    if not stat.S_ISREG(status.st_mode):
        raise Unreadable("not a plain file")
    if status.st_size > max_bytes:
        raise Unreadable(too_large)
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:  # it grows, or its size is not what it says
        raise Unreadable(too_large)
    return FileContent(content, status.st_size, status.st_mtime_ns)
