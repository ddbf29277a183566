"""What a newcomer gets: pinned dependencies, a wheel that holds everything, a set-up that names what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.mutants.__main__ import copy_tree

ROOT = Path(__file__).resolve().parents[1]
FRAMEWORKS = ("torch", "transformers", "peft", "mlx", "llama_cpp", "sentence_transformers", "mcp")


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    # A package may have one pin for old and one for new Pythons: of several, the one that applies here counts.
    requirements.sort(key=lambda requirement: requirement.marker is None or requirement.marker.evaluate())
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def declared() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["dev"]
    return [Requirement(line) for line in lines]


def applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    return requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in extras or {""})


def installed_closure() -> dict[str, str]:
    """Return name → version of everything that the declared dependencies pull in on this machine."""
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(r, frozenset[str]({""})) for r in declared()]
    while waiting:
        requirement, extras = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if not applies(requirement, extras) or key in seen:
            continue
        seen.add(key)
        distribution = importlib.metadata.distribution(requirement.name)
        found[key[0]] = distribution.version
        waiting += [(Requirement(text), frozenset(requirement.extras) | {""}) for text in distribution.requires or []]
    return found


def test_every_constraint_is_one_exact_version():
    for requirement in pins().values():
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement


def test_every_declared_dependency_is_pinned_at_a_version_it_accepts():
    pinned = pins()
    for requirement in declared():
        pin = pinned[canonicalize_name(requirement.name)]
        version = str(pin.specifier).removeprefix("==")
        assert requirement.specifier.contains(version, prereleases=True), (requirement, pin)


def test_everything_installed_for_the_project_is_pinned_at_its_version():
    pinned = pins()
    missing = sorted(name for name in installed_closure() if name not in pinned)
    assert not missing
    # a CPU build carries a local suffix (2.13.0+cpu), which the pin leaves open
    others = {n: v for n, v in installed_closure().items() if f"=={v.partition('+')[0]}" != str(pinned[n].specifier)}
    assert not others


def test_torch_is_pinned_without_a_local_suffix_so_that_cpu_and_cuda_builds_fit():
    assert "+" not in str(pins()["torch"].specifier)


def test_help_loads_no_framework():
    script = (
        "import sys; sys.argv = ['toolkit', '--help']\n"
        "from toolkit.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"loaded = [name for name in {FRAMEWORKS!r} if name in sys.modules]\n"
        "sys.exit(f'--help loaded {loaded}' if loaded else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "."}
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: toolkit" in done.stdout


@pytest.mark.slow
def test_the_wheel_holds_the_model_the_data_and_the_recipes(tmp_path):
    copy_tree(ROOT, tmp_path / "source")  # a build writes beside the sources
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, tmp_path / "source"],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PIP_CONSTRAINT": str(ROOT / "constraints.txt")},
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert not [name for name in names if not name.startswith(("toolkit/", "local_training_toolkit-"))]
    tracked = subprocess.run(["git", "ls-files", "toolkit"], cwd=ROOT, capture_output=True, text=True, check=True)
    left_out = {name for name in tracked.stdout.split("\n") if name} - names
    assert not left_out
    for needed in ("toolkit/nano/model.safetensors", "toolkit/nano/tokenizer.json", "toolkit/nano/data/train.jsonl"):
        assert needed in names


def run_setup(folder: Path, commands: tuple[str, ...], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/setup.sh in an empty project whose PATH holds only `commands`."""
    (folder / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup.sh", folder / "scripts")
    programs = folder / "programs"
    programs.mkdir()
    for command in ("bash", "dirname", "uname", "rm", *commands):
        found = sys.executable if command == "python3" else shutil.which(command)
        if found:
            (programs / command).symlink_to(found)
    return subprocess.run(
        [str(programs / "bash"), str(folder / "scripts" / "setup.sh")],
        env={"PATH": str(programs), **variables},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def test_a_missing_compiler_is_named_with_its_command_before_anything_is_built(tmp_path):
    done = run_setup(tmp_path, ("python3", "apt-get"))
    assert done.returncode == 2
    assert "no working C++ compiler" in done.stderr
    assert "Type: " in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_a_compiler_that_is_only_a_name_counts_as_missing(tmp_path):
    false = shutil.which("false")
    assert false is not None
    done = run_setup(tmp_path, ("python3", "apt-get"), CXX=false)
    assert done.returncode == 2
    assert "no working C++ compiler" in done.stderr


def test_a_missing_or_old_python_is_named_with_its_command(tmp_path):
    done = run_setup(tmp_path, ())
    assert done.returncode == 2
    assert "no Python 3.11 or newer" in done.stderr
    assert "Type: " in done.stderr


def test_a_python_without_venv_is_named_with_its_command(tmp_path):
    python = tmp_path / "python-without-venv"
    python.write_text(f'#!/bin/sh\ncase "$2" in *venv*) exit 1;; esac\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    done = run_setup(tmp_path, (), PYTHON=str(python))
    assert done.returncode == 2
    assert "cannot make virtual environments" in done.stderr
    assert "Type: " in done.stderr
