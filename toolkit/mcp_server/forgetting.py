"""Forgetting: flexible items alone, by age, by use, at their time, and to keep a budget.

What is to go is found on one snapshot and deleted in small transactions, so that others can write in between; each item
is looked at again under the lock, and kept if it was used, changed or raised meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from toolkit.mcp_server.item_rows import COLUMNS, Change, as_item, erase_item, read_items
from toolkit.mcp_server.items import Item, time_text
from toolkit.mcp_server.memory_results import Forgotten, Gone
from toolkit.mcp_server.policy import Policy
from toolkit.mcp_server.policy_file import Budget, Operation
from toolkit.mcp_server.store import Store
from toolkit.preservation import Preservation

BATCH = 200
MOST_SHOWN = 100
MOST_EVICTED_FOR_ONE = 20
"""A write makes room for itself, not for a budget that somebody halved: that is `enforce_budgets`' work."""
MOST_LOOKED_AT = 200


@dataclass(frozen=True)
class Age:
    """How old something must be, and unused for how long; None asks for nothing."""

    older_than: timedelta | None = None
    unused: timedelta | None = None

    def conditions(self, now: datetime) -> tuple[list[str], list[str]]:
        """Return SQL conditions on `items` and their values."""
        pairs = [("created_at < ?", self.older_than), ("last_used_at < ?", self.unused)]
        return [text for text, span in pairs if span is not None], [
            time_text(now - span) for _, span in pairs if span is not None
        ]


@dataclass(frozen=True)
class _Candidate:
    """An item as it was when it was found, and why it is to go."""

    item: Item
    operation: Operation
    reason: str


def forget(store: Store, policy: Policy, age: Age, namespace: str | None, now: datetime, *, dry_run: bool) -> Forgotten:
    """Forget the flexible items that an age describes; say how many of other levels were as old and are kept."""
    conditions, values = age.conditions(now)
    if namespace is not None:
        conditions, values = [*conditions, "namespace = ?"], [*values, namespace]
    wanted = " AND ".join(conditions)
    parts = [f"older than {_days(age.older_than)}"] if age.older_than is not None else []
    parts += [f"unused for {_days(age.unused)}"] if age.unused is not None else []
    with store.reading() as connection:
        found = _flexible(connection, wanted, values)
        candidates = [_Candidate(item, "expire", " and ".join(parts)) for item in found]
        levels = connection.execute(
            f"SELECT preservation, count(*) FROM items WHERE preservation <> 'flexible' AND {wanted} GROUP BY 1", values
        ).fetchall()
    return _carry_out(store, policy, candidates, now, dry_run, {row[0]: row[1] for row in levels}, "forget")


def enforce_budgets(store: Store, policy: Policy, now: datetime, *, dry_run: bool) -> Forgotten:
    """Forget what has come to its time, is too old or unused for its namespace, or too much for it."""
    with store.reading() as connection:
        candidates = list(_due(connection, policy, now))
    return _carry_out(store, policy, candidates, now, dry_run, {}, None)


def evict_for(connection: sqlite3.Connection, policy: Policy, item: Item, now: datetime) -> tuple[Gone, ...]:
    """Make room in its namespace's budget for an item that was just written, which stays itself."""
    budget = policy.budget_for(item.namespace)
    if item.preservation != "flexible" or (budget.max_items is None and budget.max_tokens is None):
        return ()
    items, tokens = _totals(connection, item.namespace)
    gone: list[Gone] = []
    if not _is_over(budget, items, tokens):
        return ()
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM items WHERE namespace = ? AND preservation = 'flexible' AND id <> ?"
        " ORDER BY last_used_at, id LIMIT ?",
        (item.namespace, item.id, MOST_LOOKED_AT),
    ).fetchall()
    for other in map(as_item, rows):
        if not _is_over(budget, items, tokens) or len(gone) == MOST_EVICTED_FOR_ONE:
            break
        if policy.may("evict", other).allowed:
            reason = f"to keep the budget of {item.namespace}"
            erase_item(connection, other, Change("evict", now, reason))
            gone.append(_gone(other, "evict", reason))
            items, tokens = items - 1, tokens - other.tokens
    return tuple(gone)


