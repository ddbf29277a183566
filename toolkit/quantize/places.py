"""Where an export's files go: names, room on the disk, unfinished files out of sight."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from toolkit.atomic_files import flush_folder, remove_partials, write_failed
from toolkit.backends import Target
from toolkit.errors import JobFailed, Problem, ToolkitError
from toolkit.models import COMPANION_FILES
from toolkit.runs import RunFolder
from toolkit.tensor_files import INDEX_NAME

SUFFIX = ".gguf"
# A model card that lacks this line was written by somebody, so it is left alone, and so is the folder that it is in.
MARK = "<!-- Written by local-training-toolkit. Without this line the next export leaves the file alone. -->"
CARD_NAME = "README.md"


def output_paths(target: Target, names: Sequence[str], out: Path | None, overwrite: bool) -> list[Path]:
    """Choose a file for each type. Raises ToolkitError gathering every one that cannot be written."""
    if out is not None and out.suffix == SUFFIX and len(names) > 1:
        raise ToolkitError(f"one file for {len(names)} types", where=out, hint="Name a folder with --out")
    label = file_label(target.label)
    folder = out or export_folder(target)
    paths = [folder if folder.suffix == SUFFIX else folder / f"{label}-{name}{SUFFIX}" for name in names]
    problems = []
    for path in paths:
        if path.is_dir():
            problems.append(Problem("is a folder", str(path), "Name a .gguf file or another folder with --out"))
        elif path.exists() and not overwrite:
            hint = "Choose another place with --out, or replace it: --overwrite"
            problems.append(Problem("exists already", str(path), hint))
    if problems:
        raise ToolkitError.gather(problems)
    return paths


def model_folder_path(target: Target, name: str, out: Path | None, overwrite: bool) -> Path:
    """Choose the folder of an exported model. Raises ToolkitError when it cannot be written.

    Only what looks like an exported model is ever replaced: a slip of the pen must not cost a folder of documents.
    """
    path = out or export_folder(target) / f"{file_label(target.label)}-{name}"
    read_from = [folder.resolve() for folder in (target.model_folder, target.adapter_folder) if folder is not None]
    if path.resolve() in read_from:
        raise ToolkitError("is what is exported", where=path, hint="Name another folder with --out")
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return path
    if not path.is_dir():
        raise ToolkitError("is a file", where=path, hint="Name a folder with --out")
    if not _is_exported(path):
        raise ToolkitError("is a folder that no export wrote", where=path, hint="Name another with --out")
    if not overwrite:
        hint = "Choose another place with --out, or replace it: --overwrite"
        raise ToolkitError("exists already", where=path, hint=hint)
    return path


def _is_exported(path: Path) -> bool:
    """Say whether a folder holds an exported model and nothing else that could be missed."""
    card = path / CARD_NAME
    known = {*COMPANION_FILES, INDEX_NAME, CARD_NAME, "verification.json", "additional_chat_templates"}
    return (card.is_file() and MARK in card.read_text("utf-8", errors="replace")) and all(
        entry.name in known or entry.suffix == ".safetensors" or entry.name.startswith("LICENSE")
        for entry in path.iterdir()
    )


def export_folder(target: Target) -> Path:
    """Return where a target's exports go by default: its run's export/ folder, else ./export."""
    return Path("export") if target.run_folder is None else RunFolder(target.run_folder).export


def file_label(label: str) -> str:
    """Spell a label so that it can be part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-.") or "model"


def check_space(path: Path, needed: int) -> None:
    """Raise JobFailed when the disk cannot hold `needed` bytes beside `path`, before any work is done."""
    free = free_bytes(path)
    if free < needed:
        raise JobFailed(
            f"the disk is full: the export needs {needed / 1e6:,.0f} MB (for a while), {free / 1e6:,.0f} MB are free",
            where=path,
            hint="Free some space, or choose another disk with --out",
        )


def free_bytes(path: Path) -> int:
    """Size of what still fits beside a path that need not exist yet."""
    existing = next(folder for folder in path.absolute().parents if folder.exists())
    return shutil.disk_usage(existing).free


@contextmanager
def staging(path: Path) -> Iterator[Path]:
    """Yield a folder beside `path` for unfinished files; it is gone afterwards, whatever happens.

    What a killed process leaves is hidden, has no name that anybody takes for a result, and goes with the next export.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_partials(path.parent, path.name)
        partial.mkdir()
        yield partial
        flush_folder(path.parent)
    except OSError as error:
        # NumPy's writer reports a short write without an error number.
        if error.errno is None:
            hint = "Is the disk full? Free some space and try again"
            raise JobFailed(f"cannot be written whole ({error}); nothing was left", where=path, hint=hint) from error
        raise write_failed(error, path) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
