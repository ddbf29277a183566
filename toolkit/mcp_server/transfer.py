"""Taking an exported memory in: checked whole before anything is written, then in transactions of bounded size.

Each item is written with its id, so that an import that was interrupted is simply repeated: what is there already, and
the same, is passed over.
"""

from __future__ import annotations

import sqlite3
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

from toolkit.errors import ToolkitError
from toolkit.mcp_server import item_links
from toolkit.mcp_server.exporting import Exported, export_jsonl
from toolkit.mcp_server.item_rows import Change, add_history, insert_item, read_item, rewrite_item
from toolkit.mcp_server.items import HistoryEntry, Item, Link, time_text
from toolkit.mcp_server.memory import Memory
from toolkit.mcp_server.policy import Policy, stricter
from toolkit.mcp_server.store import Store
from toolkit.mcp_server.transfer_lines import Faults, read_lines

__all__ = ["Exported", "Imported", "OnConflict", "export_jsonl", "import_jsonl"]

OnConflict = Literal["skip", "replace", "refuse"]
BATCH = 200


@dataclass
class Imported:
    """What became of the lines of a file.

    added:     items that were not there
    unchanged: items that are there, and the same
    skipped:   items that are there and differ, and stayed as they are
    replaced:  items that got the file's content as a new version, their own in history
    kept:      strict items that differ from the file's: they stay, whatever was asked for
    raised:    items that got a stricter level than the file's, by the policy
    history:   former versions that were added
    links:     links that were added
    """

    dry_run: bool = False
    added: int = 0
    unchanged: int = 0
    skipped: int = 0
    replaced: int = 0
    kept: int = 0
    raised: int = 0
    history: int = 0
    links: int = 0

    @property
    def summary(self) -> str:
        """The same in words; what did not happen is left out."""
        counts = {
            "added": self.added,
            "there already": self.unchanged,
            "left as they are": self.skipped,
            "replaced": self.replaced,
            "strict and kept": self.kept,
            "with a stricter level": self.raised,
        }
        items = ", ".join(f"{count:,} {words}" for words, count in counts.items() if count) or "none"
        would = "dry run, nothing was written: " if self.dry_run else ""
        return f"{would}items: {items}; {self.history:,} lines of history, {self.links:,} links"


def import_jsonl(
    store: Store, memory: Memory, path: Path, on_conflict: OnConflict = "skip", *, dry_run: bool = False
) -> Imported:
    """Take an exported memory in.

    on_conflict: for an item that is there and differs: skip (ours stays), replace (theirs becomes a new version; never
                 of a strict item), refuse (nothing at all is imported)

    Raises ToolkitError with every mistake and its line, before anything is written: what cannot be read, namespaces
    that the policy does not know, links to items that are nowhere.
    """
    path = Path(path)
    faults = Faults(path)
    _check(store, memory.policy, path, on_conflict, faults)
    faults.raise_any()
    done = Imported(dry_run)
    try:
        with store.writing() if dry_run else nullcontext():
            _take_all(store, memory, path, on_conflict, done)
            if dry_run:
                raise _Undo
    except _Undo:
        pass
    memory.notify()
    return done


def _take_all(store: Store, memory: Memory, path: Path, on_conflict: OnConflict, done: Imported) -> None:
    lines = read_lines(path, Faults(path))
    while batch := list(islice(lines, BATCH)):
        with store.writing() as connection:
            for line in batch:
                _take(connection, memory, line.content, on_conflict, done)


class _Undo(Exception):
    """Rolls a dry run back."""


def _check(store: Store, policy: Policy, path: Path, on_conflict: OnConflict, faults: Faults) -> None:
    ids: dict[str, int] = {}
    links: list[tuple[int, str]] = []
    with store.reading() as connection:
        for line in read_lines(path, faults):
            content = line.content
            if isinstance(content, Item):
                if content.id in ids:
                    faults.add(line.number, f"the item {content.id} is on line {ids[content.id]} already")
                ids.setdefault(content.id, line.number)
                _check_item(connection, policy, line.number, content, on_conflict, faults)
            elif isinstance(content, Link):
                links += [(line.number, content.source_id), (line.number, content.target_id)]
        for number, item_id in links:
            if item_id not in ids and read_item(connection, item_id) is None:
                faults.add(number, f"a link to {item_id}, which is neither in the file nor in the memory")


