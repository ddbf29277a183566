"""Memory operations: conversations in which the assistant calls a memory's tools, with real results.

Every call is executed by what the caller hands in (`open_tools`; the stand-in by default): the results that stand in a
record are those that came back, and the assistant's last words are made from them. `verified`: the same calls, executed
a second time in a fresh memory, give the same results. Difficulty: 0.4 for one call, 0.6 where the call is refused or
finds nothing, 0.7 for two calls.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from toolkit.datasets.generate.asking import Openings, one_per_key
from toolkit.datasets.generate.generator import (
    OnRejected,
    Record,
    Rejected,
    chat_record,
    ignore_rejected,
    sub_random,
)
from toolkit.datasets.generate.grammar import Pattern, as_sentence, pick, read_patterns, shuffled
from toolkit.datasets.generate.memory_tools import FILES, TOOLS, ExecuteTool, MemoryStandIn, OpenTools
from toolkit.datasets.generate.phrasings import SURROUNDINGS
from toolkit.datasets.generate.tagging import LEVELS, write_note

CATEGORY = "memory"
SOURCE = "toolkit.datasets.generate.memory"

Call = tuple[str, dict[str, Any]]

REQUESTS: dict[str, tuple[str, ...]] = {
    "store": (
        "(Remember|Keep|Note) this: {note}",
        "{note} (Store that|Put it into the memory|Do not forget it), please.",
        "For (later|the memory|the record): {note}",
        "{name} (told me|wrote): {note} (Can you keep it|Save it)?",
    ),
    "search": (
        "What do we know about the {thing}?",
        "(Find|Look up) what is stored about the {thing}.",
        "(Is there|Do we have) a note on the {thing}?",
        "{name} asks about the {thing}. (Search the memory|What does the memory say)?",
    ),
    "update": (
        "Note {id} is out of date. The new text: {note}",
        "(Change|Reword) {id}: {note}",
        "{id} should (read|say) now: {note}",
        "(Please correct|Update) {id}. {note}",
    ),
    "delete": (
        "(Delete|Remove|Drop) {id}.",
        "We no longer need {id}(|, so delete it).",
        "{id} can go(|, please).",
        "(Throw|Clear) {id} (out|away).",
    ),
    "link": (
        "(Link|Connect) {id} to {other}: it {relation} it.",
        "{id} {relation} {other}. (Note|Store) that connection.",
        "(Record|Enter) that {id} {relation} {other}.",
    ),
    "list": (
        "(List|Show) all {level} notes.",
        "Which notes are {level}?",
        "(Give me|I want) the ids of everything that is {level}.",
    ),
    "history": (
        "(How did|In what way did) {id} change?",
        "What did {id} say (before|earlier)?",
        "(Show|Give me) the history of {id}.",
    ),
    "ingest": (
        "(Read|Take|Load) {path} into the memory.",
        "(Ingest|Index) {path}(|, please).",
        "{name} finished {path}. (Add it|Make it searchable).",
    ),
    "correct": (
        "(Find|Look for) the note on the {thing} and (change|correct) it to: {note}",
        "The note about the {thing} is wrong. (Correct|Right) is: {note}",
        "What we stored on the {thing} has changed. (It should say|New text): {note}",
    ),
}
RELATIONS = ("replaces", "supports", "contradicts", "explains", "follows from")

_REQUESTS: dict[str, tuple[Pattern, ...]] = {name: read_patterns(texts) for name, texts in REQUESTS.items()}
_OPENINGS = Openings(
    (
        "(Hello|Hi|Good morning).",
        "(A|One) (short|quick) (thing|request).",
        "(Sorry|Excuse me), (one more|another) thing.",
    ),
    0.3,
)


@dataclass
class Scene:
    """A conversation in the making.

    execute: executes calls in this scene's memory
    before:  calls made before the conversation began, which it does not show
    calls:   the calls of the conversation with their results
    """

    rng: random.Random
    execute: ExecuteTool
    before: list[Call] = field(default_factory=list)
    calls: list[tuple[str, dict[str, Any], Mapping[str, Any]]] = field(default_factory=list)

    def prepare(self, text: str, kind: str) -> str:
        """Store a note before the conversation begins; return its id."""
        call = {"text": text, "preservation": LEVELS[kind], "tags": [kind]}
        self.before.append(("memory_store", call))
        result = self.execute("memory_store", call)
        if "id" not in result:
            raise Rejected(f"memory_store gave no id: {result}")
        return str(result["id"])

    def call(self, name: str, **arguments: Any) -> Mapping[str, Any]:
        """Make a call of the conversation; return its result."""
        result = self.execute(name, arguments)
        self.calls.append((name, arguments, result))
        return result

    def kind(self, *levels: str) -> str:
        """Draw a kind of note, of certain levels."""
        return pick(self.rng, [kind for kind, level in LEVELS.items() if not levels or level in levels])

    def note(self, kind: str) -> str:
        """Write a note of a kind, with a full stop."""
        return f"{write_note(kind, self.rng).rstrip('.?')}."


Made = tuple[dict[str, str], str]
"""The slots of the request, and the assistant's last words."""


