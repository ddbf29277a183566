"""Files that are either the old one or the new one, whatever happens in between.

Everything is written beside its place, flushed to the disk (fsync) and renamed; then the folder that holds it is
flushed, so that the new name survives a power cut. What a killed process leaves behind is called
`.<name>.<pid>.partial` and counts for nothing.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from toolkit.errors import JobFailed

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


def write_atomic(path: Path | str, content: bytes | str) -> None:
    """Write a file whole (text as UTF-8). Raises JobFailed when the system refuses; the old file is then untouched."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    with open_atomic(path) as file:
        file.write(data)


@contextmanager
def open_atomic(path: Path | str) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its name only when the `with` block ends well.

    Raises JobFailed when the system refuses (a full disk, a missing permission); the old file is then untouched.
    """
    target = Path(path)
    partial = _partial_path(target)
    try:
        with partial.open("wb") as file:
            yield file
            flush_to_disk(file)
        os.replace(partial, target)
        flush_folder(target.parent)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise write_failed(error, target) from error
        raise


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield an empty folder to fill, which takes the name `path` only when the `with` block ends well.

    The files in it are flushed before the rename. An existing folder of that name is replaced. Raises JobFailed when
    the system refuses; the old folder is then untouched.
    """
    target = Path(path)
    partial = _partial_path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_partials(target.parent, target.name)
        partial.mkdir()
        yield partial
        flush_tree(partial)
        replace_folder(partial, target)
        flush_folder(target.parent)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise write_failed(error, target) from error
        raise


def write_failed(error: OSError, path: Path) -> JobFailed:
    """Put a refused write into words that say what to do."""
    if error.errno in FULL_DISK:
        return JobFailed("the disk is full, nothing was written", where=path, hint="Free some space and try again")
    return JobFailed(f"cannot write: {error.strerror or error}", where=path)


def partials(folder: Path, name: str = "*") -> list[Path]:
    """Return what killed writers of `name` left in `folder`."""
    return sorted(folder.glob(f".{name}.*.partial"))


def remove_partials(folder: Path, name: str = "*") -> None:
    """Delete what killed writers of `name` left in `folder`."""
    for leftover in partials(folder, name):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def delete_folder(path: Path) -> None:
    """Delete a folder whole: it loses its name first, so that a kill half-way leaves nothing that looks complete."""
    doomed = _partial_path(path)
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def flush_to_disk(file: BinaryIO) -> None:
    """Wait until the disk has what was written to `file`."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Wait until the disk has the names in `folder` (where the system can: not on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _partial_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}.partial")


def flush_tree(folder: Path) -> None:
    """Wait until the disk has every file below `folder`, and their names."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(parent, name), "rb+") as file:
                flush_to_disk(file)
        flush_folder(Path(parent))


def replace_folder(new: Path, target: Path) -> None:
    """Give a folder the name `target`; one that had it is deleted afterwards."""
    # A folder cannot be renamed over one that has content, so the old one steps aside first.
    if not target.exists():
        os.rename(new, target)
        return
    old = target.with_name(f".{target.name}.{os.getpid()}-old.partial")
    os.rename(target, old)
    os.rename(new, target)
    shutil.rmtree(old, ignore_errors=True)
