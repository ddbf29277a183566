"""Random operations by two programs at once: no strict item is ever changed, lost, or left out of a context with room.

The witness is a dictionary beside the memory and SQL of our own: what the memory holds of strict and moderate items has
to be what was acknowledged, after every single operation.
"""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.mcp_server.memories import Clock, Opened, open_memory
from toolkit.errors import ToolkitError
from toolkit.mcp_server.context import Part
from toolkit.mcp_server.items import Item
from toolkit.mcp_server.policy import NeedsPerson
from toolkit.mcp_server.transfer import export_jsonl, import_jsonl

LEVELS = ("strict", "moderate", "flexible")
NAMESPACES = {
    "default": {"budget": {"max_items": 12}},
    "scratch": {"preservation": "flexible", "budget": {"max_tokens": 150, "unused_days": 5}},
    "rules": {"preservation": "strict"},
}
POLICY: dict[str, Any] = {
    "namespaces": NAMESPACES,
    "tags": {"todo": "flexible"},
    "rules": [{"name": "law", "when": {"tags": ["law"]}, "at_least": "strict"}],
    "duplicates": {"threshold": 0.8, "moderate": "merge", "flexible": "merge"},
}
WORDS = "coal milk stove server never restart print admin page cellar mat key 日本 naïve 🙂 -5 5 NOT not".split()
ATTACKS = (
    "UPDATE items SET text = 'broken' WHERE id = ?",
    "UPDATE items SET preservation = 'flexible' WHERE id = ?",
    "DELETE FROM items WHERE id = ?",
    "DELETE FROM item_tags WHERE item_id = ?",
)


