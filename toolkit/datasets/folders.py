"""Which files of a folder, or of a dataset on the hub, are train, validation and test: by their names alone.

A split is one file (`train.jsonl`), its shards (`train-00000-of-00002.parquet`, …) or a folder of that name; all of
them may stand in `data/`, as the hub has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from toolkit.datasets.lines import data_suffix
from toolkit.errors import Problem, ToolkitError

SPLIT_NAMES = {"train": ("train",), "validation": ("valid", "validation", "val", "dev"), "test": ("test",)}
_SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}
# `-00000-of-00002`, perhaps with the hash that older uploads carry, or a plain number.
_SHARD = re.compile(r"(?P<stem>.+?)[-_.](?P<number>\d+)(?:-of-(?P<total>\d+))?(?:-[0-9a-f]{8,})?")
_PLACES = ("", "data/")

Files = dict[str, tuple[str, ...]]


def folder_names(folder: Path) -> list[str]:
    """List a folder's data files by relative name, as deep as a split can stand (`<set>/data/train/0000.parquet`)."""
    return sorted(path.relative_to(folder).as_posix() for path in _walk(folder, 3))


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if depth == 3 or (depth > 0 and path.name.lower() in (*_SPLIT_OF, "data")):
                yield from _walk(path, depth - 1)
        elif data_suffix(path.name):
            yield path


def split_of(name: str) -> str | None:
    """Return which split a file's own name says it is (`valid-00000.parquet`: validation), None where it is silent."""
    stem, _, _ = _shard(name.removesuffix(data_suffix(name)))
    return _SPLIT_OF.get(stem.lower())


def split_files(names: Sequence[str], where: str, choose: str) -> Files:
    """Return the files of each split, shards in order; `train` is always among them.

    Args:
        names: relative paths with `/`; files that are no data are passed over.
        where: the folder or dataset, for messages to the user.
        choose: how a file or folder in it is named on the command line, with `{}` for its name.

    Raises:
        ToolkitError: no file is train, two claim to be one split, or a shard is missing.
    """
    data = sorted(name for name in names if data_suffix(name))
    for prefix in _PLACES:
        inside = [name[len(prefix) :] for name in data if name.startswith(prefix)]
        problems: list[Problem] = []
        found = _by_name(inside, where, problems) or {}
        if "train" not in found and not problems:
            shards = _unnamed_shards(inside)
            found = {**found, "train": shards} if shards else found
        if problems:
            raise ToolkitError.gather(problems)
        if "train" in found:
            return {split: tuple(prefix + name for name in files) for split, files in found.items()}
    raise ToolkitError.gather([_no_train(data, where, choose)])


def _by_name(names: Iterable[str], where: str, problems: list[Problem]) -> Files:
    """Group files by the split that their name, or their folder's, says; append what does not fit together."""
    claims: dict[str, dict[tuple[str, str], list[str]]] = {}
    for name in names:
        path = PurePosixPath(name)
        suffix = data_suffix(path.name)
        if len(path.parts) == 2 and path.parts[0].lower() in _SPLIT_OF:
            split, claim = _SPLIT_OF[path.parts[0].lower()], (f"{path.parts[0]}/", "")
        elif len(path.parts) == 1:
            stem, _, total = _shard(path.name.removesuffix(suffix))
            split, claim = _SPLIT_OF.get(stem.lower(), ""), (f"{stem} of {total}" if total else stem, suffix)
        else:
            continue
        if split:
            claims.setdefault(split, {}).setdefault(claim, []).append(name)
    found: Files = {}
    for split, groups in claims.items():
        if len(groups) > 1:
            named = " and ".join(files[0] for files in groups.values())
            problems.append(Problem(f"{named} both claim to be the {split} split", where, "Keep one of them"))
        (files, *_) = groups.values()
        found[split] = tuple(sorted(files, key=_number))
        missing = _missing(found[split])
        if missing:
            what = f"of the {split} split {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
            problems.append(Problem(what, where, "Download the missing file, or rename the others"))
    return found


def _shard(stem: str) -> tuple[str, int, int]:
    """Take `train-00001-of-00002` apart into (train, 1, 2); a file that is no shard has 0 in all."""
    match = _SHARD.fullmatch(stem)
    if match is None:
        return stem, 0, 0
    return match["stem"], int(match["number"]), int(match["total"] or 0)


def _number(name: str) -> tuple[int, str]:
    return _shard(PurePosixPath(name).name.removesuffix(data_suffix(name)))[1], name


def _missing(files: Sequence[str]) -> list[str]:
    """Name the shards that `-of-` promises and that are not there, the first few of them."""
    shards = [_shard(PurePosixPath(name).name.removesuffix(data_suffix(name))) for name in files]
    there = {number for _, number, _ in shards}
    total = max(total for _, _, total in shards)
    # Nearly everybody counts from 0.
    first = 0 if 0 in there or total not in there else 1
    return [f"shard {number} of {total}" for number in range(first, first + total) if number not in there][:5]


def _unnamed_shards(names: Sequence[str]) -> tuple[str, ...]:
    """Return files that differ by their numbers alone (`part-0.jsonl`, `part-1.jsonl`): together they are train."""
    files = [name for name in names if "/" not in name]
    alike = {re.sub(r"\d+", "#", name) for name in files}
    return tuple(sorted(files, key=_number)) if len(files) > 1 and len(alike) == 1 else ()


def _no_train(names: Sequence[str], where: str, choose: str) -> Problem:
    sets = sorted({name.split("/")[0] for name in names if _is_train_below(name)})
    files = [name for name in names if "/" not in name] or list(names)
    if sets:
        shown = ", ".join(sets[:8]) + (", …" if len(sets) > 8 else "")
        return Problem(f"there are several sets: {shown}", where, f"Choose one: --data {choose.format(sets[0])}")
    if files:
        hint = f"Name the file itself: --data {choose.format(files[0])}"
        return Problem("the folder has no train.jsonl", where, hint)
    hint = "Expected train.jsonl (or .json, .parquet, .jsonl.gz), and if you have them valid.jsonl and test.jsonl"
    return Problem("the folder has no train.jsonl", where, hint)


def _is_train_below(name: str) -> bool:
    parts = [part for part in PurePosixPath(name).parts if part != "data"]
    if len(parts) < 2:
        return False
    stem = _shard(parts[1].removesuffix(data_suffix(parts[1])))[0]
    return parts[0].lower() not in _SPLIT_OF and _SPLIT_OF.get(stem.lower()) == "train"
