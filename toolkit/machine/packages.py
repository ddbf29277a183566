"""Which packages are here, against the versions that the tests run with."""

from __future__ import annotations

import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version

from toolkit.machine.findings import Finding, pip_install
from toolkit.machine.tested_versions import TESTED

OLDEST_PYTHON = (3, 11)
TESTED_PYTHON = (3, 11)
# Newer ones have no wheels of some packages yet.
NEWEST_PYTHON = (3, 14)
# What `toolkit finetune`, `export` and `chat` do without.
NOT_FOR_THE_MAIN_JOB = (
    "bitsandbytes",
    "mcp",
    "mlx",
    "mlx-lm",
    "pyarrow",
    "sentence-transformers",
    "starlette",
    "uvicorn",
)


def is_apple_silicon() -> bool:
    """Say whether this is a Mac with an Apple GPU."""
    return sys.platform == "darwin" and platform.machine() == "arm64"


def is_wanted(where: str) -> bool:
    """Say whether a package that is declared for `where` (see `tested_versions`) belongs on this machine."""
    if where == "not mac":
        return sys.platform != "darwin"
    return where == "any" or (where == "apple" and is_apple_silicon())


def check_python() -> Finding:
    """Compare the running Python with what the tests run on."""
    here = sys.version_info[:3]
    text = ".".join(str(part) for part in here)
    tested = ".".join(str(part) for part in TESTED_PYTHON)
    figures = {"version": text, "tested": tested, "executable": sys.executable}
    if here < OLDEST_PYTHON:
        mend = "make setup PYTHON=/path/to/python3.12 (any Python from 3.11 to 3.14)"
        return Finding("python", "failed", f"{text} is too old: 3.11 or newer is needed", mend, figures)
    if here[:2] > NEWEST_PYTHON:
        mend = "make setup PYTHON=/path/to/python3.12 (any Python from 3.11 to 3.14)"
        return Finding("python", "warning", f"{text} is newer than anything that was tried (3.14)", mend, figures)
    return Finding("python", "ok", f"{text} (the tests run on {tested}), {sys.executable}", figures=figures)


def check_packages() -> list[Finding]:
    """Return a finding for each package that is missing, too old or newer than tested, and one for all the others."""
    problems: list[Finding] = []
    fine: dict[str, str] = {}
    for name, (oldest, tested, where) in TESTED.items():
        here = installed_version(name)
        if here is None:
            if is_wanted(where):
                problems.append(_missing(name, tested))
        elif release(here) < release(oldest):
            problems.append(_unfit(name, "failed", here, f"{here} is too old: {oldest} or newer is needed", tested))
        elif release(here)[:2] > release(tested)[:2]:
            problems.append(_unfit(name, "warning", here, f"{here} is newer than the tested {tested}", tested))
        else:
            fine[name] = here
    summary = f"{len(fine)} of {len(fine) + len(problems)} in the tested range"
    main = ("torch", "transformers", "mlx", "llama-cpp-python")
    shown = ", ".join(f"{name} {fine[name]}" for name in main if name in fine)
    return [Finding("packages", "ok", f"{summary}{': ' if shown else ''}{shown}", figures=fine), *problems]


def _missing(name: str, tested: str) -> Finding:
    status = "warning" if name in NOT_FOR_THE_MAIN_JOB else "failed"
    return Finding(
        f"package {name}",
        status,
        "not installed",
        pip_install(f"{name}=={tested}"),
        {"version": None, "tested": tested},
    )


def _unfit(name: str, status: str, here: str, summary: str, tested: str) -> Finding:
    failed = status == "failed" and name not in NOT_FOR_THE_MAIN_JOB
    figures = {"version": here, "tested": tested}
    mend = pip_install(f"{name}=={tested}")
    return Finding(f"package {name}", "failed" if failed else "warning", summary, mend, figures)


def installed_version(name: str) -> str | None:
    """Return the version of an installed package, or None (also for one whose metadata is damaged)."""
    try:
        return version(name) or None
    except (PackageNotFoundError, KeyError, TypeError):
        return None


def release(text: str) -> tuple[int, ...]:
    """Return the numbers of a version: `2.13.0+cpu` is (2, 13, 0)."""
    return tuple(int(part) for part in re.split(r"[^0-9.]", text)[0].split(".") if part)


# Modules that are not called as their package is.
_PACKAGES = {"yaml": "pyyaml", "llama_cpp": "llama-cpp-python", "sklearn": "scikit-learn"}


def requirement(name: str) -> str:
    """Return what to install to have a package, named by itself or by its module, at its tested version."""
    name = _PACKAGES.get(name, name.replace("_", "-"))
    return f"{name}=={TESTED[name][1]}" if name in TESTED else name
