"""Datasets on the Hugging Face hub: `owner/name`, downloaded once into Hugging Face's own cache, pinned to a commit."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from toolkit.atomic_files import FULL_DISK, write_failed
from toolkit.datasets.folders import folder_names, split_files
from toolkit.datasets.lines import data_suffix
from toolkit.errors import ToolkitError

_NAME = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>[^:\s]+))?(?::(?P<subset>[^:]+))?")
_LIBRARIES = ("httpx", "httpcore", "httpx2", "httpcore2", "requests", "huggingface_hub")
Result = TypeVar("Result")


@dataclass(frozen=True)
class HubDataset:
    """What `owner/name@revision:subset` says.

    revision: branch, tag or commit; None is the newest
    subset:   folder in the dataset (often a configuration's name), or one of its files
    """

    name: str
    revision: str | None = None
    subset: str | None = None

    def __str__(self) -> str:
        """Write it as it is typed."""
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.name}{revision}" + (f":{self.subset}" if self.subset else "")


@dataclass(frozen=True)
class HubFiles:
    """Downloaded files by split, and the name that finds the same again: pinned to the commit."""

    files: dict[str, tuple[Path, ...]]
    pinned: HubDataset


def parse_hub_name(text: str) -> HubDataset | None:
    """Return what a hub name means, or None when it can only be a path.

    A path it is when it names a kind of data file, or when its first part is a folder here: then it is a misspelt one.
    """
    match = _NAME.fullmatch(text)
    if match is None or (match["subset"] is None and data_suffix(text)) or Path(text.split("/")[0]).is_dir():
        return None
    return HubDataset(match["name"], match["revision"], (match["subset"] or "").strip("/") or None)


def fetch_dataset(dataset: HubDataset) -> HubFiles:
    """Find out what the dataset holds, and download the files of its splits and nothing else.

    Without a connection, what the cache holds is taken.

    Raises:
        ToolkitError: there is no such dataset, revision or subset, it wants its licence accepted, the hub cannot be
            reached and nothing is cached, or no file in it is train.
    """
    from huggingface_hub import HfApi

    where = str(dataset)
    try:
        info: Any = _asking(dataset, lambda: HfApi().dataset_info(dataset.name, revision=dataset.revision))
        found = _choose([sibling.rfilename for sibling in info.siblings or ()], dataset, where)
        patterns = [glob.escape(name) for names in found.values() for name in names]
        folder = _asking(dataset, lambda: _snapshot(dataset, patterns))
    except _Unreachable as unreachable:
        folder = _cached(dataset, unreachable)
        found = _choose(folder_names(folder), dataset, where)
    files = {split: tuple(folder / name for name in names) for split, names in found.items()}
    return HubFiles(files, HubDataset(dataset.name, folder.name, dataset.subset))


def _snapshot(dataset: HubDataset, patterns: list[str], *, cached: bool = False) -> Path:
    """Return the folder of a commit's files; its name is the commit. Asked by branch, the cache learns that."""
    from huggingface_hub import snapshot_download

    folder = snapshot_download(
        dataset.name,
        repo_type="dataset",
        revision=dataset.revision,
        allow_patterns=patterns,
        local_files_only=cached,
    )
    return Path(folder)


def _cached(dataset: HubDataset, unreachable: _Unreachable) -> Path:
    # No pattern: with one the library demands every file that it matches, not only those that were ever asked for.
    try:
        return _snapshot(dataset, ["-"], cached=True)
    except (OSError, ValueError) as error:
        raise _not_there(dataset, unreachable) from error


def _choose(names: list[str], dataset: HubDataset, where: str) -> dict[str, tuple[str, ...]]:
    """Pick the files of each split among a dataset's files, inside the subset where one is named."""
    bare = str(HubDataset(dataset.name, dataset.revision))
    subset = dataset.subset
    if subset is None:
        return split_files(names, where, bare + ":{}")
    if subset in names:
        return {"train": (subset,)}
    for prefix in (f"{subset}/", f"data/{subset}/"):
        inside = [name[len(prefix) :] for name in names if name.startswith(prefix)]
        if inside:
            found = split_files(inside, where, f"{bare}:{prefix}{{}}")
            return {split: tuple(prefix + name for name in chosen) for split, chosen in found.items()}
    folders = sorted({name.split("/")[0] for name in names if "/" in name and data_suffix(name)})
    hint = f"There are: {', '.join(folders[:8])}" if folders else ""
    raise ToolkitError(f"this dataset has no folder or file {subset}", where=where, hint=hint)


class _Unreachable(Exception):
    """The hub could not be asked, or would not say."""


def _asking(dataset: HubDataset, ask: Callable[[], Result]) -> Result:
    """Ask the hub. Raises ToolkitError for an answer that is no, _Unreachable where there was no answer."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return ask()
    except GatedRepoError as error:
        hint = f"Accept its licence at https://huggingface.co/datasets/{dataset.name}, then log in: hf auth login"
        raise ToolkitError("this dataset wants its licence accepted first", where=str(dataset), hint=hint) from error
    except RevisionNotFoundError as error:
        what = f"the dataset has no revision {dataset.revision}"
        raise ToolkitError(what, where=str(dataset), hint="Give a branch, a tag or a commit after the @") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise _not_there(dataset, error) from error
    except OSError as error:  # the hub's other errors are OSErrors too
        if error.errno in FULL_DISK:
            raise write_failed(error, Path(dataset.name)) from error
        raise _Unreachable(str(error)) from error
    except Exception as error:
        # The HTTP library's own errors pass through huggingface_hub, and which library that is depends on its version.
        if type(error).__module__.partition(".")[0] in _LIBRARIES:
            raise _Unreachable(str(error)) from error
        raise


def _not_there(dataset: HubDataset, error: Exception) -> ToolkitError:
    unreached = isinstance(error, _Unreachable)
    hub = "the Hugging Face hub cannot be reached and it is not in the cache" if unreached else "none on the hub"
    hint = "Give a file, a folder or OWNER/NAME of a dataset" + (
        "" if unreached else "; private? Log in: hf auth login"
    )
    return ToolkitError(f"no such file or folder here, and {hub}", where=f"data.path: {dataset}", hint=hint)