class Witness:
    """What has to be in the memory: texts and levels of strict and moderate items, as they were acknowledged."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.expected: dict[str, tuple[str, str]] = {}
        self.strict_tags: dict[str, set[str]] = {}

    def take(self, item: Item, *, by_person: bool = False) -> None:
        before = self.expected.get(item.id)
        if before is not None and before[1] == "strict" and not by_person:
            assert (item.text, item.preservation) == before, f"strict item {item.id} was changed"
            assert self.strict_tags[item.id] <= set(item.tags), f"strict item {item.id} lost a tag"
        self.expected.pop(item.id, None)
        self.strict_tags.pop(item.id, None)
        if item.preservation != "flexible":
            self.expected[item.id] = (item.text, item.preservation)
        if item.preservation == "strict":
            self.strict_tags[item.id] = set(item.tags)

    def lose(self, item_id: str, *, by_person: bool = False) -> None:
        before = self.expected.pop(item_id, None)
        self.strict_tags.pop(item_id, None)
        assert before is None or before[1] != "strict" or by_person, f"strict item {item_id} was deleted"

    def check(self) -> None:
        rows = self.connection.execute("SELECT id, text, preservation FROM items WHERE preservation <> 'flexible'")
        assert {row[0]: (row[1], row[2]) for row in rows} == self.expected
        tags: dict[str, set[str]] = {}
        for tag, item_id in self.connection.execute("SELECT tag, item_id FROM item_tags"):
            tags.setdefault(item_id, set()).add(tag)
        for item_id, (_, level) in self.expected.items():
            assert level != "strict" or self.strict_tags[item_id] == tags.get(item_id, set())

    def strict(self, namespaces: list[str] | None) -> dict[str, str]:
        rows = self.connection.execute("SELECT id, namespace, text FROM items WHERE preservation = 'strict'")
        return {row[0]: row[2] for row in rows if namespaces is None or row[1] in namespaces}


class Play:
    """Two programs on one file, and the operations that they do. Refusals are counted, and change nothing."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "memory.sqlite3"
        self.clock = Clock()
        self.programs: list[Opened] = [self._open(prefix) for prefix in "ab"]
        self.witness = Witness(self.path)
        self.ids: list[str] = []
        self.refused: Counter[str] = Counter()
        self.folder = folder
        self.number = 0
        self.crowded = 0
        self.done: Counter[str] = Counter()

    def _open(self, prefix: str) -> Opened:
        opened = open_memory(self.path, prefix=prefix, **POLICY)
        opened.memory._now = opened.memory._keeper._now = self.clock
        return opened

    def close(self) -> None:
        self.witness.connection.close()
        for program in self.programs:
            program.close()

    def attempt(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except NeedsPerson:
            self.refused["needs a person"] += 1
        except ToolkitError as error:
            # The triggers are a second line: whatever gets as far as to them was let through by the first.
            assert "only a person can allow" not in str(error), error
            self.refused[name] += 1
        self.witness.check()

    def store(self, program: int, text: str, **fields: Any) -> None:
        def act() -> None:
            stored = self.programs[program].memory.store(text, **fields)
            for gone in stored.evicted:
                self.witness.lose(gone)
            self.witness.take(stored.item)
            self.ids.append(stored.item.id)
            if stored.item.preservation == "strict":
                assert stored.item.text == text or stored.outcome == "exists"
            assert stored.outcome == "exists" or text.strip() in stored.item.text or "merged" in stored.outcome

        self.attempt("store", act)

    def update(self, program: int, item_id: str, by_person: bool, **fields: Any) -> None:
        memory = self.programs[program].memory
        self.attempt(
            "update",
            lambda: self.witness.take(memory.update(item_id, by_person=by_person, **fields), by_person=by_person),
        )

    def condense(self, program: int, item_id: str, text: str) -> None:
        self.attempt("condense", lambda: self.witness.take(self.programs[program].memory.condense(item_id, text)))

    def merge(self, program: int, ids: list[str]) -> None:
        def act() -> None:
            merged = self.programs[program].memory.merge(ids)
            for one in set(ids) - {merged.id}:
                self.witness.lose(one)
            self.witness.take(merged)

        self.attempt("merge", act)

    def delete(self, program: int, item_id: str, by_person: bool) -> None:
        def act() -> None:
            self.programs[program].memory.delete(item_id, by_person=by_person)
            self.witness.lose(item_id, by_person=by_person)

        self.attempt("delete", act)

    def forget(self, program: int, days: int, dry_run: bool) -> None:
        memory = self.programs[program].memory
        self.attempt("forget", lambda: memory.forget(older_than=timedelta(days=days), dry_run=dry_run) and None)
        self.attempt("budgets", lambda: memory.enforce_budgets(dry_run) and None)

    def attack(self, statement: str, item_id: str) -> None:
        if self.witness.expected.get(item_id, ("", ""))[1] == "strict":
            try:
                changed = self.witness.connection.execute(statement, (item_id,)).rowcount
            except sqlite3.IntegrityError:
                self.refused["attack"] += 1
            else:
                assert changed == 0, statement
        self.witness.check()

    def context(self, program: int, query: str, budget: int, namespaces: list[str] | None) -> None:
        def render(part: Part) -> str:
            return f"<{part.id}>{part.text}</{part.id}>"

        memory = self.programs[program].memory
        context = memory.assemble_context(
            query, budget, namespaces=namespaces, count_tokens=lambda text: len(text.encode()), render=render
        )
        strict = self.witness.strict(namespaces)
        taken = [part for part in context.parts if part.preservation == "strict"]
        assert list(context.parts[: len(taken)]) == taken
        assert {part.id: part.text for part in taken} == {part.id: strict[part.id] for part in taken}
        assert all(part.text in context.text for part in taken)
        used = len("\n\n".join(render(part) for part in taken).encode())
        assert len(context.text.encode()) <= budget
        for item_id in strict.keys() - {part.id for part in taken}:
            form = len(f"<{item_id}>{strict[item_id]}</{item_id}>".encode()) + (2 if taken else 0)
            assert used + form > budget, f"strict item {item_id} was left out of a context that has room for it"
            self.crowded += 1
        self.witness.check()

    def transfer(self, on_conflict: Any) -> None:
        path = self.folder / "memory.jsonl"

        def act() -> None:
            if path.exists():
                opened = self.programs[0]
                import_jsonl(opened.store, opened.memory, path, on_conflict)
                self._resync()
            export_jsonl(self.programs[1].store, path)

        self.attempt("import", act)

    def _resync(self) -> None:
        # An import may bring moderate items back or change them; strict ones that are there it may not touch.
        rows = self.witness.connection.execute("SELECT id, text, preservation FROM items").fetchall()
        now = {row[0]: (row[1], row[2]) for row in rows if row[2] != "flexible"}
        for item_id, state in self.witness.expected.items():
            assert item_id in now
            assert state[1] != "strict" or now[item_id] == state, f"an import changed strict item {item_id}"
        tags: dict[str, set[str]] = {item_id: set() for item_id, (_, level) in now.items() if level == "strict"}
        for tag, item_id in self.witness.connection.execute("SELECT tag, item_id FROM item_tags"):
            if item_id in tags:
                tags[item_id].add(tag)
        before = self.witness.strict_tags
        assert {item_id: tags[item_id] for item_id in before} == before, "an import changed a strict item's tags"
        self.witness.strict_tags = tags
        self.witness.expected = now
        self.ids = list(dict.fromkeys([*self.ids, *(row[0] for row in rows)]))

    def restart(self, program: int) -> None:
        self.programs[program].close()
        self.number += 1
        self.programs[program] = self._open(f"{'ab'[program]}{self.number:03}")
        assert self.programs[program].store.check() == []


def _some_text(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(1, 8))) + draw.choice(["", " ", "\n", "."])


