"""Plant one-line faults and see whether the tests named for them fail.

    python -m tests.mutants [--share 3 --seed TEXT] [--only export] [--jobs 2]

Every `tests/mutants/<part>.toml` lists faults:

    [[mutant]]
    name = "loss mask shifted by one"
    file = "toolkit/datasets/chat.py"
    find = "weights[start:end] = 1.0"        # must occur exactly once in the file
    replace = "weights[start - 1:end - 1] = 1.0"
    test = "tests/datasets/test_chat.py::test_only_assistant_turns_are_trained"   # or a list: one of them must fail

The working tree is copied to temporary folders, so a fault never touches the sources. The named tests must pass without
a fault first. A fault counts as caught when pytest runs its tests and one fails (exit code 1); a collection error or a
time-out does not count, since it proves nothing about the test. Exit code 1 when a fault survives, when its `find` no
longer matches, or when a named test fails by itself.
"""

from __future__ import annotations

import argparse
import ast
import os
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FAULTS = Path(__file__).resolve().parent
TIMEOUT_SECONDS = 300
FIELDS = ("name", "file", "find", "replace", "test")


@dataclass(frozen=True)
class Mutant:
    """One fault: replace `find` by `replace` in `file`; one of `tests` must then fail."""

    part: str
    name: str
    file: str
    find: str
    replace: str
    tests: tuple[str, ...]

    @property
    def label(self) -> str:
        """Name for the report."""
        return f"{self.part}: {self.name}"


@dataclass(frozen=True)
class Verdict:
    """What became of one fault; `caught` is the only good outcome."""

    mutant: Mutant
    caught: bool
    outcome: str
    seconds: float = 0.0


def read_mutants(folder: Path, only: str | None = None) -> list[Mutant]:
    """Read all faults, in the order of the files. Raises SystemExit for incomplete entries and unknown parts."""
    mutants: list[Mutant] = []
    problems: list[str] = []
    for path in sorted(folder.glob("*.toml")):
        if only is not None and path.stem != only:
            continue
        for number, entry in enumerate(tomllib.loads(path.read_text(encoding="utf-8")).get("mutant", []), start=1):
            if set(entry) != set(FIELDS):
                problems.append(f"{path.name}: mutant {number} must have exactly the fields {', '.join(FIELDS)}")
                continue
            tests = (entry["test"],) if isinstance(entry["test"], str) else tuple(entry["test"])
            mutants.append(Mutant(path.stem, entry["name"], entry["file"], entry["find"], entry["replace"], tests))
    if only is not None and not (folder / f"{only}.toml").exists():
        problems.append(f"no part is called {only}; parts: {', '.join(sorted(p.stem for p in folder.glob('*.toml')))}")
    if problems:
        raise SystemExit("\n".join(problems))
    return mutants


def draw(mutants: Sequence[Mutant], share: int, seed: str) -> list[Mutant]:
    """Draw one `share`-th of the faults (rounded up) by seed, in their own order."""
    count = -(-len(mutants) // share)
    chosen = random.Random(seed).sample(range(len(mutants)), count)
    return [mutants[index] for index in sorted(chosen)]


def planted(text: str, mutant: Mutant) -> str:
    """Return the file's text with the fault. Raises ValueError when it cannot be planted."""
    occurrences = text.count(mutant.find)
    if occurrences != 1:
        raise ValueError(f"its `find` occurs {occurrences} times in {mutant.file}, not once")
    faulty = text.replace(mutant.find, mutant.replace)
    if faulty == text:
        raise ValueError("its `replace` changes nothing")
    if mutant.file.endswith(".py"):
        try:
            ast.parse(faulty)
        except SyntaxError as error:
            raise ValueError(f"with it {mutant.file} is no longer Python ({error.msg}, line {error.lineno})") from error
    return faulty


def copy_tree(source: Path, target: Path) -> None:
    """Copy what git tracks or would track; bytecode and caches stay behind, or a stale .pyc could hide a fault."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=source,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)


def run_pytest(tree: Path, tests: Iterable[str], timeout: float) -> tuple[int | None, str]:
    """Run tests in a copied tree; return (exit code, output), the code None when the time ran out."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header", *tests]
    try:
        done = subprocess.run(
            command,
            cwd=tree,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as expired:
        return None, str(expired.stdout or "")
    return done.returncode, done.stdout


def try_mutant(tree: Path, mutant: Mutant) -> Verdict:
    """Plant the fault in the copied tree, run its tests, take the fault out again."""
    started = time.monotonic()
    path = tree / mutant.file
    if not path.is_file():
        return Verdict(mutant, False, f"{mutant.file} does not exist")
    original = path.read_text(encoding="utf-8")
    try:
        path.write_text(planted(original, mutant), encoding="utf-8")
        code, output = run_pytest(tree, mutant.tests, TIMEOUT_SECONDS)
    except ValueError as error:
        return Verdict(mutant, False, str(error))
    finally:
        path.write_text(original, encoding="utf-8")
    seconds = time.monotonic() - started
    if code == 1:
        return Verdict(mutant, True, "caught", seconds)
    if code == 0:
        return Verdict(mutant, False, f"SURVIVED {', '.join(mutant.tests)}", seconds)
    if code is None:
        return Verdict(mutant, False, f"no verdict within {TIMEOUT_SECONDS} s", seconds)
    return Verdict(mutant, False, f"pytest could not run the test (exit code {code})\n{output[-1500:]}", seconds)


def check_named_tests(tree: Path, mutants: Sequence[Mutant]) -> None:
    """Run every named test without a fault. Raises SystemExit when one fails: its verdicts would mean nothing."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    code, output = run_pytest(tree, tests, TIMEOUT_SECONDS * 4)
    if code != 0:
        print(output[-6000:], file=sys.stderr)
        raise SystemExit("mutants: the named tests must pass without a fault, and they do not")


def run_mutants(mutants: Sequence[Mutant], jobs: int) -> list[Verdict]:
    """Try every fault, `jobs` at a time, each in a copy of the tree of its own."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        trees: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for index in range(jobs):
            tree = Path(scratch) / str(index)
            copy_tree(ROOT, tree)
            trees.put(tree)
        check_named_tests(Path(scratch) / "0", mutants)

        def attempt(mutant: Mutant) -> Verdict:
            tree = trees.get()
            try:
                verdict = try_mutant(tree, mutant)
            finally:
                trees.put(tree)
            print(f"  {verdict.seconds:5.1f} s  {mutant.label}: {verdict.outcome}", flush=True)
            return verdict

        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(attempt, mutants))


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run, report; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Plant faults; named tests must fail.")
    parser.add_argument("--share", type=int, default=1, help="run one fault in SHARE, drawn by --seed (default: all)")
    parser.add_argument("--seed", default="0", help="any text")
    parser.add_argument("--only", metavar="PART", help="only tests/mutants/PART.toml")
    parser.add_argument("--jobs", type=int, default=2, help="at a time (default 2)")
    options = parser.parse_args(arguments)

    everything = read_mutants(FAULTS, options.only)
    mutants = draw(everything, options.share, options.seed)
    print(f"mutants: {len(mutants)} of {len(everything)} faults, seed {options.seed}", flush=True)
    if not mutants:
        return 0
    started = time.monotonic()
    verdicts = run_mutants(mutants, options.jobs)
    missed = [verdict for verdict in verdicts if not verdict.caught]
    print(f"mutants: {len(verdicts) - len(missed)} caught, {len(missed)} not, in {time.monotonic() - started:.0f} s")
    for verdict in missed:
        print(f"  {verdict.mutant.label}: {verdict.outcome}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
