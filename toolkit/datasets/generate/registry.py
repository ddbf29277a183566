"""Every generator that ships, in the order in which a set is written, with the counts of the core set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from toolkit.atomic_files import write_atomic, write_failed
from toolkit.datasets.generate import reasoning
from toolkit.datasets.generate.algebra import ALGEBRA
from toolkit.datasets.generate.compliance import compliance
from toolkit.datasets.generate.context import context
from toolkit.datasets.generate.exact_arithmetic import ARITHMETIC
from toolkit.datasets.generate.generator import Generator, Make, OnRejected, Record, ignore_rejected
from toolkit.datasets.generate.memory import memory_examples
from toolkit.datasets.generate.memory_tools import MemoryStandIn, OpenTools
from toolkit.datasets.generate.process import Cycle, process
from toolkit.datasets.generate.python_basics import PYTHON
from toolkit.datasets.generate.reasoning import FAMILIES, REASONING
from toolkit.datasets.generate.tagging import tagging
from toolkit.datasets.generate.team_examples import TeamExamples
from toolkit.datasets.generate.team_file import Team, read_team
from toolkit.errors import Problem, ToolkitError

CORE_TEAM = Path(__file__).with_name("core_team.yaml")
NEW_TEAM = Path(__file__).with_name("new_team.yaml")
TEAM_NAME = "team.yaml"
CORE_SOURCE = "toolkit.datasets.generate.core_team"
FAMILY_COUNT = 20
"""Examples of each family of reasoning-gym that is asked for."""

# A team's own file may be as small as one term and as large as it likes.
_ANY_COUNT = (1, 1_000_000)


def generators(
    *, cycle: Cycle | None = None, open_tools: OpenTools = MemoryStandIn, families: Sequence[str] = ()
) -> dict[str, Generator]:
    """Return the generators by name, in the order in which a set is written.

    cycle: the stages of the process examples; default: the cycle that ships
    open_tools: what executes the calls of the memory examples; default: the stand-in
    families: of reasoning-gym; with some the category `reasoning` is made by default, without it holds all families
    """

    def process_examples(seed: int, count: int, on_rejected: OnRejected = ignore_rejected) -> Iterator[Record]:
        return process(seed, count, on_rejected, cycle=cycle)

    listed = (
        Generator("procedures", 960, (500, 1_000), "error handling, tool usage, commits, debugging", _procedures),
        Generator("definitions", 480, (200, 500), '"42" and the words of a domain', _definitions),
        Generator("context", 480, (200, 500), "a system prompt's rules, kept without the prompt", context),
        Generator("tagging", 300, (100, 300), "strict, moderate or flexible, and which kind of note", tagging),
        Generator(
            "compliance", 300, (100, 300), "concept:, pattern: and definition: rules, kept or violated", compliance
        ),
        Generator("process", 300, (100, 300), "the OODATCAA cycle: stages, agents, protocols", process_examples),
        Generator("memory", 400, (100, 500), "calls of a memory's tools, executed", memory_examples(open_tools)),
        ARITHMETIC,
        ALGEBRA,
        PYTHON,
        _reasoning(families) if families else REASONING,
    )
    return {generator.name: generator for generator in listed}


def check_families(names: Sequence[str]) -> tuple[str, ...]:
    """Return the families of reasoning-gym that are meant. Raises ToolkitError for all that there are not."""
    problems = []
    for name in names:
        if name not in FAMILIES:
            near = get_close_matches(name, FAMILIES, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]}?" if near else f"Families: {', '.join(FAMILIES)}"
            problems.append(Problem(f"no family named {name}", f"--reasoning {name}", hint))
    if problems:
        raise ToolkitError.gather(problems)
    return tuple(dict.fromkeys(names))


def _reasoning(families: Sequence[str]) -> Generator:
    def make(seed: int, count: int, on_rejected: OnRejected = ignore_rejected) -> Iterator[Record]:
        return reasoning.make(seed, count, on_rejected, families=families)

    return replace(REASONING, default_count=FAMILY_COUNT * len(families), make=make)


def team_generators(path: Path | str) -> dict[str, Generator]:
    """Return the generators of a team's own file, by category. Raises ToolkitError with everything wrong in it."""
    team = read_team(path)
    examples = TeamExamples(team, Path(path).name)
    return {name: _of_team(examples, name, make) for name, make in examples.categories().items()}


def _of_team(examples: TeamExamples, name: str, make: Callable[..., Iterator[Record]]) -> Generator:
    return Generator(name, examples.default_count(name), _ANY_COUNT, f"of {examples.team.team}", _as_make(make))


def _as_make(make: Callable[..., Iterator[Record]]) -> Make:
    def made(seed: int, count: int, on_rejected: OnRejected = ignore_rejected) -> Iterator[Record]:
        return make(seed, count, on_rejected)

    return made


def write_new_team(folder: Path, *, force: bool = False) -> Path:
    """Write the commented starter into `folder` and return its path.

    Raises:
        ToolkitError: it exists and `force` is not set, or the folder is a file.
        JobFailed: the folder cannot be written.
    """
    path = folder / TEAM_NAME
    if folder.exists() and not folder.is_dir():
        raise ToolkitError("this is a file, not a folder", where=folder)
    if path.exists() and not force:
        hint = "Choose another folder (toolkit dataset init FOLDER), or give --force to replace it"
        raise ToolkitError("exists already", where=path, hint=hint)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_failed(error, path) from error
    write_atomic(path, NEW_TEAM.read_bytes())
    return path


@cache
def core_team() -> Team:
    """Return the team whose terms and procedures the core set teaches."""
    return read_team(CORE_TEAM)


def _definitions(seed: int, count: int, on_rejected: OnRejected = ignore_rejected) -> Iterator[Record]:
    return TeamExamples(core_team(), CORE_SOURCE).definitions(seed, count, on_rejected)


def _procedures(seed: int, count: int, on_rejected: OnRejected = ignore_rejected) -> Iterator[Record]:
    return TeamExamples(core_team(), CORE_SOURCE).procedures(seed, count, on_rejected)
