from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.mutants import __main__ as runner

FAULTS = """
[[mutant]]
name = "subtracts"
file = "sums.py"
find = "a + b"
replace = "a - b"
test = "test_sums.py::test_it_adds"

[[mutant]]
name = "adds twice nothing"
file = "sums.py"
find = "return a"
replace = "return 0 + a"
test = ["test_sums.py::test_it_adds"]

[[mutant]]
name = "is gone"
file = "sums.py"
find = "a * b"
replace = "a / b"
test = "test_sums.py::test_it_adds"

[[mutant]]
name = "cannot be collected"
file = "test_sums.py"
find = "from sums import add"
replace = "from sums import subtract"
test = "test_sums.py::test_it_adds"
"""


def small_project(folder: Path, body: str = "return a + b") -> Path:
    folder.mkdir()
    subprocess.run(["git", "init", "-q", folder], check=True)
    (folder / "sums.py").write_text(f"def add(a, b):\n    {body}\n")
    (folder / "test_sums.py").write_text("from sums import add\n\ndef test_it_adds():\n    assert add(2, 3) == 5\n")
    return folder


def read(folder: Path, text: str = FAULTS) -> list[runner.Mutant]:
    folder.mkdir()
    (folder / "sums.toml").write_text(text)
    return runner.read_mutants(folder)


def test_a_fault_is_caught_only_by_a_test_that_runs_and_fails(tmp_path, monkeypatch):
    project = small_project(tmp_path / "project")
    monkeypatch.setattr(runner, "ROOT", project)
    caught, survived, gone, broken = runner.run_mutants(read(tmp_path / "faults"), jobs=2)
    assert caught.caught
    assert not survived.caught and "SURVIVED" in survived.outcome
    assert not gone.caught and "occurs 0 times" in gone.outcome
    assert not broken.caught and "could not run" in broken.outcome
    assert (project / "sums.py").read_text().count("a + b") == 1


def test_named_tests_must_pass_before_a_fault_is_planted(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "ROOT", small_project(tmp_path / "project", body="return a + b + 1"))
    with pytest.raises(SystemExit, match="must pass without a fault"):
        runner.run_mutants(read(tmp_path / "faults")[:1], jobs=1)


def test_a_third_is_drawn_by_seed_and_in_order(tmp_path):
    mutants = read(tmp_path / "faults") * 3
    assert runner.draw(mutants, 3, "a") == runner.draw(mutants, 3, "a")
    assert len(runner.draw(mutants, 3, "a")) == 4
    assert len({tuple(m.name for m in runner.draw(mutants, 3, str(seed))) for seed in range(20)}) > 1
    assert runner.draw(mutants, 1, "a") == mutants


def test_incomplete_entries_and_unknown_parts_are_refused(tmp_path):
    with pytest.raises(SystemExit, match="sums.toml: mutant 1 must have exactly the fields"):
        read(tmp_path / "faults", '[[mutant]]\nname = "x"\n')
    with pytest.raises(SystemExit, match="no part is called sum; parts: sums"):
        runner.read_mutants(tmp_path / "faults", "sum")


def test_a_fault_that_is_not_python_is_refused(tmp_path):
    mutant = runner.Mutant("sums", "x", "sums.py", "a + b", "a +", ("test_sums.py",))
    with pytest.raises(ValueError, match="no longer Python"):
        runner.planted("def add(a, b):\n    return a + b\n", mutant)


def test_every_planted_fault_still_has_its_place():
    for mutant in runner.read_mutants(runner.FAULTS):
        runner.planted((runner.ROOT / mutant.file).read_text(encoding="utf-8"), mutant)
        for test in mutant.tests:
            assert (runner.ROOT / test.partition("::")[0]).is_file(), mutant.label