def _check_item(
    connection: sqlite3.Connection, policy: Policy, number: int, item: Item, on_conflict: OnConflict, faults: Faults
) -> None:
    try:
        policy.namespace_for(item.namespace)
    except ToolkitError as error:
        faults.add(number, error.problems[0].what, error.problems[0].hint)
    ours = read_item(connection, item.id)
    if ours is not None and on_conflict == "refuse" and not _same(ours, item):
        faults.add(number, f"the item {item.id} is there and differs", "To keep ours: --on-conflict skip")


def _take(
    connection: sqlite3.Connection,
    memory: Memory,
    content: Item | HistoryEntry | Link,
    on_conflict: OnConflict,
    done: Imported,
) -> None:
    if isinstance(content, HistoryEntry):
        done.history += _take_history(connection, content)
    elif isinstance(content, Link):
        ends = [read_item(connection, one) for one in (content.source_id, content.target_id)]
        if None not in ends:
            before = connection.total_changes
            item_links.add_link(connection, content.source_id, content.relation, content.target_id, content.created_at)
            done.links += connection.total_changes > before
    else:
        _take_item(connection, memory, content, on_conflict, done)


def _take_item(
    connection: sqlite3.Connection, memory: Memory, item: Item, on_conflict: OnConflict, done: Imported
) -> None:
    ours = read_item(connection, item.id)
    level = memory.policy.preservation_for(item.namespace, item.tags, item.preservation).level
    if stricter(level, item.preservation):
        done.raised += 1
        item = replace(item, preservation=level, expires_at=None)
    if ours is None:
        insert_item(connection, item)
        done.added += 1
    elif _same(ours, item):
        done.unchanged += 1
    elif on_conflict != "replace":
        done.skipped += 1
    elif not memory.policy.may("update", ours).allowed or ours.namespace != item.namespace:
        done.kept += 1
    else:
        level = ours.preservation if stricter(ours.preservation, item.preservation) else item.preservation
        wanted = replace(
            ours,
            text=item.text,
            tags=item.tags,
            metadata=item.metadata,
            source=item.source,
            preservation=level,
            expires_at=item.expires_at if level == "flexible" else None,
            last_used_at=max(ours.last_used_at, item.last_used_at),
        )
        rewrite_item(connection, ours, wanted, Change("update", memory.now(), "imported"))
        done.replaced += 1


def _take_history(connection: sqlite3.Connection, entry: HistoryEntry) -> int:
    at = time_text(entry.at)
    there = connection.execute(
        "SELECT 1 FROM history WHERE item_id = ? AND version = ? AND operation = ? AND at = ?"
        " AND coalesce(text, '') = ?",
        (entry.item_id, entry.version, entry.operation, at, entry.text),
    ).fetchone()
    if there is not None:
        return 0
    as_it_was = Item(
        id=entry.item_id,
        namespace=entry.namespace,
        text=entry.text,
        preservation=entry.preservation,
        tags=entry.tags,
        metadata=entry.metadata,
        source=entry.source,
        created_at=entry.updated_at,
        updated_at=entry.updated_at,
        last_used_at=entry.updated_at,
        use_count=0,
        expires_at=entry.expires_at,
        version=entry.version,
        tokens=0,
    )
    change = Change(entry.operation, entry.at, entry.reason, entry.by_person, entry.successor)
    add_history(connection, as_it_was, change, with_text=bool(entry.text))
    return 1


def _same(ours: Item, theirs: Item) -> bool:
    fields = ("namespace", "text", "tags", "metadata", "source", "expires_at")
    return all(getattr(ours, name) == getattr(theirs, name) for name in fields) and not stricter(
        theirs.preservation, ours.preservation
    )