def _store(scene: Scene) -> Made:
    kind = scene.kind()
    note = scene.note(kind)
    if scene.rng.random() < 0.15:
        scene.prepare(note, kind)
    result = scene.call("memory_store", text=note, preservation=LEVELS[kind], tags=[kind])
    said = "is there already" if result["outcome"] == "exists" else f"stored as {LEVELS[kind]}"
    return {"note": note}, f"{result['id']}: {said}."


def _about(scene: Scene) -> tuple[str, str]:
    """Return a thing and a fact about it."""
    thing = pick(scene.rng, SURROUNDINGS["thing"])
    fact = scene.note("fact")
    while f"the {thing}" not in fact.lower():
        fact = scene.note("fact")
    return thing, fact


def _search(scene: Scene) -> Made:
    thing, fact = _about(scene)
    if scene.rng.random() < 0.75:
        scene.prepare(fact, "fact")
    found = scene.call("memory_search", query=thing)["results"]
    return {"thing": thing}, " ".join(
        f"{item['id']}: {item['text']}" for item in found
    ) or "Nothing is stored about it."


def _update(scene: Scene) -> Made:
    strict = scene.rng.random() < 0.3
    kind = scene.kind("strict") if strict else scene.kind("moderate", "flexible")
    identity = scene.prepare(scene.note(kind), kind)
    note = scene.note(kind)
    result = scene.call("memory_update", id=identity, text=note)
    said = f"{identity} is strict, so its text stays." if "error" in result else f"{identity} has a new text."
    return {"id": identity, "note": note}, said


def _delete(scene: Scene) -> Made:
    kind = scene.kind("strict") if scene.rng.random() < 0.4 else scene.kind("flexible")
    identity = scene.prepare(scene.note(kind), kind)
    result = scene.call("memory_delete", id=identity)
    return {
        "id": identity
    }, f"{identity} is strict: a person must delete it." if "error" in result else f"{identity} is gone."


def _link(scene: Scene) -> Made:
    first, second = (scene.prepare(scene.note(kind), kind) for kind in (scene.kind(), scene.kind()))
    relation = pick(scene.rng, RELATIONS)
    result = scene.call("memory_link", source_id=second, target_id=first, relation=relation)
    return {"id": second, "other": first, "relation": relation}, f"Linked: {' '.join(result['linked'])}."


def _list(scene: Scene) -> Made:
    level = pick(scene.rng, ("strict", "moderate", "flexible"))
    for _ in range(1 + int(scene.rng.random() * 3)):
        kind = scene.kind()
        scene.prepare(scene.note(kind), kind)
    found = scene.call("memory_list", preservation=level)["ids"]
    return {"level": level}, f"{len(found)}: {', '.join(found)}." if found else f"No note is {level}."


def _history(scene: Scene) -> Made:
    kind = scene.kind("moderate")
    identity = scene.prepare(scene.note(kind), kind)
    if scene.rng.random() < 0.7:
        change = {"id": identity, "text": scene.note(kind)}
        scene.before.append(("memory_update", change))
        scene.execute("memory_update", change)
    earlier = scene.call("memory_history", id=identity)["earlier"]
    return {"id": identity}, f"Before: {earlier[-1]}" if earlier else f"{identity} never changed."


