"""SHA256SUMS: which files a folder has and what is in them, so that one changed byte is found and its file named.

The file is what `sha256sum` writes and reads, after a comment (which `sha256sum --check` skips) that holds the hash of
the lines below it: a changed byte in the list itself is told from one in a file that it lists.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from toolkit.atomic_files import write_atomic
from toolkit.errors import Problem

SUMS_NAME = "SHA256SUMS"
_SELF = b"# SHA-256 of the lines below: "
# macOS puts it into every folder that is looked at in the Finder; it cannot be taken for one of ours.
_IGNORED = frozenset({".DS_Store"})


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS over every file in `folder`, in the form that `sha256sum --check` reads."""
    names = sorted(name for name in _names(folder) if name != SUMS_NAME)
    lines = "".join(f"{file_sha256(folder / name)}  {name}\n" for name in names).encode("utf-8")
    write_atomic(folder / SUMS_NAME, _self_line(lines) + b"\n" + lines)


def check_sums(folder: Path) -> tuple[list[Problem], tuple[str, ...]]:
    """Compare a folder with its SHA256SUMS.

    Returns one problem for each file that is changed, missing, not listed or no plain file, and the names listed. When
    the list itself is damaged, that is the only problem: nothing can be said about the others.
    """
    path = folder / SUMS_NAME
    if path.is_symlink() or not path.is_file():
        return [Problem("no SHA256SUMS here, so this is not a whole checkpoint", str(folder))], ()
    listed = _read_sums(path)
    if listed is None:
        return [Problem("damaged, so the files that it lists cannot be judged", str(path))], ()
    faults = {name: _fault(folder / name, expected) for name, expected in listed.items()}
    problems = [Problem(fault, str(folder / name)) for name, fault in faults.items() if fault]
    strays = sorted(set(_names(folder)) - set(listed) - {SUMS_NAME})
    problems += [Problem("not in SHA256SUMS", str(folder / name), "Move it out of the checkpoint") for name in strays]
    return problems, tuple(listed)


def file_sha256(path: Path) -> str:
    """Hash a file without holding it in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fault(path: Path, expected: str) -> str | None:
    if path.is_symlink():
        return "a link, where a checkpoint has files only"
    if not path.is_file():
        return "listed in SHA256SUMS, but not here"
    try:
        found = file_sha256(path)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return None if found == expected else "corrupted: its SHA-256 is not the one in SHA256SUMS"


def _read_sums(path: Path) -> dict[str, str] | None:
    """Return name → SHA-256, or None when the list is not as it was written."""
    content = path.read_bytes()
    first, _, lines = content.partition(b"\n")
    # A list without the comment was written by an older version, or by sha256sum.
    if not first.startswith(_SELF):
        lines = content
    elif first != _self_line(lines):
        return None
    listed = {}
    for line in lines.decode("utf-8", errors="replace").splitlines():
        expected, separator, name = line.partition("  ")
        if not separator or len(expected) != 64 or not _is_inside(name) or name in listed:
            return None
        listed[name] = expected
    return listed or None


def _is_inside(name: str) -> bool:
    """Say whether a listed name stays in the folder: a list that leads out of it could make a stranger's file count."""
    parts = PurePosixPath(name).parts
    return bool(parts) and ".." not in parts and not name.startswith("/")


def _names(folder: Path) -> Iterator[str]:
    """Yield every file and link below a folder by its name in it; linked folders are not entered."""
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in (*files, *links):
            if name not in _IGNORED:
                yield Path(parent, name).relative_to(folder).as_posix()


def _self_line(lines: bytes) -> bytes:
    return _SELF + hashlib.sha256(lines).hexdigest().encode("ascii")
