"""Where the toolkit keeps what belongs to no run: caches and the memory store."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def toolkit_home() -> Path:
    """Return `TOOLKIT_HOME`, or the platform's folder for a user's data (it need not exist yet)."""
    chosen = os.environ.get("TOOLKIT_HOME")
    if chosen:
        return Path(chosen).expanduser()
    return platformdirs.user_data_path("local-training-toolkit", appauthor=False)
