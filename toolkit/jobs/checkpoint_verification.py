"""Whether a checkpoint can be gone on from: its bytes, what its state says, its tensors, its model, this machine.

`toolkit.checkpoints.verify_checkpoint` compares the bytes with their sums, which is what a resume needs. Here it is
asked too whether what was written makes sense.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.adapter_files import ADAPTER_CONFIG_NAME, ADAPTER_TENSORS_NAME, read_adapter
from toolkit.backends import choose_backend
from toolkit.checkpoints import (
    OPTIMIZER_NAME,
    RANDOM_STATE,
    STATE_NAME,
    checkpoint_step,
    list_step_folders,
    verify_checkpoint,
)
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.errors import Problem, ToolkitError
from toolkit.jobs.resume import machine_changes
from toolkit.models import NANO, ModelFacts, find_model, read_model
from toolkit.protocols import OptimizerSpec
from toolkit.runs import RunFolder, find_run, is_run
from toolkit.tensor_files import SINGLE_NAME, StoredTensor, read_tensors

# What a resume reads from state.json, or compares with the model, the data and the machine.
STATE_FIELDS: dict[str, type] = {
    "kind": str,
    "method": str,
    "seed": int,
    "update": int,
    "optimizer_updates": int,
    "data_position": int,
    "total_steps": int,
    "model_sha256": str,
    "tokenizer_sha256": str,
    "data_sha256": str,
    "backend": str,
    "device": str,
    "threads": int,
    "blas": str,
    "versions": dict,
}
_CHUNK = 1 << 22  # Elements looked at together: 16 MiB of float32.


@dataclass(frozen=True)
class Verification:
    """What was found in one checkpoint.

    problems: reasons not to go on from it, each with its file
    warnings: what may change the bits of a run that goes on from it here, or could not be looked at
    files, weights, moments: how many were looked at
    """

    path: Path
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...] = ()
    files: int = 0
    weights: int = 0
    moments: int = 0

    @property
    def good(self) -> bool:
        """Whether a run can go on from it."""
        return not self.problems


@dataclass
class Base:
    """The model that a run's checkpoints belong to, hashed once for all. `facts` is None when it is not here."""

    name: str
    facts: ModelFacts | None

    @cached_property
    def hashes(self) -> dict[str, str]:
        """What state.json must say about the model and its tokenizer."""
        if self.facts is None:
            return {}
        return {"model_sha256": self.facts.sha256(), "tokenizer_sha256": Tokenizer.load(self.facts.folder).sha256}


@dataclass
class _Findings:
    path: Path
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def fault(self, what: str, name: str, hint: str = "") -> None:
        self.problems.append(Problem(what, str(self.path / name), hint))

    def warn(self, what: str, hint: str = "") -> None:
        self.warnings.append(Problem(what, str(self.path), hint))


def find_checkpoints(text: str) -> list[Path]:
    """Return the checkpoint that `text` is, or all those of the run that it names, oldest first.

    Folders without SHA256SUMS are among them. Raises ToolkitError when there is no such run or it has no checkpoint.
    """
    path = Path(text)
    if path.is_dir() and path.resolve() in list_step_folders(path.resolve().parent):
        return [path]
    run = find_run(text)
    found = list_step_folders(run.checkpoints)
    if not found:
        raise ToolkitError("this run has no checkpoint", where=run.path)
    return found


def verify_all(paths: list[Path], *, strict: bool = False) -> Iterator[Verification]:
    """Verify the checkpoints of one run one after the other; with `strict` a warning is a problem."""
    base = _find_base(paths[0]) if paths else None
    for path in paths:
        found = verify(path, base)
        if strict and found.warnings:
            found = Verification(path, found.problems + found.warnings, (), found.files, found.weights, found.moments)
        yield found


def verify(path: Path, base: Base | None = None) -> Verification:
    """Look at one checkpoint. Corrupted files are only named: what is in them would be guesswork."""
    problems = verify_checkpoint(path)
    if problems:
        return Verification(path, tuple(problems))
    base = base or _find_base(path)
    findings = _Findings(path)
    notes = _read_state(findings)
    weights = _check_weights(findings, notes, base)
    moments = _check_moments(findings, notes, weights)
    if base.facts is None:
        findings.warn(
            f"the model {base.name} is not here, so names, shapes and the tokenizer were not compared with it"
        )
    for key, expected in base.hashes.items():
        if notes.get(key, expected) != expected:
            what = key.removesuffix("_sha256")
            findings.fault(f"the {what} of {base.name} is not the one that this run began with ({key})", STATE_NAME)
    _check_machine(findings, notes)
    files = sum(1 for file in path.rglob("*") if file.is_file())
    return Verification(path, tuple(findings.problems), tuple(findings.warnings), files, len(weights), len(moments))


