"""The run folder: what was asked for, what happened, and where it came from.

`runs/<name>/` holds config.yaml, manifest.json, metrics.jsonl, checkpoints/, adapter/ or model/, evaluation.json and
export/.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from toolkit.atomic_files import partials, write_atomic, write_failed
from toolkit.errors import ToolkitError

RUNS_VARIABLE = "TOOLKIT_RUNS_DIR"
RECORDED_PACKAGES = (
    "local-training-toolkit",
    "torch",
    "transformers",
    "peft",
    "mlx",
    "mlx-lm",
    "numpy",
    "tokenizers",
    "safetensors",
    "gguf",
    "llama-cpp-python",
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class RunFolder:
    """One run. The paths below exist once the run has come that far."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def config_path(self) -> Path:
        """Resolved options; repeats the run."""
        return self.path / "config.yaml"

    @property
    def manifest_path(self) -> Path:
        """Versions, hashes, device, final figures."""
        return self.path / "manifest.json"

    @property
    def metrics_path(self) -> Path:
        """One JSON object for each logged step."""
        return self.path / "metrics.jsonl"

    @property
    def evaluation_path(self) -> Path:
        """Rows of figures that `toolkit evaluate` measured."""
        return self.path / "evaluation.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The trained adapter (lora)."""
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        """The trained model (full)."""
        return self.path / "model"

    @property
    def export(self) -> Path:
        """Folder of exported files."""
        return self.path / "export"

    def manifest(self) -> dict[str, Any]:
        """Read manifest.json; empty when there is none. Raises ToolkitError when it is not JSON."""
        if not self.manifest_path.is_file():
            return {}
        try:
            return json.loads(self.manifest_path.read_text("utf-8"))
        except ValueError as error:
            raise ToolkitError(f"invalid JSON: {error}", where=self.manifest_path) from error

    def update_manifest(self, entries: Mapping[str, Any]) -> None:
        """Write manifest.json with `entries` laid over what it holds."""
        write_atomic(self.manifest_path, json.dumps({**self.manifest(), **entries}, indent=2) + "\n")

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl and hand it to the system. Raises JobFailed on a full disk."""
        try:
            with self.metrics_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise write_failed(error, self.metrics_path) from error

    def metrics(self, *, rolled_back: bool = False) -> list[dict[str, Any]]:
        """Read metrics.jsonl, leaving out a last line that a kill cut short.

        rolled_back: also return what a rollback took back, with the rollbacks themselves (`event: rollback`).

        Raises ToolkitError when a line before the last is not JSON.
        """
        if not self.metrics_path.is_file():
            return []
        lines = self.metrics_path.read_text("utf-8", errors="replace").splitlines()
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                if number < len(lines):
                    raise ToolkitError(f"invalid JSON: {error}", where=f"{self.metrics_path}:{number}") from error
        return [row for row in rows if rolled_back or "rolled_back" not in row]

    def trim_metrics(self, last_step: int, rollbacks: int = 0) -> None:
        """Drop the lines after `last_step`, before a run goes on from there (and a torn last line).

        What the first `rollbacks` rollbacks took back stays; later ones are forgotten, since the run will repeat them.
        """
        kept = []
        for row in self.metrics(rolled_back=True):
            known = row.get("rolled_back", rollbacks + 1) <= rollbacks
            if known or row.get("step", 0) <= last_step:
                kept.append(row if known else {key: row[key] for key in row if key != "rolled_back"})
        self._write_metrics(kept)

    def mark_rolled_back(self, to_step: int, rollback: Mapping[str, Any]) -> None:
        """Mark the lines after `to_step` with the number of a rollback and append its own line, which says it too."""
        mark = {"rolled_back": rollback["rolled_back"]}
        rows = self.metrics(rolled_back=True)
        self._write_metrics([*({**mark, **row} if row.get("step", 0) > to_step else row for row in rows), rollback])

    def _write_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        write_atomic(self.metrics_path, "".join(json.dumps(row) + "\n" for row in rows))

    def exports(self) -> list[dict[str, Any]]:
        """Sum up export/verification.json: for each file which gates failed, and what its type lost."""
        try:
            entries = json.loads((self.export / "verification.json").read_text("utf-8"))
        except (OSError, ValueError):
            return []
        files: dict[str, dict[str, Any]] = {}
        for entry in entries:
            row = files.setdefault(entry["file"], {"file": entry["file"], "gates": 0, "failed": ""})
            row["gates"] += 1
            if not entry["passed"]:
                row["failed"] = f"{row['failed']} {entry['gate']}".strip()
            shown = ("bits_per_weight", "mean_kl", "top1_agreement", "perplexity_ratio")
            if entry["gate"] in ("structure", "behaviour"):
                row |= {name: entry["figures"][name] for name in shown if name in entry["figures"]}
        return list(files.values())

    def evaluation(self) -> list[dict[str, Any]]:
        """Read the rows of evaluation.json; empty when nothing was evaluated."""
        if not self.evaluation_path.is_file():
            return []
        return json.loads(self.evaluation_path.read_text("utf-8"))

    def write_evaluation(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write evaluation.json: rows {target, suite, family, metric, value, low, high, n}."""
        write_atomic(self.evaluation_path, json.dumps([dict(row) for row in rows], indent=2) + "\n")

    def status(self) -> str:
        """Say how the run stands: running, finished, interrupted, failed or killed."""
        manifest = self.manifest()
        status = manifest.get("status", "unknown")
        if status == "running" and not _process_lives(manifest.get("process_id"), manifest.get("process_started")):
            return "killed"
        return status