def _due(connection: sqlite3.Connection, policy: Policy, now: datetime) -> Iterator[_Candidate]:
    doomed: set[str] = set()
    for item in _flexible(connection, "expires_at <= ?", [time_text(now)]):
        doomed.add(item.id)
        yield _Candidate(item, "expire", "its time had come")
    namespaces = connection.execute(
        "SELECT namespace FROM namespace_totals WHERE preservation = 'flexible' AND items > 0 ORDER BY 1"
    ).fetchall()
    for (namespace,) in namespaces:
        budget = policy.budget_for(namespace)
        for condition, days, words in (
            ("created_at < ?", budget.max_age_days, "older than"),
            ("last_used_at < ?", budget.unused_days, "unused for"),
        ):
            if days is None:
                continue
            values = [namespace, time_text(now - timedelta(days=days))]
            for item in _flexible(connection, f"namespace = ? AND {condition}", values):
                if item.id not in doomed:
                    doomed.add(item.id)
                    yield _Candidate(item, "expire", f"{words} {days} days, by the budget of {namespace}")
        yield from _too_many(connection, policy, namespace, doomed)


def _too_many(connection: sqlite3.Connection, policy: Policy, namespace: str, doomed: set[str]) -> Iterator[_Candidate]:
    budget = policy.budget_for(namespace)
    if budget.max_items is None and budget.max_tokens is None:
        return
    rest = [item for item in _flexible(connection, "namespace = ?", [namespace]) if item.id not in doomed]
    items, tokens = len(rest), sum(item.tokens for item in rest)
    for item in sorted(rest, key=lambda one: (one.last_used_at, one.id)):
        if not _is_over(budget, items, tokens):
            return
        if policy.may("evict", item).allowed:
            items, tokens = items - 1, tokens - item.tokens
            yield _Candidate(item, "evict", f"to keep the budget of {namespace}")


def _carry_out(
    store: Store,
    policy: Policy,
    candidates: Sequence[_Candidate],
    now: datetime,
    dry_run: bool,
    kept: dict[Preservation, int],
    operation: str | None,
) -> Forgotten:
    shown: list[Gone] = []
    count = tokens = 0
    for start in range(0, len(candidates), BATCH):
        batch = candidates[start : start + BATCH]
        with store.reading() if dry_run else store.writing() as connection:
            items = read_items(connection, [candidate.item.id for candidate in batch])
            for candidate in batch:
                item = items.get(candidate.item.id)
                if item is None or (item.version, item.last_used_at, item.preservation) != (
                    candidate.item.version,
                    candidate.item.last_used_at,
                    "flexible",
                ):
                    continue
                if not policy.may(candidate.operation, item).allowed:
                    kept["flexible"] = kept.get("flexible", 0) + 1
                    continue
                name = operation or candidate.operation
                if not dry_run:
                    erase_item(connection, item, Change(name, now, candidate.reason))
                count, tokens = count + 1, tokens + item.tokens
                if len(shown) < MOST_SHOWN:
                    shown.append(_gone(item, name, candidate.reason))
    return Forgotten(dry_run, tuple(shown), count, tokens, kept)


def _flexible(connection: sqlite3.Connection, condition: str, values: Sequence[Any]) -> list[Item]:
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM items WHERE preservation = 'flexible' AND {condition} ORDER BY id", values
    )
    return [as_item(row) for row in rows]


def _totals(connection: sqlite3.Connection, namespace: str) -> tuple[int, int]:
    row = connection.execute(
        "SELECT items, tokens FROM namespace_totals WHERE namespace = ? AND preservation = 'flexible'", (namespace,)
    ).fetchone()
    return (0, 0) if row is None else (row[0], row[1])


def _is_over(budget: Budget, items: int, tokens: int) -> bool:
    return (budget.max_items is not None and items > budget.max_items) or (
        budget.max_tokens is not None and tokens > budget.max_tokens
    )


def _gone(item: Item, operation: str, reason: str) -> Gone:
    return Gone(item.id, item.namespace, operation, reason, item.tokens)


def _days(span: timedelta | None) -> str:
    return "" if span is None else f"{span.total_seconds() / 86_400:g} days"
