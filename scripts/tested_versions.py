"""Write toolkit/machine/tested_versions.py from pyproject.toml and constraints.txt, or check that it is up to date.

python -m scripts.tested_versions [--check]

`toolkit doctor` compares with these versions, also where only the wheel is installed.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "toolkit" / "machine" / "tested_versions.py"
HEADER = '''\
"""The versions that the tests run with, by package. Written by `make docs` from pyproject.toml and constraints.txt."""

# package → (oldest version that is accepted, version that was tested, where it is declared)
# any: everywhere; apple: on Apple silicon; not mac: everywhere else; extra: by an extra, hence never missed
TESTED: dict[str, tuple[str, str, str]] = {
'''
_REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*(?:>=(?P<minimum>[0-9.]+))?[^;]*(?P<marker>;.*)?"
)
# What only developers need says nothing about a user's machine.
_DEVELOPMENT = {
    "basedpyright", "hypothesis", "import-linter", "pre-commit", "pytest", "pytest-timeout", "ruff",
}  # fmt: skip


def render() -> str:
    """Return the module's text."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = dict(line.split(" ;")[0].split("==") for line in lines if "==" in line.split("#")[0].split(";")[0])
    rows: dict[str, tuple[str, str, str]] = {}
    extras = [line for group in project["optional-dependencies"].values() for line in group]
    for text in [*project["dependencies"], *extras]:
        match = _REQUIREMENT.match(text)
        if match is None or match["name"] in rows or match["name"] in _DEVELOPMENT:
            continue
        where = "extra" if text in extras else _place(match["marker"] or "")
        rows[match["name"]] = (match["minimum"] or "0", pins[match["name"]].strip(), where)
    body = "".join(
        f'    "{name}": ("{low}", "{tested}", "{where}"),\n' for name, (low, tested, where) in sorted(rows.items())
    )
    return f"{HEADER}{body}}}\n"


def _place(marker: str) -> str:
    if "darwin" not in marker:
        return "any"
    return "not mac" if "!=" in marker else "apple"


def main() -> int:
    """Write or check the module; return the exit code."""
    text = render()
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(text, encoding="utf-8")
        return 0
    if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
        print(f"{TARGET.name} differs from pyproject.toml and constraints.txt; type: make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