def _ingest(scene: Scene) -> Made:
    path = pick(scene.rng, list(FILES))
    if scene.rng.random() < 0.25:
        scene.before.append(("documents_ingest", {"path": path}))
        scene.execute("documents_ingest", {"path": path})
    result = scene.call("documents_ingest", path=path)
    return {"path": path}, f"{path}: {result['passages']} passages, {result['outcome']}."


def _correct(scene: Scene) -> Made:
    thing, fact = _about(scene)
    scene.prepare(fact, "fact")
    found = scene.call("memory_search", query=thing)["results"]
    if not found:
        raise Rejected(f"memory_search does not find {fact!r} by {thing!r}")
    note = fact
    while note == fact or f"the {thing}" not in note.lower():
        note = scene.note("fact")
    scene.call("memory_update", id=found[0]["id"], text=note)
    return {"thing": thing, "note": note}, f"{found[0]['id']} has a new text."


OPERATIONS: dict[str, Callable[[Scene], Made]] = {
    "store": _store,
    "search": _search,
    "update": _update,
    "delete": _delete,
    "link": _link,
    "list": _list,
    "history": _history,
    "ingest": _ingest,
    "correct": _correct,
}


def memory_examples(open_tools: OpenTools = MemoryStandIn) -> Callable[..., Iterator[Record]]:
    """Return the generator's function for an executor: `open_tools()` opens an empty memory for every example."""

    def make_one(rng: random.Random) -> Record:
        return _make_one(rng, open_tools)

    def memory(seed: int, count: int, on_rejected: OnRejected = ignore_rejected) -> Iterator[Record]:
        return one_per_key(CATEGORY, seed, count, make_one, on_rejected)

    return memory


memory = memory_examples()


def _make_one(rng: random.Random, open_tools: OpenTools) -> Record:
    operation = pick(rng, list(OPERATIONS))
    scene = Scene(rng, open_tools())
    for _ in range(int(rng.random() * 12)):
        kind = scene.kind("flexible")
        scene.prepare(scene.note(kind), kind)
    fill, said = OPERATIONS[operation](scene)
    _check_again(scene, open_tools())
    number = int(rng.random() * len(_REQUESTS[operation]))
    asked = _REQUESTS[operation][number].expand(rng, {**fill, "name": pick(rng, SURROUNDINGS["name"])})
    asked = asked if asked.startswith("m") and asked[1:2].isdigit() else as_sentence(asked)
    messages: list[dict[str, Any]] = [{"role": "user", "content": _OPENINGS.before(asked, rng)}]
    for place, (name, arguments, result) in enumerate(scene.calls, start=1):
        function = {"name": name, "arguments": arguments}
        call = {"id": f"call_{place}", "type": "function", "function": function}
        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        content = json.dumps(result, ensure_ascii=False)
        messages.append({"role": "tool", "name": name, "tool_call_id": f"call_{place}", "content": content})
    messages.append({"role": "assistant", "content": said})
    used = list(dict.fromkeys(name for name, _, _ in scene.calls))
    # The tools follow from the conversation, so that the same conversation is never told twice with other tools.
    offering = sub_random(0, json.dumps(messages), 0)
    others = [name for name in shuffled(offering, list(TOOLS)) if name not in used]
    offered = shuffled(offering, [*used, *others[: 3 - len(used)]])
    refused = any("error" in result or [] in result.values() for _, _, result in scene.calls)
    return chat_record(
        CATEGORY,
        messages,
        tools=[TOOLS[name] for name in offered],
        key=f"{operation}|{number}|{json.dumps(fill, ensure_ascii=False, sort_keys=True)}",
        difficulty=0.7 if len(scene.calls) > 1 else 0.6 if refused else 0.4,
        source=SOURCE,
        verified=True,
        preservation="moderate",
        operation=operation,
    )


def _check_again(scene: Scene, execute: ExecuteTool) -> None:
    """Execute all calls of a scene once more. Raises Rejected when a result differs."""
    for name, arguments in scene.before:
        execute(name, arguments)
    for name, arguments, result in scene.calls:
        again = execute(name, arguments)
        if again != result:
            raise Rejected(f"{name} gave {result} and then {again}")
