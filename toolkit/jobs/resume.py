"""Going on with a run: which checkpoint, which options may change, and whether the inputs are still the same."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from toolkit.checkpoints import (
    SUMS_NAME,
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    newest_good_checkpoint,
    verify_checkpoint,
)
from toolkit.config import FinetuneConfig, PretrainConfig
from toolkit.config_files import load_config, option_paths
from toolkit.errors import Problem, ToolkitError
from toolkit.jobs.job import Job
from toolkit.jobs.running import resume_command
from toolkit.protocols import BackendDescription
from toolkit.runs import RunFolder, find_run, runs_root

AnyConfig = TypeVar("AnyConfig", FinetuneConfig, PretrainConfig)
LENGTH = ("train.max_steps", "train.epochs")
PLACE = ("backend", "train.device")


def find_checkpoint(text: str, kind: str) -> tuple[RunFolder, Checkpoint]:
    """Find the run that `text` names (or the run and the very checkpoint, given a checkpoint's path) and read it.

    Raises:
        ToolkitError: no such run, it is of another kind, it is training, it has no checkpoint, or its newest one is
            corrupted (then every file at fault is named, and the last good checkpoint is offered).
    """
    run = find_run(text)
    begun_by = run.manifest().get("kind", kind)
    if begun_by != kind:
        raise ToolkitError(f"this run was begun by toolkit {begun_by}", where=text, hint=resume_command(begun_by, run))
    process_id = run.manifest().get("process_id")
    if run.status() == "running" and process_id != os.getpid():
        what = f"this run is training, in process {process_id}"
        raise ToolkitError(
            what, where=run.path, hint="Wait for its end, or stop it with Ctrl-C, before going on with it"
        )
    given = Path(text)
    if given.is_dir() and given.resolve().parent == run.checkpoints.resolve():
        return run, _load(given, kind, run)
    found = list_checkpoints(run.checkpoints)
    if not found:
        hint = f"Start again: {_start_again(kind, run)}"
        raise ToolkitError("this run has no checkpoint to go on from", where=run.path, hint=hint)
    return run, _load(found[-1], kind, run)


def _start_again(kind: str, run: RunFolder) -> str:
    in_root = run.path.resolve().parent == runs_root().resolve()
    return f"toolkit {kind} --config {run.config_path}" + (f" --name {run.name} --overwrite" if in_root else "")


def _load(path: Path, kind: str, run: RunFolder) -> Checkpoint:
    problems = verify_checkpoint(path)
    if not problems:
        return load_checkpoint(path)
    good = newest_good_checkpoint(run.checkpoints)
    hint = f"No checkpoint of this run is good; start again: {_start_again(kind, run)}"
    if good is not None:
        hint = f"The last good one is {good.name}; go on from it: {resume_command(kind, run, good)}"
    *others, last = problems
    what = last.what if (path / SUMS_NAME).is_file() else "this checkpoint is not whole"
    raise ToolkitError.gather([*others, Problem(what, last.where, hint)])


def load_resumed_config(
    kind: type[AnyConfig], run: RunFolder, overrides: Sequence[str], flags: Mapping[str, Any]
) -> AnyConfig:
    """Read the run's own config, changes laid over it. Raises ToolkitError when more than length or place changes."""
    saved = load_config(kind, run.config_path)
    wanted = load_config(kind, run.config_path, overrides, flags)
    hint = f"Only {' and '.join(LENGTH)} may change, and where it runs: {' and '.join(PLACE)}"
    problems = []
    for path, _ in option_paths(kind):
        before, after = _value(saved, path), _value(wanted, path)
        if before != after and path not in (*LENGTH, *PLACE):
            what = f"{path} was {before!r} and cannot become {after!r} in a resumed run"
            problems.append(Problem(what, "--resume", hint))
    if problems:
        raise ToolkitError.gather(problems)
    return wanted


def check_inputs(job: Job, run: RunFolder, checkpoint: Checkpoint) -> None:
    """Raise ToolkitError when model, tokenizer or data is not what the run began with, or no step is left."""
    found = {
        "model_sha256": ("model", job.facts.sha256()),
        "tokenizer_sha256": ("tokenizer", job.tokenizer.sha256),
        "data_sha256": ("training data", job.figures.sha256),
    }
    problems = [
        Problem(f"the {name} has changed since this run began, so it cannot go on exactly", str(run.path))
        for key, (name, value) in found.items()
        if checkpoint.notes.get(key) not in (None, value)
    ]
    early = run.manifest().get("stopped_early")
    if early and checkpoint.step == early["step"] and _is_finished(run):
        what = f"this run ended early at step {early['step']}, after {early['evaluations']} evaluations without a gain"
        hint = f"Start another with more patience: toolkit {job.kind} --config {run.config_path} --set train.patience=0"
        problems.append(Problem(what, str(run.path), hint))
    if checkpoint.step > job.total_steps or (checkpoint.step == job.total_steps and _is_finished(run)):
        what = f"this run has already done {checkpoint.step} steps of {job.total_steps}"
        problems.append(Problem(what, str(run.path), f"Give it more: --set train.max_steps={2 * checkpoint.step}"))
    if problems:
        raise ToolkitError.gather(problems)


def exactness_warnings(job: Job, checkpoint: Checkpoint) -> list[str]:
    """Say why a resumed run's bits may differ from an uninterrupted one's (empty: they will not)."""
    return machine_changes(checkpoint.notes, job.backend.describe(job.config.train.device))


def machine_changes(notes: Mapping[str, Any], now: BackendDescription) -> list[str]:
    """Compare where a checkpoint was written (its state.json) with where it would be gone on from."""
    changes = []
    for key in ("backend", "device", "threads", "blas"):
        value = now.name if key == "backend" else getattr(now, key)
        if notes.get(key) != value:
            changes.append(f"{key} was {notes.get(key)}, is {value}")
    versions = notes.get("versions", {})
    changes += [
        f"{name} was {versions[name]}, is {version}"
        for name, version in now.versions.items()
        if name in versions and versions[name] != version
    ]
    return changes


def _is_finished(run: RunFolder) -> bool:
    # Both: a kill may have come between the result and the manifest that says so.
    return run.manifest().get("status") == "finished" and (run.adapter.is_dir() or run.model.is_dir())


def _value(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config
