"""The wire: one JSON-RPC message a line on standard input and output, bounded in size, every bad line answered.

The SDK's own transport drops what it cannot parse without a word, and reads lines of any length into memory. Here a
line that is no message is answered as JSON-RPC 2.0 asks (-32700 parse error, -32600 invalid request), and so is one
above `MAX_MESSAGE_BYTES`, of which no more than that is ever held.

While serving, file descriptor 1 is standard error: whatever a library prints cannot damage the wire.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, BinaryIO

import anyio.to_thread
from mcp_types import INVALID_REQUEST, PARSE_ERROR, jsonrpc_message_adapter

MAX_MESSAGE_BYTES = 8 * 2**20
_PIECE_BYTES = 2**16


class Wire:
    """Lines in, lines out. `read` and `write` block, so they belong on worker threads."""

    def __init__(self, source: BinaryIO, target: BinaryIO, *, limit: int = MAX_MESSAGE_BYTES) -> None:
        self.source = source
        self.target = target
        self.limit = limit
        self._writing = threading.Lock()

    def read(self) -> str | None:
        """Return the next line that is a message; None at the end. Anything else is answered here and skipped."""
        while line := self.source.readline(self.limit + 1):
            if len(line) > self.limit and not line.endswith(b"\n"):
                self._skip_line()
                self._refuse(None, INVALID_REQUEST, f"the message is larger than {self.limit} bytes")
            elif line.strip() and (text := self._checked(line)) is not None:
                return text
        return None

    def write(self, text: str) -> None:
        """Write one line and flush it."""
        with self._writing:
            self.target.write(text.encode("utf-8", "backslashreplace"))
            self.target.flush()

    def _skip_line(self) -> None:
        while (piece := self.source.readline(_PIECE_BYTES)) and not piece.endswith(b"\n"):
            pass

    def _checked(self, line: bytes) -> str | None:
        text = line.decode("utf-8", "replace")
        try:
            jsonrpc_message_adapter.validate_json(text, by_name=False)
        except ValueError:
            self._refuse(*_fault(text))
            return None
        return text

    def _refuse(self, id: str | int | None, code: int, message: str) -> None:
        self.write(json.dumps({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}}) + "\n")


def _fault(text: str) -> tuple[str | int | None, int, str]:
    """Return the id of the request that a line meant to be (None where there is none to tell), a code and words."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None, PARSE_ERROR, "the line is not valid JSON; each message is one line of JSON"
    id = value.get("id") if isinstance(value, dict) and "method" in value else None
    known = id if isinstance(id, str | int) and not isinstance(id, bool) else None
    return known, INVALID_REQUEST, "not a JSON-RPC 2.0 message, or nested too deep, or with text that is no Unicode"


class _Lines:
    """What the SDK's transport reads: an asynchronous iterator of lines.

    They come from a thread that waits for input and that Python does not wait for when it ends: a server that is
    interrupted while its client says nothing has to end too. A line is read when the one before has been taken.
    """

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._wanted = threading.Semaphore(0)
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        threading.Thread(target=self._read, name="standard input", daemon=True).start()

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        self._wanted.release()
        line = await self._lines.get()
        if line is None:
            raise StopAsyncIteration
        return line

    def _read(self) -> None:
        line: str | None = ""
        while line is not None:
            self._wanted.acquire()
            try:
                line = self.wire.read()
            except (OSError, ValueError):  # closed under us
                line = None
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._lines.put_nowait, line)


class _Writer:
    """What the SDK's transport writes to."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    async def write(self, text: str) -> None:
        await anyio.to_thread.run_sync(self.wire.write, text)

    async def flush(self) -> None:
        """Nothing is left to do: each line is flushed."""


@contextmanager
def claimed_streams() -> Iterator[Wire]:
    """Take standard input and output for the wire; meanwhile descriptor 0 is empty and 1 is standard error."""
    sys.stdout.flush()
    source, target = os.dup(0), os.dup(1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    try:
        # closefd=False: a thread may still wait on the descriptor when the server has ended.
        yield Wire(os.fdopen(source, "rb", closefd=False), os.fdopen(target, "wb", closefd=False))
    finally:
        os.dup2(source, 0)
        os.dup2(target, 1)


@asynccontextmanager
async def stdio_streams() -> AsyncIterator[tuple[Any, Any]]:
    """Yield the SDK's (read stream, write stream) over standard input and output."""
    from mcp.server.stdio import stdio_server

    with claimed_streams() as wire:
        lines: Any = _Lines(wire)
        writer: Any = _Writer(wire)
        async with stdio_server(stdin=lines, stdout=writer) as streams:
            yield streams
