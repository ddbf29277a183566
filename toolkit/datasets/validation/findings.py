"""What validation finds: a kind, a place, what is wrong there and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]

_KEPT_OF_A_KIND = 1_000


@dataclass(frozen=True)
class Kind:
    """One kind of finding.

    severity: error (must not be trained on), warning (look at it), note (harmless, but know it)
    title:    what the kind is called in tables
    advice:   what to do about it
    """

    severity: Severity
    title: str
    advice: str


KINDS: dict[str, Kind] = {
    "unreadable": Kind("error", "cannot be read", "Mend the line, or take it out"),
    "encoding": Kind("error", "not UTF-8", "Save the file as UTF-8"),
    "long-line": Kind("error", "line too long to be an example", "Look for a missing line end, or cut the text"),
    "duplicate-key": Kind("error", "key given twice in one object", "Keep one of the two"),
    "record": Kind("error", "fields missing or of the wrong type", "Mend the record"),
    "empty": Kind("error", "nothing to learn", "Fill it in, or take the record out"),
    "bom": Kind("note", "byte-order mark", "It is passed over; save the file as UTF-8 without it"),
    "line-ends": Kind("note", "Windows line ends", "They are passed over; nothing to do"),
    "template": Kind("error", "the chat template refuses it", "Change the conversation, or use another model"),
    "no-tools": Kind("warning", "tools that this model cannot write", "Name a model made for tools, or leave it out"),
    "over-long": Kind("warning", "longer than the model's limit", "Shorten it, or raise max_seq_tokens"),
    "exact-duplicate": Kind("warning", "exact duplicate", "Take it out: toolkit dataset dedupe"),
    "near-duplicate": Kind("warning", "near duplicate", "Take it out: toolkit dataset dedupe"),
    "leak-text": Kind("error", "stands in two splits", "Split again: toolkit dataset split"),
    "leak-key": Kind("error", "its key stands in two splits", "Split again: toolkit dataset split"),
    "contamination": Kind("error", "holds a question of the evaluation set", "Take it out of the training data"),
    "conflict": Kind("warning", "one question, several answers", "Keep the right answer, or make the questions differ"),
    "label": Kind("error", "label that is none of those known", "Correct the label"),
    "metadata": Kind("error", "metadata that do not fit", "Correct the metadata"),
    "repetition": Kind("warning", "repeats itself", "Shorten the answer"),
    "language": Kind("warning", "another language", "Translate it, or say which: language in --thresholds"),
    "secret": Kind("error", "secret", "Replace it by a placeholder, and revoke it if it is real"),
    "personal-data": Kind("warning", "personal data", "Replace it by a placeholder, such as name@example.com"),
    "as-an-ai": Kind("warning", "speaks as a chatbot", "Write what the model should say instead"),
    "missing-context": Kind("warning", "refers to what is not there", "Give the context, or reword the answer"),
    "truncated": Kind("warning", "breaks off", "Finish the answer"),
    "echo": Kind("warning", "repeats the question", "Let the answer begin with the answer"),
    "system-prompt": Kind("error", "system prompt where none belongs", "Take it out"),
}  # fmt: skip
"""Every kind, in the order in which they are shown."""


@dataclass(frozen=True)
class Finding:
    """One thing found.

    kind:  a key of `KINDS`
    where: `file:line`
    what:  what is wrong, in the words of the file
    hint:  what to do where that differs from the kind's own advice
    """

    kind: str
    where: str
    what: str
    hint: str = ""

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return KINDS[self.kind].severity

    @property
    def advice(self) -> str:
        """What to do about it."""
        return self.hint or KINDS[self.kind].advice

    def __str__(self) -> str:
        """Render as one line: `where: kind: what. advice`."""
        return f"{self.where}: {self.kind}: {self.what}. {self.advice}"


class Findings:
    """Findings by kind: all are counted, the first thousand of each kind are kept, so that memory stays bounded."""

    def __init__(self) -> None:
        """Start empty."""
        self.counts: Counter[str] = Counter()
        self._kept: dict[str, list[Finding]] = {}

    def add(self, kind: str, where: str, what: str, hint: str = "") -> None:
        """Count one finding, and keep it while there is room."""
        self.counts[kind] += 1
        kept = self._kept.setdefault(kind, [])
        if len(kept) < _KEPT_OF_A_KIND:
            kept.append(Finding(kind, where, what, hint))

    def count(self, *kinds: str) -> int:
        """Return how many findings of these kinds there are."""
        return sum(self.counts[kind] for kind in kinds)

    def of_kind(self, kind: str) -> tuple[Finding, ...]:
        """Return what was kept of one kind, in the order of the data."""
        return tuple(self._kept.get(kind, ()))

    def __iter__(self) -> Iterator[Finding]:
        """Go through what was kept, kind by kind."""
        for kind in KINDS:
            yield from self._kept.get(kind, ())

    def __len__(self) -> int:
        return sum(self.counts.values())
