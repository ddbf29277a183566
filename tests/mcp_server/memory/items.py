"""What the tests of the memory share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from toolkit.errors import ToolkitError

RESTART = "The print server is restarted from the admin page"
RESTART_TOO = "The print server is restarted from the admin page!"
NAMESPACES = {"default": {}, "rules": {"preservation": "strict"}, "scratch": {"preservation": "flexible"}}


def refuses(action: Callable[[], object], words: str, kind: type[ToolkitError] = ToolkitError) -> None:
    with pytest.raises(kind, match=words):
        action()
