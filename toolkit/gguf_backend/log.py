"""What llama.cpp says while it works: kept for who listens, dropped otherwise, never printed.

llama-cpp-python installs a logger of its own whose levels are off by one, so that errors vanish when it is not
verbose. This module replaces that callback when it is imported.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import llama_cpp

# enum ggml_log_level (ggml.h)
_WARN, _ERROR, _CONTINUE = 3, 4, 5

_lock = threading.Lock()
_listeners: list[list[tuple[int, str]]] = []
_transcripts: list[list[str]] = []
_last_level = 0


@llama_cpp.llama_log_callback
def _receive(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    global _last_level
    with _lock:
        _last_level = _last_level if level == _CONTINUE else level
        if _last_level in (_WARN, _ERROR):
            for lines in _listeners:
                lines.append((_last_level, text.decode("utf-8", errors="replace")))
        for parts in _transcripts:
            parts.append(text.decode("utf-8", errors="replace"))


llama_cpp.llama_log_set(_receive, ctypes.c_void_p(0))


class Complaints:
    """The warnings and errors that llama.cpp uttered within a `complaints()` block."""

    def __init__(self, lines: list[tuple[int, str]]) -> None:
        """Read from a list that the callback fills."""
        self._lines = lines

    def words(self) -> str:
        """Return the errors (or, when there were none, the warnings) as one line."""
        for level in (_ERROR, _WARN):
            parts = [text.strip() for kind, text in self._lines if kind == level and text.strip()]
            if parts:
                return "; ".join(dict.fromkeys(parts))
        return "it gave no reason"


@contextmanager
def complaints() -> Iterator[Complaints]:
    """Collect what llama.cpp complains about inside the block (from any thread)."""
    lines: list[tuple[int, str]] = []
    with _lock:
        _listeners.append(lines)
    try:
        yield Complaints(lines)
    finally:
        with _lock:
            # By identity: two empty lists are equal.
            _listeners[:] = [other for other in _listeners if other is not lines]


@contextmanager
def transcript() -> Iterator[list[str]]:
    """Collect all that llama.cpp says inside the block, in pieces that join to lines."""
    parts: list[str] = []
    with _lock:
        _transcripts.append(parts)
    try:
        yield parts
    finally:
        with _lock:
            _transcripts[:] = [other for other in _transcripts if other is not parts]
