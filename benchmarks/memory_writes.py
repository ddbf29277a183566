"""How long writes, reads and upkeep of the memory take, without embedding, beside many items.

    python benchmarks/memory_writes.py [--items 100000] [--calls 200] [--work FOLDER]

Every write is flushed to the disk before it is acknowledged, so wall time depends on the disk; processor time is given
beside it. Items are 20 words long, a third of each level.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from toolkit.mcp_server.embeddings import BackgroundEmbedder
from toolkit.mcp_server.item_rows import insert_item
from toolkit.mcp_server.items import Item, estimated_tokens
from toolkit.mcp_server.memory import Memory
from toolkit.mcp_server.policy import Policy
from toolkit.mcp_server.search import Search
from toolkit.mcp_server.store import Store
from toolkit.mcp_server.transfer import export_jsonl
from toolkit.preservation import PRESERVATION_LEVELS

WORDS = [f"word{number}" for number in range(5000)]


def fill(store: Store, count: int, draw: random.Random) -> None:
    """Put items into an empty store, in transactions of 5,000."""
    now = datetime.now(UTC)
    for start in range(0, count, 5000):
        with store.writing() as connection:
            for number in range(start, min(count, start + 5000)):
                text = f"number {number} " + " ".join(draw.choices(WORDS, k=20))
                level = PRESERVATION_LEVELS[number % 3]
                tags = (f"tag{number % 100}",)
                fields = (f"0{number:09}", "default", text, level, tags, {}, None, now, now, now, 0, None, 1)
                insert_item(connection, Item(*fields, estimated_tokens(text)))


def timed(name: str, calls: int, action: Callable[[int], Any]) -> None:
    """Print the wall time of an action (50th and 95th percentile) and its processor time."""
    action(-1)
    walls, began = [], time.process_time()
    for number in range(calls):
        start = time.perf_counter()
        action(number)
        walls.append((time.perf_counter() - start) * 1000)
    used = (time.process_time() - began) * 1000 / calls
    walls.sort()
    print(
        f"{name:34} p50 {walls[calls // 2]:7.2f} ms   p95 {walls[calls * 95 // 100]:7.2f} ms   processor {used:6.2f} ms"
    )


def once(name: str, action: Callable[[], Any]) -> None:
    """Print how long something takes that is done once."""
    start = time.perf_counter()
    action()
    print(f"{name:34} {time.perf_counter() - start:7.2f} s")


def run(folder: Path, count: int, calls: int) -> None:
    """Measure in an empty folder."""
    store, draw = Store(folder / "memory.sqlite3"), random.Random(1)
    background = BackgroundEmbedder(load=lambda: (_ for _ in ()).throw(RuntimeError))  # never started: no model
    memory = Memory(store, Policy(), Search(store, background))
    once(f"fill with {count:,} items", lambda: fill(store, count, draw))
    some = memory.list(limit=200, preservation="moderate").items
    timed("store a new text", calls, lambda number: memory.store(f"a new text {number} {draw.random()}"))
    timed("store a text that is there", calls, lambda number: memory.store(some[number % 200].text))
    timed("update", calls, lambda number: memory.update(some[number % 200].id, text=f"text {number} {draw.random()}"))
    ids = [memory.store(f"to delete {draw.random()}").item.id for _ in range(calls + 1)]
    timed("delete", calls, lambda number: memory.delete(ids[number]))
    timed("get", calls, lambda number: memory.get(some[number % 200].id))
    timed("list 20, newest first", calls, lambda number: memory.list())
    timed("list 20 with a tag", calls, lambda number: memory.list(tags=[f"tag{number % 100}"]))
    timed("list 20 strict ones", calls, lambda number: memory.list(preservation="strict"))
    timed(f"context beside {count // 3:,} strict items", 5, lambda number: memory.assemble_context("word1", 2000))
    once("backup", lambda: store.backup(folder / "backup.sqlite3"))
    once("export", lambda: export_jsonl(store, folder / "memory.jsonl"))
    once("check", lambda: print(store.check() or "healthy"))
    store.close()
    once("open", lambda: Store(folder / "memory.sqlite3").close())


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--work", type=Path, help="a folder to work in (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        run(Path(folder), options.items, options.calls)


if __name__ == "__main__":
    main()
