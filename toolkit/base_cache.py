"""Quantised copies of full-precision models, made once and kept by what they were made from.

<TOOLKIT_HOME>/bases/
affine-4bit-g64-<hash>/   a complete model folder, and in it base.json, which says what it is
hashes.json               SHA-256 of models seen before, by their files' sizes and times
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from toolkit.affine import AffineLayout
from toolkit.atomic_files import atomic_folder, write_atomic
from toolkit.config import BaseConfig
from toolkit.errors import JobFailed, ToolkitError
from toolkit.home import toolkit_home
from toolkit.models import ModelFacts
from toolkit.packed_folders import AffinePacker, Packer, plan_parts, planned_bytes, write_packed_folder

RECORD_NAME = "base.json"
HASHES_NAME = "hashes.json"
NF4_LABEL = "nf4-4bit-g64"
VERSION = 1
_WORTH_A_WORD = 1_000_000_000
_STEPS = 10

Report = Callable[[str], None]


def bases_folder() -> Path:
    """Return the folder of all quantised copies. Deleting any of them is safe: it is made again when needed."""
    return toolkit_home() / "bases"


def affine_base(facts: ModelFacts, base: BaseConfig, report: Report) -> Path:
    """Return the copy of a model in MLX's affine layout, as `cached_base` does."""
    layout = AffineLayout(base.bits or AffineLayout.bits, base.group_size or AffineLayout.group_size)
    return cached_base(facts, AffinePacker(layout), base_label(base), report)


def cached_base(facts: ModelFacts, packer: Packer, label: str, report: Report) -> Path:
    """Return the quantised copy of a model; make it when it is not there or damaged.

    label:  says the layout, e.g. `affine-4bit-g64`
    report: told what is being done, since a large model takes minutes

    Raises:
        ToolkitError: no layer fits the layout, or a weight is NaN or infinite.
        JobFailed: the disk is full; the message says how much is needed.
    """
    digest = content_hash(facts, report)
    folder = bases_folder() / f"{label}-{digest[:16]}"
    if _is_whole(folder, digest):
        return folder
    _make_folder(folder.parent)
    with _only_one(folder, report):
        if _is_whole(folder, digest):
            return folder
        if folder.exists():
            report(f"the quantised copy in {folder} is damaged; making it again")
        _make(folder, facts, packer, label, digest, report)
    return folder


def kept_copy(digest: str, label: str) -> Path | None:
    """Return the quantised copy that is kept of a model, if it is whole, without the model itself.

    digest: the model's SHA-256, as a run's manifest has it
    label:  the layout, e.g. `affine-4bit-g64`
    """
    folder = bases_folder() / f"{label}-{digest[:16]}"
    return folder if _is_whole(folder, digest) else None


def base_label(base: BaseConfig) -> str:
    """Return the layout's label in the names of copies."""
    if base.layout == "nf4":
        return NF4_LABEL
    return f"affine-{base.bits or AffineLayout.bits}bit-g{base.group_size or AffineLayout.group_size}"


def content_hash(facts: ModelFacts, report: Report) -> str:
    """Return the model's SHA-256, from memory where its files have the size and time that they had.

    Hashing reads every byte of the model; a file that was changed has another time and is read again.
    """
    stamp = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in _files(facts)]
    place, key = bases_folder() / HASHES_NAME, str(facts.folder.resolve())
    known = _read_json(place)
    seen = known.get(key)
    if isinstance(seen, dict) and seen.get("files") == stamp and isinstance(seen.get("sha256"), str):
        return seen["sha256"]
    size = sum(entry[1] for entry in stamp)
    if size > _WORTH_A_WORD:
        report(f"reading {facts.name} ({size / 1e9:.1f} GB) to tell which model it is")
    digest = facts.sha256()
    _make_folder(place.parent)
    write_atomic(place, json.dumps({**known, key: {"files": stamp, "sha256": digest}}, indent=2) + "\n")
    return digest


def _files(facts: ModelFacts) -> list[Path]:
    return [facts.folder / "config.json", *facts.tensors.files]


def _make(folder: Path, facts: ModelFacts, packer: Packer, label: str, digest: str, report: Report) -> None:
    parts = plan_parts(facts, packer)
    needed = planned_bytes(parts)
    free = shutil.disk_usage(folder.parent).free
    advice = "Free some space, or set TOOLKIT_HOME to a folder on another disk"
    if free < needed:
        what = f"the disk is full: the quantised copy needs {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free"
        raise JobFailed(what, where=folder, hint=advice)
    left = [name for name in facts.block_matrices if len(parts[name]) == 1]
    kept = f" ({len(left)} layers do not fit and stay as they are)" if left else ""
    report(f"quantising {facts.name} once ({label}{kept}): {needed / 1e6:,.0f} MB in {folder}")
    told = 0

    def advance(done: int) -> None:
        nonlocal told
        step = _STEPS * done // facts.parameter_count
        if step > told and needed > _WORTH_A_WORD:
            told = step
            report(f"quantised {100 * step // _STEPS} %")

    try:
        with atomic_folder(folder) as partial:
            write_packed_folder(partial, facts, packer, parts, advance)
            sizes = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
            record = {"version": VERSION, "model": facts.name, "sha256": digest, "layout": label, "files": sizes}
            write_atomic(partial / RECORD_NAME, json.dumps(record, indent=2) + "\n")
    except JobFailed as error:
        what = f"{error.problems[0].what}: the quantised copy needs {needed / 1e6:,.0f} MB"
        raise JobFailed(what, where=folder, hint=advice) from error


def _is_whole(folder: Path, digest: str) -> bool:
    record = _read_json(folder / RECORD_NAME)
    files = record.get("files")
    if record.get("version") != VERSION or record.get("sha256") != digest or not isinstance(files, dict):
        return False
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in files.items())


@contextmanager
def _only_one(folder: Path, report: Report) -> Iterator[None]:
    """Let one process at a time make a copy (the system lets go of a killed one's lock)."""
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report(f"another process is making {folder}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "Set TOOLKIT_HOME to a folder that can be written to"
        raise ToolkitError(f"cannot be made: {error.strerror or error}", where=folder, hint=hint) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
