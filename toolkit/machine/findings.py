"""One line of `toolkit doctor`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """What was looked at, and how it is.

    name:    what was looked at, e.g. `llama.cpp` or `package torch`; stable, for scripts
    status:  ok | warning (something is slower, smaller or missing) | failed (`make finetune` cannot run)
    summary: what was found, in one line
    mend:    what to type where it is not ok
    figures: the numbers in `summary`, for `--json`
    """

    name: str
    status: Status
    summary: str
    mend: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Hold every finding to the promise that whoever reads it knows what to do."""
        if self.status != "ok" and not self.mend:
            raise ValueError(f"{self.name} is {self.status} and does not say how to mend it")


def pip_install(*requirements: str, options: str = "") -> str:
    """Return the command that installs requirements into the Python that runs here."""
    words = [shlex.quote(word) for word in (sys.executable, "-m", "pip", "install", *options.split(), *requirements)]
    return " ".join(words)


def gigabytes(size: float) -> str:
    """Write a number of bytes for a person."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.0f} MiB"
