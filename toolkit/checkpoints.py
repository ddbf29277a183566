"""Checkpoints that are whole or not there.

    checkpoints/step-000100/
      adapter/                 PEFT's two files (lora), or
      model/model.safetensors  the trained weights as the trainer holds them (full)
      optimizer.safetensors    `<name>.exp_avg`, `<name>.exp_avg_sq` (SGD: `<name>.momentum`), float32
      state.json               seed, update, data position, threads, BLAS, best step so far
      SHA256SUMS               written last; a folder without it is not a checkpoint (`toolkit.checksums`)

The folder is filled under another name, flushed to the disk and renamed, so a kill at any moment leaves the older
checkpoints as they were.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.adapter_files import ADAPTER_TENSORS_NAME, write_adapter_files
from toolkit.atomic_files import atomic_folder, delete_folder, remove_partials, write_atomic
from toolkit.checksums import SUMS_NAME, check_sums, write_sums
from toolkit.config import LoraConfig
from toolkit.errors import Problem, ToolkitError
from toolkit.protocols import TrainerState
from toolkit.tensor_files import SINGLE_NAME, read_tensors, write_tensors

STATE_NAME = "state.json"
OPTIMIZER_NAME = "optimizer.safetensors"
RANDOM_STATE = "derived"
"""No generator's state is stored, be it Python's, NumPy's or the framework's: order, initial values and dropout are
drawn from the seed and the update alone, so there is none to lose."""
_STEP_FOLDER = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint. `notes` is state.json."""

    path: Path
    step: int
    notes: Mapping[str, Any]
    state: TrainerState


def step_folder_name(step: int) -> str:
    """Name a checkpoint's folder: `step-000100`."""
    return f"step-{step:06d}"


def save_checkpoint(
    root: Path, step: int, state: TrainerState, notes: Mapping[str, Any], *, lora: LoraConfig | None, base_model: str
) -> Path:
    """Write `root/step-NNNNNN` atomically and return it. `step` counts updates, the skipped ones included.

    Raises JobFailed on a full disk, with every older checkpoint untouched.
    """
    target = root / step_folder_name(step)
    with atomic_folder(target) as folder:
        if lora is not None:
            write_adapter_files(folder / "adapter", state.weights, lora, base_model)
        else:
            (folder / "model").mkdir()
            write_tensors(folder / "model" / SINGLE_NAME, state.weights, {"format": "pt"})
        write_tensors(folder / OPTIMIZER_NAME, state.moments)
        state_json = {**notes, "update": step, "optimizer_updates": state.updates, "random_state": RANDOM_STATE}
        write_atomic(folder / STATE_NAME, json.dumps(state_json, indent=2) + "\n")
        write_sums(folder)
    return target


def verify_checkpoint(path: Path) -> list[Problem]:
    """Return what is wrong with a checkpoint's files: one problem for each file at fault, none when it is good.

    Every byte is compared with what was written. Whether that made sense (names, shapes, finite values) is what
    `toolkit checkpoint verify` looks at.
    """
    problems, listed = check_sums(path)
    if problems:
        return problems
    missing = [name for name in (STATE_NAME, OPTIMIZER_NAME) if name not in listed]
    return [Problem(f"SHA256SUMS does not list {name}", str(path / SUMS_NAME)) for name in missing]


def list_checkpoints(root: Path) -> list[Path]:
    """Return the checkpoint folders under `root` that have their SHA256SUMS, oldest first (contents not verified)."""
    return [path for path in list_step_folders(root) if (path / SUMS_NAME).is_file()]


def list_step_folders(root: Path) -> list[Path]:
    """Return the folders under `root` that are called like checkpoints, oldest first, whole or not."""
    if not root.is_dir():
        return []
    found = [path for path in root.iterdir() if _STEP_FOLDER.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=checkpoint_step)


def checkpoint_step(path: Path) -> int:
    """Read the step from a checkpoint folder's name. Raises ToolkitError for other folders."""
    match = _STEP_FOLDER.fullmatch(path.name)
    if match is None:
        raise ToolkitError("not a checkpoint folder (those are called step-000100)", where=path)
    return int(match[1])


def newest_good_checkpoint(root: Path) -> Path | None:
    """Return the newest checkpoint under `root` whose every byte is as it was written."""
    return next((path for path in reversed(list_checkpoints(root)) if not verify_checkpoint(path)), None)


def load_checkpoint(path: Path) -> Checkpoint:
    """Verify a checkpoint, then read it. Raises ToolkitError naming every file at fault."""
    step = checkpoint_step(path.resolve())
    problems = verify_checkpoint(path)
    if problems:
        raise ToolkitError.gather(problems)
    notes = load_notes(path)
    weights = path / "adapter" / ADAPTER_TENSORS_NAME
    if not weights.is_file():
        weights = path / "model" / SINGLE_NAME
    state = TrainerState(read_tensors(weights), read_tensors(path / OPTIMIZER_NAME), int(notes["optimizer_updates"]))
    return Checkpoint(path, step, notes, state)


def load_notes(path: Path) -> Mapping[str, Any]:
    """Read a checkpoint's state.json, unverified."""
    return json.loads((path / STATE_NAME).read_text("utf-8"))


def prune_checkpoints(root: Path, keep: int, needed: Collection[int]) -> None:
    """Delete all but the newest `keep` checkpoints and those of the steps `needed`."""
    for path in list_checkpoints(root)[:-keep]:
        if checkpoint_step(path) not in needed:
            delete_folder(path)


def clean_checkpoints(root: Path, after_step: int) -> None:
    """Before a run goes on from `after_step`: delete later checkpoints and what killed writers left."""
    if not root.is_dir():
        return
    remove_partials(root)
    for path in list(root.iterdir()):
        match = _STEP_FOLDER.fullmatch(path.name)
        if match and (int(match[1]) > after_step or not (path / SUMS_NAME).is_file()):
            delete_folder(path)
