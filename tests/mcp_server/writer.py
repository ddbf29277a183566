"""A program that writes to a memory until it is told to stop, or killed, and keeps a log of what was acknowledged.

    python -m tests.mcp_server.writer MEMORY LOG SEED SECONDS

Each line of the log is written with one system call, so a killed writer leaves whole lines: `{"begin": …}` before an
operation, `{"done": …}` after it was acknowledged.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from tests.mcp_server.memories import NoSearch
from toolkit.errors import ToolkitError
from toolkit.mcp_server.memory import Memory
from toolkit.mcp_server.policy import Policy
from toolkit.mcp_server.policy_file import PolicyFile
from toolkit.mcp_server.store import Store

LEVELS = ("strict", "moderate", "flexible")
COUNTER = "counter"


def write_until(path: Path, log: Path, seed: int, seconds: float) -> None:
    """Store, change, delete and count in a memory for some time."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(entry: dict[str, Any]) -> None:
        os.write(descriptor, (json.dumps(entry) + "\n").encode())

    store = Store(path)
    memory = Memory(store, Policy(PolicyFile()), NoSearch())
    draw, mine, number = random.Random(seed), list[str](), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        number += 1
        text = f"writer {seed}, {number}: " + "x" * draw.choice([10, 100, 3000])
        kind = draw.choices(["store", "update", "delete", "count"], [5, 3, 1, 3])[0]
        if kind == "count":
            _count(memory, note)
            continue
        one = draw.choice(mine) if mine else ""
        if kind == "store" or not one:
            level = draw.choice(LEVELS)
            note({"begin": "store", "text": text, "level": level})
            item = memory.store(text, preservation=level, tags=[f"seed{seed}"]).item
            mine.append(item.id)
            note({"done": "store", "id": item.id, "text": text, "level": level})
        elif kind == "update":
            note({"begin": "update", "id": one, "text": text})
            version = memory.update(one, text=text, by_person=True).version
            note({"done": "update", "id": one, "text": text, "version": version})
        else:
            mine.remove(one)
            note({"begin": "delete", "id": one})
            memory.delete(one, by_person=True)
            note({"done": "delete", "id": one})
    store.close()


def _count(memory: Memory, note: Any) -> None:
    """Add one to a number that all writers share; the version that was seen decides who was first."""
    with memory._store.reading() as connection:
        row = connection.execute("SELECT item_id FROM item_tags WHERE tag = ?", (COUNTER,)).fetchone()
    item = memory.get(row[0])
    number = int(item.text) + 1
    note({"begin": "count", "number": number})
    try:
        memory.update(item.id, text=str(number), expected_version=item.version)
    except ToolkitError as error:
        assert "somebody changed it meanwhile" in str(error), error
        note({"done": "outrun"})
    else:
        note({"done": "count", "number": number})


if __name__ == "__main__":
    write_until(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
