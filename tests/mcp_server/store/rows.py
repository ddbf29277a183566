"""What the tests of the store share."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

from toolkit.mcp_server.items import fingerprint
from toolkit.mcp_server.migrations import MIGRATIONS
from toolkit.mcp_server.passages import Passage, replace_passages
from toolkit.mcp_server.store import Store

AT = "2026-11-28T12:00:00.000000+00:00"
NEXT = (*MIGRATIONS, "CREATE TABLE novelties (id INTEGER PRIMARY KEY);")


def put(connection: sqlite3.Connection, id_: str, text: str = "milk", preservation: str = "moderate") -> None:
    connection.execute(
        "INSERT INTO items VALUES (?, 'default', ?, ?, ?, '{}', NULL, ?, ?, ?, 0, NULL, 1, 2)",
        (id_, text, fingerprint(text), preservation, AT, AT, AT),
    )
    connection.execute("INSERT INTO item_tags VALUES ('kept', ?)", (id_,))
    replace_passages(connection, "memory", id_, "default", [Passage(text)])


def texts(store: Store) -> dict[str, str]:
    with store.reading() as connection:
        return {row["id"]: row["text"] for row in connection.execute("SELECT id, text FROM items ORDER BY id")}


def in_a_process(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


def damage(store: Store, path: Path) -> None:
    with store.writing() as connection:
        for number in range(300):
            put(connection, f"{number:03}", text=f"number {number} " * 20)
        root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'items_by_fingerprint'").fetchone()
    store.close()
    with path.open("rb+") as file:
        file.seek((root[0] - 1) * 4096)
        file.write(os.urandom(2000))