def _some_tags(draw: random.Random) -> list[str]:
    return draw.sample(["a", "b", "todo", "law"], draw.choice([0, 0, 1, 1, 2]))


def _store(play: Play, draw: random.Random, program: int, one: str) -> None:
    fields: dict[str, Any] = {"namespace": draw.choice([None, *NAMESPACES]), "tags": _some_tags(draw)}
    fields["preservation"] = draw.choice([None, *LEVELS])
    if draw.random() < 0.2:
        fields["expires_at"] = play.clock() + timedelta(days=draw.randint(1, 4))
    play.store(program, _some_text(draw), metadata={"n": draw.randrange(3)}, **fields)


def _update(play: Play, draw: random.Random, program: int, one: str) -> None:
    options = {"text": _some_text(draw), "tags": _some_tags(draw), "metadata": {"m": 1}}
    options["preservation"] = draw.choice(LEVELS)
    chosen = draw.sample(sorted(options), draw.randint(1, 3))
    play.update(program, one, draw.random() < 0.3, **{name: options[name] for name in chosen})


def _merge(play: Play, draw: random.Random, program: int, one: str) -> None:
    ids = play.ids[-60:]
    play.merge(program, draw.sample(ids, min(len(ids), draw.randint(1, 3))))


def _context(play: Play, draw: random.Random, program: int, one: str) -> None:
    namespaces = draw.choice([None, None, ["default"], ["rules", "scratch"]])
    budget = draw.choice([1, 60, 300, 1500, 100_000])
    play.context(program, draw.choice([_some_text(draw), ""]), budget, namespaces)


# What is done, and how often.
OPERATIONS: dict[str, tuple[int, Callable[[Play, random.Random, int, str], None]]] = {
    "store": (60, _store),
    "update": (28, _update),
    "condense": (10, lambda play, draw, program, one: play.condense(program, one, _some_text(draw)[:9])),
    "merge": (12, _merge),
    "delete": (24, lambda play, draw, program, one: play.delete(program, one, draw.random() < 0.3)),
    "forget": (6, lambda play, draw, program, one: play.forget(program, draw.randint(0, 6), draw.random() < 0.3)),
    "attack": (12, lambda play, draw, program, one: play.attack(draw.choice(ATTACKS), one)),
    "context": (24, _context),
    "later": (12, lambda play, draw, program, one: play.clock.later(hours=draw.randint(1, 30)) and None),
    "index": (8, lambda play, draw, program, one: play.programs[program].index()),
    "transfer": (1, lambda play, draw, program, one: play.transfer(draw.choice(["skip", "replace"]))),
    "restart": (1, lambda play, draw, program, one: play.restart(program)),
}


