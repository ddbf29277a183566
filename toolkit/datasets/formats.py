"""Where examples come from (a file, a folder, a dataset on the hub, the bundled set) and how they are split."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import toolkit
from toolkit.config import DataConfig
from toolkit.datasets.folders import folder_names, split_files
from toolkit.datasets.hub import fetch_dataset, parse_hub_name
from toolkit.datasets.lines import check_data_file, data_suffix, read_values
from toolkit.datasets.problems import condense
from toolkit.datasets.randomness import permutation
from toolkit.datasets.records import example_from_record
from toolkit.datasets.schema import Example
from toolkit.errors import Problem, ToolkitError

STARTER_FOLDER = Path(toolkit.__file__).parent / "nano" / "data"
"""The bundled set that `data.path: starter` means."""

# One number each, so that the draws do not depend on one another.
_HOLD_OUT, _LIMIT_TRAIN, _LIMIT_VALIDATION = 101, 102, 103


@dataclass(frozen=True)
class Splits:
    """What a run learns from and what it is measured on.

    train:      at most `data.max_examples` examples
    validation: at most `data.max_validation_examples`; empty only when `data.validation` is 0
    test:       every example of the test file; it selects nothing
    files:      the files that were read, for the run's manifest
    path:       what `data.path` should say to find the same again: a hub name is pinned to its commit
    """

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    files: tuple[Path, ...]
    path: str


def load_splits(data: DataConfig, seed: int) -> Splits:
    """Read the dataset that a config names and split it.

    Without a validation file, `data.validation` (a fraction) of train is held out by seed; examples with the same
    `metadata.key` stay on one side. A test file is never touched by that.

    Raises:
        ToolkitError: everything that is wrong with the data, gathered, each with file and line.
    """
    files, pinned = _find_files(data)
    problems: list[Problem] = []
    read = {name: _read(paths, data, problems) for name, paths in files.items()}
    if problems:
        raise ToolkitError.gather(condense(problems))
    train, validation = read["train"], read.get("validation")
    if validation is None:
        train, validation = hold_out(train, float(data.validation), seed)
    return Splits(
        train=_limit(train, data.max_examples, seed, _LIMIT_TRAIN),
        validation=_limit(validation, data.max_validation_examples, seed, _LIMIT_VALIDATION),
        test=read.get("test", []),
        files=tuple(path for paths in files.values() for path in paths),
        path=pinned,
    )


def read_examples(path: Path | str, data: DataConfig) -> list[Example]:
    """Read every example of one file, in the file's order, by the mapping in `data` (its `path` is not looked at).

    Raises:
        ToolkitError: everything that is wrong with the file, gathered, each with file and line.
    """
    problems: list[Problem] = []
    examples = _read((Path(path).expanduser(),), data, problems)
    if problems:
        raise ToolkitError.gather(condense(problems))
    return examples


def hold_out(examples: Sequence[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Split off about `fraction` of the examples (at least one), whole semantic keys at a time, both in file order.

    Raises:
        ToolkitError: the fraction is not in [0, 1), or everything shares one key, so that nothing can be held out.
    """
    if not 0 <= fraction < 1:
        raise ToolkitError(
            f"{fraction:g} is not a fraction", where="data.validation", hint="Give 0 ≤ fraction < 1, or a file"
        )
    if fraction == 0:
        return list(examples), []
    groups: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        # Without a key an example is its own group; the prefix keeps an index from meeting a key that looks like it.
        groups.setdefault(f"#{index}" if example.key is None else f"key:{example.key}", []).append(index)
    if len(groups) < 2:
        why = "there is one example" if len(examples) == 1 else "all examples share one key"
        raise ToolkitError(
            f"nothing can be held out: {why}",
            where="data.validation",
            hint="Name a validation file: --set data.validation=FILE (or 0 to train without one)",
        )
    wanted = max(1, round(fraction * len(examples)))
    members = list(groups.values())
    held: set[int] = set()
    for group in permutation(len(members), seed, _HOLD_OUT)[: len(members) - 1]:
        held.update(members[group])
        if len(held) >= wanted:
            break
    train = [example for index, example in enumerate(examples) if index not in held]
    return train, [examples[index] for index in sorted(held)]


def _limit(examples: list[Example], count: int | None, seed: int, draw: int) -> list[Example]:
    """Keep `count` examples drawn by seed, in file order; a smaller count draws a subset of a larger one's."""
    if count is None or count >= len(examples):
        return examples
    return [examples[index] for index in sorted(permutation(len(examples), seed, draw)[:count])]


def _read(paths: Sequence[Path], data: DataConfig, problems: list[Problem]) -> list[Example]:
    """Read a split's files one after the other, appending what is wrong to `problems`."""
    examples: list[Example] = []
    before = len(problems)
    for path in paths:
        for where, value in read_values(path, problems):
            try:
                examples.append(example_from_record(value, data, where))
            except ToolkitError as error:
                problems.extend(error.problems)
    if not examples and len(problems) == before:
        problems.append(Problem("the file holds no examples", str(paths[0])))
    return examples


def data_label(path: str) -> str:
    """Return a short name for data, for run folders and tables: without folders, suffixes and the hub's commit."""
    if Path(path).expanduser().exists():
        name = Path(path).name
        return name.removesuffix(data_suffix(name)) or Path(path).resolve().name
    dataset = parse_hub_name(path)
    if dataset is None:
        return Path(path).stem
    subset = f"-{Path(dataset.subset).name.removesuffix(data_suffix(dataset.subset))}" if dataset.subset else ""
    return dataset.name.rpartition("/")[2] + subset


def _find_files(data: DataConfig) -> tuple[dict[str, tuple[Path, ...]], str]:
    """Return the files by split name, `train` always among them, and the path that finds them again."""
    place = STARTER_FOLDER if data.path == "starter" else Path(data.path).expanduser()
    pinned = data.path
    if place.exists():
        files = _local_files(place)
    else:
        dataset = parse_hub_name(data.path)
        if dataset is None:
            raise ToolkitError("no such file or folder", where=f"data.path: {data.path}", hint=_near_paths(place))
        fetched = fetch_dataset(dataset)
        files, pinned = dict(fetched.files), str(fetched.pinned)
    if isinstance(data.validation, str):
        validation = Path(data.validation).expanduser()
        if not validation.exists():
            place = f"data.validation: {data.validation}"
            raise ToolkitError("no such file", where=place, hint=_near_paths(validation))
        files["validation"] = (validation,)
    for paths in files.values():
        for path in paths:
            check_data_file(path)
    return files, pinned


def _local_files(place: Path) -> dict[str, tuple[Path, ...]]:
    if not place.is_dir():
        return {"train": (place,)}
    found = split_files(folder_names(place), str(place), f"{place}/{{}}")
    return {split: tuple(place / name for name in names) for split, names in found.items()}


def _near_paths(place: Path) -> str:
    if not place.parent.is_dir():
        return ""
    near = difflib.get_close_matches(place.name, [path.name for path in place.parent.iterdir()], n=1)
    return f"Did you mean {place.parent / near[0]}?" if near else ""
