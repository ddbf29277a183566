"""The wire: bad lines are answered, lines are bounded, and nobody else's output gets on it."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from toolkit.mcp_server.stdio import Wire

PING = b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n'


def answers_to(data: bytes, limit: int = 1000) -> tuple[list[str], list[dict]]:
    target = io.BytesIO()
    wire = Wire(io.BytesIO(data), target, limit=limit)
    messages = []
    while (line := wire.read()) is not None:
        messages.append(line)
    return messages, [json.loads(line) for line in target.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{not json\n", -32700),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "ping"\n', -32700),
        (b"\xff\xfe\x00\n", -32700),
        (b"[" * 5000 + b"\n", -32600),  # larger than the limit of this test
        (b"[" * 900 + b"\n", -32700),
        (b"[]\n", -32600),
        (b"42\n", -32600),
        (b'[{"jsonrpc": "2.0", "id": 1, "method": "ping"}]\n', -32600),
        (b"x" * 1001 + b"\n", -32600),
        (b"x" * 100_000, -32600),
    ],
)
def test_a_line_that_is_no_message_is_answered_and_the_next_one_is_read(line: bytes, code: int) -> None:
    tail = b"" if not line.endswith(b"\n") else PING
    messages, answers = answers_to(line + tail)
    assert [json.loads(message)["method"] for message in messages] == (["ping"] if tail else [])
    assert [(one["id"], one["error"]["code"]) for one in answers] == [(None, code)]


@pytest.mark.parametrize(
    ("line", "id"),
    [
        (b'{"jsonrpc": "1.0", "id": 1, "method": "ping"}\n', 1),
        (b'{"jsonrpc": "2.0", "id": "a", "method": 7}\n', "a"),
        (b'{"jsonrpc": "2.0", "id": true, "method": 7}\n', None),
        (b'{"jsonrpc": "2.0", "id": 3, "error": "an answer is not answered"}\n', None),
        (b'{"jsonrpc": "2.0", "id": 4, "method": "m", "params": {"a": ' + b"[" * 400 + b"]" * 400 + b"}}\n", 4),
    ],
)
def test_a_request_that_is_none_is_refused_under_its_own_id_where_it_has_one(line: bytes, id: object) -> None:
    messages, answers = answers_to(line + PING)
    assert len(messages) == 1 and [(one["id"], one["error"]["code"]) for one in answers] == [(id, -32600)]


def test_empty_lines_are_nothing_and_a_last_line_needs_no_newline() -> None:
    messages, answers = answers_to(b"\n  \r\n" + PING.rstrip())
    assert len(messages) == 1 and answers == []


def test_a_message_as_long_as_the_limit_is_read() -> None:
    line = PING.rstrip(b"\n").ljust(1000) + b"\n"
    assert len(answers_to(line)[0]) == 1
    assert len(answers_to(b" " + line)[0]) == 0


def test_no_more_than_the_limit_is_held_of_a_line_that_never_ends() -> None:
    class Endless(io.RawIOBase):
        left = 50 * 2**20
        largest = 0

        def readline(self, size: int | None = -1, /) -> bytes:
            assert size is not None and size > 0, "reading without a bound"
            Endless.largest = max(Endless.largest, size)
            size = min(size, self.left)
            Endless.left -= size
            return b"x" * size

    target = io.BytesIO()
    assert Wire(Endless(), target, limit=2**20).read() is None  # pyright: ignore[reportArgumentType]
    assert Endless.largest <= 2**20 + 1 and b"larger than" in target.getvalue()


def test_what_libraries_print_and_child_processes_write_stays_off_the_wire() -> None:
    code = (
        "import os, subprocess, sys\n"
        "from toolkit.mcp_server.stdio import claimed_streams\n"
        "with claimed_streams() as wire:\n"
        "    print('printed', flush=True); os.write(1, b'written\\n')\n"
        "    subprocess.run(['echo', 'by a child'])\n"
        "    assert sys.stdin.read() == '', 'a library that reads must not eat a message'\n"
        '    assert wire.read() == \'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\\n\'\n'
        "    wire.write('on the wire\\n')\n"
        "print('after', flush=True)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], input=PING, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr.decode()
    assert ran.stdout == b"on the wire\nafter\n"
    assert ran.stderr.splitlines() == [b"printed", b"written", b"by a child"]