def runs_root() -> Path:
    """Return the folder of all runs: `TOOLKIT_RUNS_DIR`, else `runs` in the current folder."""
    return Path(os.environ.get(RUNS_VARIABLE) or "runs")


def check_new_name(name: str | None, *, overwrite: bool = False, root: Path | None = None) -> None:
    """Raise ToolkitError unless a run of this name can be created."""
    if name is None:
        return
    if not _NAME.fullmatch(name):
        raise ToolkitError("a run's name has letters, digits, '.', '_' and '-' only", where=f"--name {name}")
    path = (root or runs_root()) / name
    if not path.exists():
        return
    if not overwrite:
        go_on = f", go on with it (--resume {name})" if is_run(path) else ""
        hint = f"Choose another name{go_on} or replace it (--overwrite)"
        raise ToolkitError("a run of this name exists", where=path, hint=hint)
    # A run that was killed in its first moments may have left unfinished files and nothing else.
    if not is_run(path) and set(path.iterdir()) - set(partials(path)):
        raise ToolkitError("this folder is not a run, so it is not overwritten", where=path)


def create_run(
    name: str | None, model: str, data: str, *, overwrite: bool = False, root: Path | None = None
) -> RunFolder:
    """Create an empty run folder called `name`, or `<model>-<data>-001` counted up.

    Raises ToolkitError when the name is taken and `overwrite` is not given, JobFailed when it cannot be written.
    """
    folder = root or runs_root()
    check_new_name(name, overwrite=overwrite, root=folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if name is not None:
            if (folder / name).exists():
                shutil.rmtree(folder / name)
            (folder / name).mkdir()
            return RunFolder(folder / name)
        return _create_counted(folder, f"{_slug(model)}-{_slug(data)}")
    except OSError as error:
        raise write_failed(error, folder / (name or "")) from error


def is_run(path: Path) -> bool:
    """Say whether a folder is a run."""
    return (path / "config.yaml").is_file() or (path / "manifest.json").is_file()


def find_run(text: str, root: Path | None = None) -> RunFolder:
    """Find a run by name or path (a checkpoint's path will do). Raises ToolkitError if there is none."""
    folder = root or runs_root()
    for candidate in (folder / text, Path(text)):
        for path in (candidate, *list(candidate.parents)[:2]):
            if candidate.is_dir() and is_run(path):
                return RunFolder(path)
    names = [run.name for run in list_runs(folder)]
    near = get_close_matches(text, names, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}?" if near else "List them: toolkit runs list"
    raise ToolkitError(f"no such run in {folder}", where=text, hint=hint)


def list_runs(root: Path | None = None) -> list[RunFolder]:
    """Return all runs, oldest first by their start."""
    folder = root or runs_root()
    if not folder.is_dir():
        return []
    runs = [RunFolder(path) for path in folder.iterdir() if path.is_dir() and is_run(path)]
    return sorted(runs, key=lambda run: (str(_started(run)), run.name))


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that a result depends on, as far as they are installed."""
    versions = {}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def now() -> str:
    """Return the time as manifests write it: ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _started(run: RunFolder) -> str:
    try:
        return str(run.manifest().get("started", ""))
    except ToolkitError:
        return ""


def _create_counted(folder: Path, stem: str) -> RunFolder:
    number = 1
    while True:
        path = folder / f"{stem}-{number:03d}"
        try:
            path.mkdir()  # Exclusive: two runs that start together get two numbers.
            return RunFolder(path)
        except FileExistsError:
            number += 1


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-._") or "run"


def process_started() -> float:
    """Return when this process was started, in seconds since 1970: with its number, that tells it from all others."""
    return psutil.Process().create_time()


def _process_lives(process_id: object, started: object) -> bool:
    if not isinstance(process_id, int):
        return False
    try:
        process = psutil.Process(process_id)
        # Killed, but nobody has asked after it yet; and after a restart another process may have the number. Clocks
        # are set now and then, hence the minute.
        same = not isinstance(started, float) or abs(process.create_time() - started) < 60
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
