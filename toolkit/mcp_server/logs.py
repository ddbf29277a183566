"""The server's log: lines on standard error, which clients show to their users, and no stored text in any of them.

An exception's message often quotes the value at fault, which may be somebody's secret. So a traceback is written as the
places that it went through and the exception's type, without the message.
"""

from __future__ import annotations

import logging
import sys
import traceback
from types import TracebackType
from typing import TextIO

MAX_LINE_CHARACTERS = 2_000
_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class QuietFormatter(logging.Formatter):
    """One line for each record; of an exception its type and the way it took."""

    def __init__(self) -> None:
        super().__init__("toolkit mcp: %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the record on one line, bounded."""
        line = " ".join(super().format(record).split())
        return line if len(line) <= MAX_LINE_CHARACTERS else f"{line[: MAX_LINE_CHARACTERS - 1]}…"

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802 (the name is logging's)
        """Return the exception's type and the places it went through."""
        kind, error, trace = ei
        if kind is None or error is None:
            return ""
        chain = [type(error).__name__]
        cause = error.__cause__
        while cause is not None and len(chain) < 5:
            chain.append(type(cause).__name__)
            trace, cause = cause.__traceback__ or trace, cause.__cause__
        places = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in traceback.extract_tb(trace)[-8:]]
        return f"[{' from '.join(chain)}; {' > '.join(places)}]"


def log_to(stream: TextIO | None = None, *, verbose: bool = False) -> None:
    """Send every log line to `stream` (standard error), warnings only unless `verbose`."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(QuietFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.INFO if verbose else logging.WARNING)