def random_operation(play: Play, draw: random.Random) -> None:
    (name,) = draw.choices(list(OPERATIONS), [weight for weight, _ in OPERATIONS.values()])
    play.done[name] += 1
    OPERATIONS[name][1](play, draw, draw.randrange(2), draw.choice(play.ids[-60:] or ["nowhere"]))


def play_random(folder: Path, seed: int, operations: int) -> Play:
    play, draw = Play(folder), random.Random(seed)
    try:
        for _ in range(operations):
            random_operation(play, draw)
        assert all(program.store.check() == [] for program in play.programs)
    finally:
        play.close()
    return play


@pytest.mark.parametrize("seed", [1, 2])
def test_no_strict_item_is_changed_lost_or_left_out_by_hundreds_of_random_operations(tmp_path, seed):
    play = play_random(tmp_path, seed, 250)
    # The play is worth something: strict items were there, and much was refused.
    assert play.refused["needs a person"] > 3 and play.refused["attack"] > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a minute of processor time, which is long on a busy machine
def test_no_strict_item_is_changed_lost_or_left_out_by_10000_random_operations(tmp_path):
    play = play_random(tmp_path, 20261128, 10_000)
    assert play.refused["needs a person"] > 200 and play.refused["attack"] > 50 and play.crowded > 100


LINES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)
ANY_ID = st.integers(0, 30)


class AnyMemory(RuleBasedStateMachine):
    """The same operations, drawn and shrunk by hypothesis, with any text that there is."""

    def __init__(self) -> None:
        super().__init__()
        self.folder: Any = None

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.play = Play(Path(self.folder.name))

    def _id(self, number: int) -> str:
        return self.play.ids[-1 - number % len(self.play.ids)] if self.play.ids else "nowhere"

    @rule(
        text=LINES,
        level=st.sampled_from([None, *LEVELS]),
        namespace=st.sampled_from([None, *NAMESPACES]),
        tags=st.lists(st.sampled_from(["a", "law", "todo"]), max_size=2),
        program=st.integers(0, 1),
    )
    def store(self, text: str, level: Any, namespace: str | None, tags: list[str], program: int) -> None:
        self.play.store(program, text, preservation=level, namespace=namespace, tags=tags)

    @rule(number=ANY_ID, text=LINES, by_person=st.booleans(), level=st.sampled_from([None, *LEVELS]))
    def update(self, number: int, text: str, by_person: bool, level: Any) -> None:
        self.play.update(0, self._id(number), by_person, text=text, preservation=level)

    @rule(number=ANY_ID, text=LINES)
    def condense(self, number: int, text: str) -> None:
        self.play.condense(1, self._id(number), text)

    @rule(numbers=st.lists(ANY_ID, min_size=2, max_size=3))
    def merge(self, numbers: list[int]) -> None:
        self.play.merge(1, [self._id(number) for number in numbers])

    @rule(number=ANY_ID, by_person=st.booleans())
    def delete(self, number: int, by_person: bool) -> None:
        self.play.delete(0, self._id(number), by_person)

    @rule(days=st.integers(0, 3), hours=st.integers(0, 90), dry_run=st.booleans())
    def time_passes(self, days: int, hours: int, dry_run: bool) -> None:
        self.play.clock.later(hours=hours)
        self.play.forget(0, days, dry_run)

    @rule(number=ANY_ID, statement=st.sampled_from(ATTACKS))
    def attack(self, number: int, statement: str) -> None:
        self.play.attack(statement, self._id(number))

    @rule(query=LINES, budget=st.integers(1, 400), namespaces=st.sampled_from([None, ["default"], ["rules"]]))
    def context(self, query: str, budget: int, namespaces: list[str] | None) -> None:
        self.play.context(1, query, budget, namespaces)

    def teardown(self) -> None:
        if self.folder is not None:
            assert self.play.programs[0].store.check() == []
            self.play.close()
            self.folder.cleanup()


TestAnyMemory = AnyMemory.TestCase
TestAnyMemory.settings = settings(
    max_examples=12,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