def _find_base(path: Path) -> Base:
    """Find the model by the run's manifest, else by the adapter's config; nothing is downloaded."""
    name = None
    folder = path.resolve().parent.parent
    if is_run(folder):
        manifest = RunFolder(folder).manifest()
        name = manifest.get("model_folder")
    if name is None:
        config = _read_json(path / "adapter" / ADAPTER_CONFIG_NAME)
        name = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if name is None:
        return Base("that it was trained from", None)
    try:
        return Base(str(name), find_model(NANO) if name == NANO else read_model(Path(name)))
    except ToolkitError:
        return Base(str(name), None)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _read_state(findings: _Findings) -> Mapping[str, Any]:
    notes = _read_json(findings.path / STATE_NAME)
    if not isinstance(notes, dict):
        findings.fault("not a JSON object", STATE_NAME)
        return {}
    for name, kind in STATE_FIELDS.items():
        value = notes.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            what = f"has no {name}" if value is None else f"{name} is {value!r}, which is no {kind.__name__}"
            findings.fault(what, STATE_NAME)
        elif isinstance(value, int) and value < 0:
            findings.fault(f"{name} is {value}", STATE_NAME)
    if notes.get("random_state") != RANDOM_STATE:
        # Python's, NumPy's and the framework's generators: none is carried, so none needs to be stored.
        what = f"random_state is {notes.get('random_state')!r}, not {RANDOM_STATE!r}: its draws cannot be repeated"
        findings.fault(what, STATE_NAME)
    step = checkpoint_step(findings.path.resolve())
    if notes.get("update") != step:
        findings.fault(f"is of update {notes.get('update')}, but the folder is called {findings.path.name}", STATE_NAME)
    return notes


def _check_weights(findings: _Findings, notes: Mapping[str, Any], base: Base) -> Mapping[str, StoredTensor]:
    adapter, model = f"adapter/{ADAPTER_TENSORS_NAME}", f"model/{SINGLE_NAME}"
    here = [name for name in (adapter, model) if (findings.path / name).is_file()]
    expected = model if notes.get("method") == "full" else adapter
    if here != [expected]:
        findings.fault(f"method is {notes.get('method')}, but the weights here are {here or 'none'}", expected)
        return {}
    tensors = _read(findings, expected)
    try:
        if expected == adapter:
            read_adapter(findings.path / "adapter", base.facts.tensors.entries if base.facts else None)
        elif base.facts is not None:
            shapes = {name: entry.shape for name, entry in base.facts.tensors.entries.items()}
            _compare_shapes(findings, expected, tensors, shapes, "the model")
    except ToolkitError as error:
        findings.problems += error.problems
    _check_values(findings, expected, tensors)
    return tensors


def _check_moments(
    findings: _Findings, notes: Mapping[str, Any], weights: Mapping[str, StoredTensor]
) -> Mapping[str, StoredTensor]:
    moments = _read(findings, OPTIMIZER_NAME)
    kinds = notes.get("moments", OptimizerSpec().moments)
    shapes = {f"{name}.{kind}": tensor.array.shape for name, tensor in weights.items() for kind in kinds}
    if weights:
        _compare_shapes(findings, OPTIMIZER_NAME, moments, shapes, "the weights")
    _check_values(findings, OPTIMIZER_NAME, moments)
    return moments


def _read(findings: _Findings, name: str) -> Mapping[str, StoredTensor]:
    try:
        return read_tensors(findings.path / name)
    except ToolkitError as error:
        findings.problems += error.problems
        return {}


def _compare_shapes(
    findings: _Findings,
    file: str,
    tensors: Mapping[str, StoredTensor],
    shapes: Mapping[str, tuple[int, ...]],
    whose: str,
) -> None:
    for name, shape in shapes.items():
        if name not in tensors:
            findings.fault(f"lacks {name}", file)
        elif tensors[name].array.shape != tuple(shape):
            found = list(tensors[name].array.shape)
            findings.fault(f"{name} has shape {found}, but by {whose} it is {list(shape)}", file)
    for name in tensors:
        if name not in shapes:
            findings.fault(f"has {name}, which does not belong to {whose}", file)


def _check_values(findings: _Findings, file: str, tensors: Mapping[str, StoredTensor]) -> None:
    for name, tensor in tensors.items():
        finite, negative = _look_at(tensor)
        if not finite:
            findings.fault(f"{name} has values that are not finite", file)
        elif negative and name.endswith(".exp_avg_sq"):
            findings.fault(f"{name} has negative values, which a mean of squares cannot have", file)


def _look_at(tensor: StoredTensor) -> tuple[bool, bool]:
    """Return whether all values are finite, and whether any is negative; in pieces, since tensors can be large."""
    flat = tensor.array.reshape(-1)
    negative = False
    for start in range(0, flat.size, _CHUNK):
        piece = StoredTensor(tensor.name, tensor.dtype, flat[start : start + _CHUNK]).to_float32()
        if not np.isfinite(piece).all():
            return False, negative
        negative = negative or bool((piece < 0).any())
    return True, negative


def _check_machine(findings: _Findings, notes: Mapping[str, Any]) -> None:
    """Warn when a run that goes on here would not end with the same bits."""
    name, device = notes.get("backend"), notes.get("device")
    if not isinstance(name, str) or not isinstance(device, str):
        return
    try:
        backend, _ = choose_backend(name, device)
        changes = machine_changes(notes, backend.describe(device))
    except ToolkitError as error:
        findings.warn(f"this machine cannot go on exactly: {error.problems[0].what}", error.problems[0].hint)
        return
    for change in changes:
        findings.warn(f"going on here would not be bit for bit: {change}")
