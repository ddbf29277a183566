"""Whether an example's metadata are what they say: types, ranges, levels, labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from toolkit.preservation import PRESERVATION_LEVELS

_TEXTS = ("id", "category", "source")
_RARE_SHARE = 0.05
_RARE_COUNT = 3


def judge_metadata(metadata: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (what is wrong, what to do) for each field of the metadata that is not as docs/datasets.md has it."""
    for name in _TEXTS:
        value = metadata.get(name)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            yield f"{name} is {_short(value)}, not text", f"Give {name} as text"
    key = metadata.get("key")
    if key is not None and (isinstance(key, bool) or not isinstance(key, str | int) or key == ""):
        yield f"key is {_short(key)}, not text", "Give key as text: examples that share it stay in one split"
    difficulty = metadata.get("difficulty")
    if difficulty is not None and not _is_share(difficulty):
        yield f"difficulty is {_short(difficulty)}, not a number from 0 to 1", "Scale it to 0 to 1"
    level = metadata.get("preservation")
    if level is not None and level not in PRESERVATION_LEVELS:
        near = get_close_matches(str(level), PRESERVATION_LEVELS, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Levels: {', '.join(PRESERVATION_LEVELS)}"
        yield f"preservation is {_short(level)}", hint
    verified = metadata.get("verified")
    if verified is not None and not isinstance(verified, bool):
        yield f"verified is {_short(verified)}, not true or false", "Give true or false"


def wrong_labels(counts: Mapping[str, int], known: Sequence[str] | None) -> dict[str, str]:
    """Return, for each category that must be a mistake, what to do about it.

    With `known` that is every other category. Without it: one that few examples have and that is spelt nearly like one
    that many have.
    """
    if known is not None:
        return {name: _nearest(name, known) for name in counts if name not in known}
    wrong = {}
    for name, count in counts.items():
        common = [other for other, many in counts.items() if count <= max(_RARE_COUNT, _RARE_SHARE * many) < many / 2]
        near = get_close_matches(name, [other for other in common if other != name], n=1, cutoff=0.8)
        if near:
            wrong[name] = f"Did you mean {near[0]}?"
    return wrong


def _nearest(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"Labels: {', '.join(known)}"


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
