"""The tools of a memory server as the memory examples use them, and a stand-in that executes them.

The names and arguments are those of a memory with preservation levels: what is strict is never reworded, and deleting
it needs a person. `MemoryStandIn` holds everything in two dicts, so its results follow from the calls alone; the
examples take any other executor in its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolkit.preservation import PRESERVATION_LEVELS

ExecuteTool = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]
"""Executes a call (name, arguments) and returns its result, a JSON object; a refusal is `{"error": why}`."""

OpenTools = Callable[[], ExecuteTool]
"""Opens an empty memory and returns what executes calls in it."""


def _schema(name: str, description: str, properties: Mapping[str, Any], required: Sequence[str]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": dict(properties), "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


_TEXT = {"type": "string"}
_LEVEL = {"type": "string", "enum": list(PRESERVATION_LEVELS)}
_TAGS = {"type": "array", "items": _TEXT}

TOOLS: dict[str, dict[str, Any]] = {
    schema["function"]["name"]: schema
    for schema in (
        _schema(
            "memory_store",
            "Keep a note.",
            {"text": _TEXT, "preservation": _LEVEL, "tags": _TAGS},
            ("text", "preservation"),
        ),
        _schema("memory_search", "Find notes by meaning.", {"query": _TEXT}, ("query",)),
        _schema("memory_update", "Reword a note that is not strict.", {"id": _TEXT, "text": _TEXT}, ("id", "text")),
        _schema("memory_delete", "Delete a note; a strict one needs a person.", {"id": _TEXT}, ("id",)),
        _schema(
            "memory_link",
            "Connect two notes.",
            {"source_id": _TEXT, "target_id": _TEXT, "relation": _TEXT},
            ("source_id", "target_id", "relation"),
        ),
        _schema("memory_list", "List the notes of a level.", {"preservation": _LEVEL}, ("preservation",)),
        _schema("memory_history", "Show earlier wordings of a note.", {"id": _TEXT}, ("id",)),
        _schema("documents_ingest", "Read a file into the memory.", {"path": _TEXT}, ("path",)),
    )
}  # fmt: skip
"""The tools by name, as JSON schemas in the form that chat templates expect."""

FILES: dict[str, int] = {
    "docs/access.md": 7, "docs/backup.md": 5, "docs/billing.md": 9, "docs/cables.md": 3, "docs/glossary.md": 12,
    "docs/holidays.md": 2, "docs/labels.md": 4, "docs/network.md": 11, "docs/on-call.md": 6, "docs/printers.md": 8,
    "docs/releases.md": 10, "docs/style.md": 13, "notes/audit.txt": 14, "notes/berlin.txt": 15, "notes/demo.txt": 27,
    "notes/lisbon.txt": 16, "notes/oslo.txt": 17, "notes/planning.txt": 18, "wiki/alarms.html": 19,
    "wiki/badges.html": 20, "wiki/contracts.html": 21, "wiki/deliveries.html": 22, "wiki/drills.html": 23,
    "wiki/hiring.html": 24, "wiki/kitchen.html": 25, "wiki/stock.html": 26,
}  # fmt: skip
"""The documents that the stand-in can read, with their numbers of passages."""


@dataclass
class _Note:
    text: str
    preservation: str
    tags: list[str]
    earlier: list[str] = field(default_factory=list)


class MemoryStandIn:
    """A memory in two dicts. Ids are `m1`, `m2`, … in the order of storing; searching counts shared words."""

    def __init__(self) -> None:
        """Begin empty."""
        self.notes: dict[str, _Note] = {}
        self.links: list[tuple[str, str, str]] = []
        self.stored = 0
        self.ingested: set[str] = set()

    def __call__(self, name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Execute a call; a refusal is a result as well. Raises ValueError for a call that fits no tool's schema."""
        schema = TOOLS.get(name)
        if schema is None:
            raise ValueError(f"no tool named {name}")
        parameters = schema["function"]["parameters"]
        unknown = [key for key in arguments if key not in parameters["properties"]]
        missing = [key for key in parameters["required"] if key not in arguments]
        if unknown or missing:
            raise ValueError(f"{name}: unknown arguments {unknown}, missing arguments {missing}")
        execute: Callable[..., Mapping[str, Any]] = {
            "memory_store": self._store,
            "memory_search": self._search,
            "memory_update": self._update,
            "memory_delete": self._delete,
            "memory_link": self._link,
            "memory_list": self._list,
            "memory_history": self._history,
            "documents_ingest": self._ingest,
        }[name]
        return execute(**arguments)

    def _store(self, text: str, preservation: str, tags: Sequence[str] = ()) -> Mapping[str, Any]:
        for identity, note in self.notes.items():
            if note.text == text:
                return {"outcome": "exists", "id": identity}
        self.stored += 1
        self.notes[f"m{self.stored}"] = _Note(text, preservation, list(tags))
        return {"outcome": "stored", "id": f"m{self.stored}"}

    def _search(self, query: str) -> Mapping[str, Any]:
        wanted = _words(query)
        scored = [(len(wanted & _words(note.text)), identity) for identity, note in self.notes.items()]
        best = sorted((-score, identity) for score, identity in scored if score == len(wanted))
        return {"results": [{"id": identity, "text": self.notes[identity].text} for _, identity in best[:3]]}

    def _update(self, id: str, text: str) -> Mapping[str, Any]:
        note = self.notes.get(id)
        if note is None:
            return {"error": f"no note {id}"}
        if note.preservation == "strict":
            return {"error": f"{id} is strict: its text never changes"}
        note.earlier.append(note.text)
        note.text = text
        return {"id": id, "version": len(note.earlier) + 1}

    def _delete(self, id: str) -> Mapping[str, Any]:
        note = self.notes.get(id)
        if note is None:
            return {"error": f"no note {id}"}
        if note.preservation == "strict":
            return {"error": f"{id} is strict: a person must delete it"}
        del self.notes[id]
        return {"deleted": id}

    def _link(self, source_id: str, target_id: str, relation: str) -> Mapping[str, Any]:
        for identity in (source_id, target_id):
            if identity not in self.notes:
                return {"error": f"no note {identity}"}
        self.links.append((source_id, target_id, relation))
        return {"linked": [source_id, relation, target_id]}

    def _list(self, preservation: str) -> Mapping[str, Any]:
        return {"ids": [identity for identity, note in self.notes.items() if note.preservation == preservation]}

    def _history(self, id: str) -> Mapping[str, Any]:
        note = self.notes.get(id)
        return {"error": f"no note {id}"} if note is None else {"id": id, "earlier": list(note.earlier)}

    def _ingest(self, path: str) -> Mapping[str, Any]:
        if path not in FILES:
            return {"error": f"no file {path}"}
        outcome = "unchanged" if path in self.ingested else "added"
        self.ingested.add(path)
        return {"path": path, "outcome": outcome, "passages": FILES[path]}


def _words(text: str) -> set[str]:
    return set(re.findall(r"[\w-]+", text.lower()))
