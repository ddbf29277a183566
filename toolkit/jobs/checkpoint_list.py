"""A run's checkpoints: how large each is, which is the best, which are good, and which can go."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.atomic_files import delete_folder, partials, remove_partials
from toolkit.checkpoints import STATE_NAME, checkpoint_step, list_step_folders, verify_checkpoint
from toolkit.errors import Problem, ToolkitError
from toolkit.runs import RunFolder


@dataclass(frozen=True)
class Entry:
    """One checkpoint.

    val_loss: None where it was not measured
    is_sound: a run that goes on would go back to it, should its loss or gradient no longer be finite
    problems: empty when its bytes are good
    """

    path: Path
    step: int
    size_bytes: int
    val_loss: float | None
    is_best: bool
    is_sound: bool
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class PruningPlan:
    """What pruning would leave and delete. `leftovers` are what killed writers left beside the checkpoints."""

    kept: tuple[Entry, ...]
    deleted: tuple[Entry, ...]
    leftovers: tuple[Path, ...]

    @property
    def freed_bytes(self) -> int:
        """The space that it frees."""
        return sum(entry.size_bytes for entry in self.deleted) + sum(folder_bytes(path) for path in self.leftovers)


def list_entries(run: RunFolder) -> list[Entry]:
    """Read a run's checkpoints, oldest first, comparing every byte with its sum. The newest good one names the best."""
    paths = list_step_folders(run.checkpoints)
    faults = {path: tuple(verify_checkpoint(path)) for path in paths}
    notes = {path: _notes(path) for path in paths}
    good = [path for path in paths if not faults[path]]
    newest = notes[good[-1]] if good else {}
    best = (newest.get("best") or {}).get("step")
    sound = (newest.get("guards") or {}).get("good_step")
    return [
        Entry(
            path=path,
            step=checkpoint_step(path),
            size_bytes=folder_bytes(path),
            val_loss=notes[path].get("val_loss"),
            is_best=checkpoint_step(path) == best,
            is_sound=checkpoint_step(path) == sound,
            problems=faults[path],
        )
        for path in paths
    ]


def plan_pruning(run: RunFolder, keep: int) -> PruningPlan:
    """Keep the best checkpoint, the one to go back to, and the newest `keep` good ones; corrupted ones go.

    Raises ToolkitError when the run is training (it prunes by itself), has no checkpoint, or has no good one: then
    there is nothing to choose by, and nothing is deleted.
    """
    if run.status() == "running":
        hint = "It deletes old checkpoints by itself (train.keep_checkpoints)"
        raise ToolkitError("this run is training", where=run.path, hint=hint)
    entries = list_entries(run)
    if not entries:
        raise ToolkitError("this run has no checkpoint", where=run.path)
    good = [entry for entry in entries if not entry.problems]
    if not good:
        faults = [problem for entry in entries for problem in entry.problems]
        what = "no checkpoint of this run is good, so none is deleted"
        raise ToolkitError.gather([*faults, Problem(what, str(run.path))])
    kept = {entry.step for entry in good[-keep:]} | {entry.step for entry in good if entry.is_best or entry.is_sound}
    return PruningPlan(
        kept=tuple(entry for entry in entries if entry.step in kept),
        deleted=tuple(entry for entry in entries if entry.step not in kept),
        leftovers=tuple(partials(run.checkpoints)),
    )


def prune(run: RunFolder, plan: PruningPlan) -> None:
    """Delete what the plan says."""
    for entry in plan.deleted:
        delete_folder(entry.path)
    remove_partials(run.checkpoints)


def folder_bytes(folder: Path) -> int:
    """Add up the sizes of a folder's files."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _notes(path: Path) -> dict[str, Any]:
    try:
        notes = json.loads((path / STATE_NAME).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def describe_faults(problems: Sequence[Problem], folder: Path) -> str:
    """Name the files at fault in one line, by their names in the folder."""
    return ", ".join(
        f"{Path(problem.where).relative_to(folder) if problem.where != str(folder) else folder.name}: {problem.what}"
        for problem in problems
    )
