"""Making a set: which categories, how many of each, from which seed, into which file."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from toolkit.atomic_files import open_atomic, write_failed
from toolkit.datasets.generate.generator import Generator, Record
from toolkit.datasets.lines import data_suffix
from toolkit.errors import Problem, ToolkitError

Shape = Literal["records", "messages"]
"""`records`: as each generator makes them; `messages`: every record as a conversation."""

OUT_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")


@dataclass
class CategoryStatistics:
    """What one category holds; lengths are characters."""

    count: int = 0
    verified: int = 0
    rejected: int = 0
    difficulty: float = 0.0
    asked: int = 0
    answered: int = 0
    keys: set[str] = field(default_factory=set)
    levels: Counter[str] = field(default_factory=Counter)

    def add(self, record: Record) -> None:
        """Count a record."""
        metadata = record["metadata"]
        self.count += 1
        self.verified += bool(metadata["verified"])
        self.difficulty += metadata["difficulty"]
        self.keys.add(metadata["key"])
        self.levels[metadata["preservation"]] += 1
        asked, answered = question_and_answer(record)
        self.asked += len(asked)
        self.answered += len(answered)


def read_counts(texts: Sequence[str], available: Mapping[str, Generator]) -> dict[str, int]:
    """Read `category=N` texts; without any, every category gets its own default.

    Raises:
        ToolkitError: all texts that name no category (with the nearest one) or no whole number above 0, or one twice.
    """
    if not texts:
        return {name: generator.default_count for name, generator in available.items()}
    counts: dict[str, int] = {}
    problems: list[Problem] = []
    for text in texts:
        name, equals, number = text.partition("=")
        name, number, place = name.strip(), number.strip(), f"--count {text}"
        if not equals or not number.isdecimal() or int(number) == 0:
            problems.append(
                Problem("expected category=N, N a whole number above 0", place, "Such as --count process=100")
            )
        elif name not in available:
            near = get_close_matches(name, available, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]}?" if near else f"Categories: {', '.join(available)}"
            problems.append(Problem(f"no category named {name}", place, hint))
        elif name in counts:
            problems.append(Problem(f"{name} is counted twice", place))
        else:
            counts[name] = int(number)
    if problems:
        raise ToolkitError.gather(problems)
    return {name: counts[name] for name in available if name in counts}


def make_set(
    available: Mapping[str, Generator],
    counts: Mapping[str, int],
    seed: int,
    statistics: dict[str, CategoryStatistics] | None = None,
    advance: Callable[[str, int], None] = lambda name, done: None,
    on_rejected: Callable[[str, str], None] = lambda name, why: None,
) -> Iterator[Record]:
    """Yield the records of a set, category by category; the same arguments give the same records.

    statistics: filled by category on the way
    advance: called with (category, records made since the last call)
    on_rejected: called with (category, why a candidate was not kept)
    """
    statistics = {} if statistics is None else statistics
    for name, count in counts.items():
        figures = statistics.setdefault(name, CategoryStatistics())

        def rejected(why: str, name: str = name, figures: CategoryStatistics = figures) -> None:
            figures.rejected += 1
            on_rejected(name, why)

        for record in available[name].make(seed, count, rejected):
            figures.add(record)
            advance(name, 1)
            yield record


def question_and_answer(record: Record) -> tuple[str, str]:
    """Return what is asked and what is taught, tool calls as JSON."""
    if "messages" not in record:
        return "\n\n".join(part for part in (record["instruction"], record["input"]) if part), record["output"]
    sides: dict[bool, list[str]] = {True: [], False: []}
    for message in record["messages"]:
        calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", ())]
        sides[message["role"] == "assistant"] += [part for part in (message["content"], *calls) if part]
    return "\n".join(sides[False]), "\n".join(sides[True])


def as_messages(record: Record) -> Record:
    """Return a record as a conversation; one that is a conversation stays as it is."""
    if "messages" in record:
        return record
    asked, answered = question_and_answer(record)
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return {"messages": turns, "metadata": record["metadata"]}


def check_out(path: Path, *, overwrite: bool) -> None:
    """Raise ToolkitError when a set cannot be written to `path`: an unknown kind of file, or it exists already."""
    if path.is_dir():
        raise ToolkitError("this is a folder", where=path, hint=f"Name a file in it, such as {path / 'examples.jsonl'}")
    if data_suffix(path.name) not in OUT_SUFFIXES:
        hint = f"Give the file one of these endings: {', '.join(OUT_SUFFIXES)}"
        raise ToolkitError("cannot tell which kind of file to write", where=path, hint=hint)
    if path.exists() and not overwrite:
        raise ToolkitError("exists already", where=path, hint="Choose another name, or give --overwrite to replace it")


def write_set(path: Path, records: Iterable[Record], shape: Shape = "records") -> int:
    """Write records in the form that the file's name says; return how many.

    The file gets its name when all is written: an interruption leaves nothing behind. A packed file holds no time and
    no name, so the same records give the same bytes. Raises JobFailed when the system refuses.
    """
    suffix = data_suffix(path.name)
    shaped = map(as_messages, records) if shape == "messages" else records
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_failed(error, path) from error
    count = 0
    with open_atomic(path) as file:
        if suffix == ".parquet":
            rows = [_flat(record) for record in shaped]
            # pyarrow takes the columns from the first row alone.
            columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(n for row in rows for n in row)}
            pq.write_table(pa.table(columns), file)
            return len(rows)
        if suffix == ".json":
            listed = list(shaped)
            file.write((json.dumps(listed, ensure_ascii=False, indent=1) + "\n").encode())
            return len(listed)
        out = gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) if suffix == ".jsonl.gz" else file
        for record in shaped:
            out.write((json.dumps(record, ensure_ascii=False) + "\n").encode())
            count += 1
        if out is not file:
            out.close()
    return count


def _flat(record: Record) -> Record:
    """Return a record for Parquet, whose columns have one type: tools and arguments, which differ, as JSON text."""
    flat = dict(record)
    if "tools" in record:
        flat["tools"] = json.dumps(record["tools"], ensure_ascii=False)
    if "messages" in record:
        flat["messages"] = [_flat_turn(turn) for turn in record["messages"]]
    return flat


def _flat_turn(turn: Record) -> Record:
    if "tool_calls" not in turn:
        return turn
    calls = [
        {
            **call,
            "function": {
                **call["function"],
                "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
            },
        }
        for call in turn["tool_calls"]
    ]
    return {**turn, "tool_calls": calls}
