"""A small language for sentences that come in many wordings.

    (Tell me|Say) what {term} means(, please|).

`(a|b)` is a choice, one of whose parts may be empty; choices nest. `{slot}` is filled from outside. Parentheses without
a bar in them are ordinary parentheses. A backslash takes the meaning from the character behind it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")

_SLOT = re.compile(r"\{([a-z][a-z0-9_]*)\}")


class GrammarError(ValueError):
    """A sentence pattern that cannot be read; the message says why and at which character."""


@dataclass(frozen=True)
class _Slot:
    name: str


@dataclass(frozen=True)
class _Choice:
    options: tuple[tuple[_Part, ...], ...]


_Part = str | _Slot | _Choice


@dataclass(frozen=True)
class Pattern:
    """A sentence pattern, read once.

    text: as it was written
    """

    text: str
    parts: tuple[_Part, ...]

    @property
    def slots(self) -> tuple[str, ...]:
        """The names of its slots, each once, in the order of the text."""
        return tuple(dict.fromkeys(_slots(self.parts)))

    @property
    def wordings(self) -> int:
        """How many wordings it has, slots not counted."""
        return _wordings(self.parts)

    def expand(self, rng: random.Random, fill: Mapping[str, str]) -> str:
        """Return one wording. Raises KeyError for a slot that `fill` does not have."""
        return "".join(_expand(self.parts, rng, fill))


def read_pattern(text: str) -> Pattern:
    """Read a sentence pattern. Raises GrammarError for a bracket that is not closed or a slot that has no name."""
    parts, place = _sequence(text, 0, nested=False)
    if place < len(text):
        raise GrammarError(f"`)` at character {place + 1} closes nothing; write \\) for the character itself")
    return Pattern(text, parts)


def read_patterns(texts: Sequence[str]) -> tuple[Pattern, ...]:
    """Read several patterns."""
    return tuple(read_pattern(text) for text in texts)


def as_sentence(text: str) -> str:
    """Return a text with single spaces and a capital at its beginning."""
    text = " ".join(text.split())
    return text[:1].upper() + text[1:]


def in_words(text: str) -> str:
    """Return a sentence as it stands within another one: without its capital (unless it is a name's) and its stop."""
    text = text.strip().removesuffix(".")
    first = text.split(" ", 1)[0]
    # "I", "HB-12", "UTC": what is not written as Xxxx keeps its letters.
    return text[:1].lower() + text[1:] if first[1:].islower() or first == "A" else text


def _sequence(text: str, place: int, *, nested: bool) -> tuple[tuple[_Part, ...], int]:
    """Read until the end, or in a choice until the `|` or `)` that ends this part."""
    parts: list[_Part] = []
    plain = ""
    while place < len(text):
        character = text[place]
        if character in "|)" and nested:
            break
        if character == ")":
            return _joined(parts, plain), place
        part, taken = _part(text, place)
        if isinstance(part, str):
            plain += part
        else:
            parts += [plain, part] if plain else [part]
            plain = ""
        place += taken
    return _joined(parts, plain), place


def _part(text: str, place: int) -> tuple[_Part, int]:
    """Return what stands at `place` and how many characters it takes."""
    character = text[place]
    if character == "\\":
        if place + 1 == len(text):
            raise GrammarError("a backslash at the end takes the meaning from nothing")
        return text[place + 1], 2
    if character == "{":
        match = _SLOT.match(text, place)
        if match is None:
            raise GrammarError(
                f"`{{` at character {place + 1} opens no slot; write {{name}}, or \\{{ for the character"
            )
        return _Slot(match[1]), match.end() - place
    if character == "(":
        return _choice(text, place)
    return character, 1


def _choice(text: str, place: int) -> tuple[_Part, int]:
    options: list[tuple[_Part, ...]] = []
    start = place
    while True:
        parts, place = _sequence(text, place + 1, nested=True)
        options.append(parts)
        if place == len(text):
            raise GrammarError(f"`(` at character {start + 1} is not closed; write \\( for the character itself")
        if text[place] == ")":
            break
    if len(options) == 1:  # Ordinary parentheses.
        return _Choice((("(", *options[0], ")"),)), place + 1 - start
    return _Choice(tuple(options)), place + 1 - start


def _joined(parts: list[_Part], plain: str) -> tuple[_Part, ...]:
    return (*parts, plain) if plain else tuple(parts)


def _slots(parts: Sequence[_Part]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, _Slot):
            yield part.name
        elif isinstance(part, _Choice):
            for option in part.options:
                yield from _slots(option)


def _wordings(parts: Sequence[_Part]) -> int:
    count = 1
    for part in parts:
        if isinstance(part, _Choice):
            count *= sum(_wordings(option) for option in part.options)
    return count


def _expand(parts: Sequence[_Part], rng: random.Random, fill: Mapping[str, str]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, str):
            yield part
        elif isinstance(part, _Slot):
            yield fill[part.name]
        else:
            yield from _expand(pick(rng, part.options), rng, fill)


def shuffled(rng: random.Random, items: Sequence[Item]) -> list[Item]:
    """Return the items in an order drawn from `rng` (by `random` alone, whose stream Python promises to keep)."""
    order = sorted((rng.random(), place) for place in range(len(items)))
    return [items[place] for _, place in order]


def pick(rng: random.Random, items: Sequence[Item]) -> Item:
    """Return one of the items (by `random` alone, as `shuffled`)."""
    return items[int(rng.random() * len(items))]
