"""A client written by hand: lines of JSON-RPC to a server process, and back. It knows nothing of the SDK."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MODERN = "2026-07-28"
TIMEOUT_SECONDS = 60.0


def server_command(*arguments: object) -> list[str]:
    """Return the command that starts the server of this tree."""
    return [sys.executable, "-m", "toolkit", "mcp", "serve", *map(str, arguments)]


def server_environment(**more: str) -> dict[str, str]:
    """Return the environment of a server of this tree."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


class WireClient:
    """A server process and the lines that went to and fro."""

    def __init__(self, *arguments: object, command: list[str] | None = None, **environment: str) -> None:
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            command or server_command(*arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=server_environment(**environment),
        )
        self.lines: queue.Queue[bytes | None] = queue.Queue()
        self.errors: list[bytes] = []
        self.notifications: list[dict[str, Any]] = []
        self._number = 0
        threading.Thread(target=self._read, daemon=True).start()
        self._stderr = threading.Thread(target=self._read_errors, daemon=True)
        self._stderr.start()

    def __enter__(self) -> WireClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send_line(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def send(self, message: dict[str, Any]) -> None:
        self.send_line(json.dumps(message).encode())

    def receive(self, timeout: float = TIMEOUT_SECONDS) -> dict[str, Any]:
        """Return the next message; notifications are kept and skipped."""
        deadline = time.monotonic() + timeout
        while True:
            line = self.lines.get(timeout=max(0.01, deadline - time.monotonic()))
            assert line is not None, f"the server ended: {self.stderr()}"
            message = json.loads(line)
            assert message["jsonrpc"] == "2.0"
            if "method" in message and "id" not in message:
                self.notifications.append(message)
                continue
            return message

    def begin(self, method: str, params: dict[str, Any] | None = None) -> int:
        self._number += 1
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": self._number, "method": method}
        self.send(message | ({"params": params} if params is not None else {}))
        return self._number

    def request(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        number = self.begin(method, params)
        answer = self.receive()
        assert answer["id"] == number, answer
        return answer

    def shake_hands(self, version: str = "2025-11-25", capabilities: dict[str, Any] | None = None) -> dict[str, Any]:
        client = {"name": "by hand", "version": "1"}
        asked = {"protocolVersion": version, "capabilities": capabilities or {}, "clientInfo": client}
        answer = self.request("initialize", asked)
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return answer["result"]

    def call(self, name: str, arguments: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        return self.request("tools/call", {"name": name, "arguments": arguments or {}, **more})["result"]

    def modern(self, method: str, params: dict[str, Any] | None = None, capabilities: Any = None) -> dict[str, Any]:
        """Ask as the stateless protocol does: each request says who asks and what they can do."""
        meta = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientInfo": {"name": "by hand", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": capabilities or {},
        }
        return self.request(method, {**(params or {}), "_meta": meta})

    def kill(self) -> None:
        """End the server as a crash would."""
        self.process.kill()
        self.process.wait(10)

    def close(self) -> int:
        """Close standard input, as clients do, and return the exit code."""
        if self.process.poll() is None and self.process.stdin is not None:
            self.process.stdin.close()
        try:
            code = self.process.wait(20)
        finally:
            if self.process.poll() is None:
                self.process.kill()
        self._stderr.join(5)
        return code

    def stderr(self) -> str:
        self._stderr.join(2)
        return b"".join(self.errors).decode("utf-8", "replace")

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors.extend(self.process.stderr)
