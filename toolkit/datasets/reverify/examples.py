"""Check mathematical examples again, from their own text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from toolkit.datasets.reverify.arithmetic import fault_in_arithmetic
from toolkit.datasets.reverify.expressions import Unread

Verdict = Literal["right", "wrong", "unread"]

CATEGORIES = ("arithmetic", "algebra")
"""The categories that can be checked."""


@dataclass(frozen=True)
class Finding:
    """What a second look found: `unread` is no verdict, the question or the answer is in words that are not known."""

    verdict: Verdict
    why: str = ""


def reverify(record: Mapping[str, Any]) -> Finding:
    """Work out a question from its text and compare the answer, every line of it.

    Args:
        record: an instruction record whose `metadata.category` is one of `CATEGORIES`; nothing else of the metadata is
            looked at.
    """
    question = f"{record['instruction']}\n{record.get('input') or ''}".strip()
    category = record["metadata"]["category"]
    try:
        if category == "arithmetic":
            why = fault_in_arithmetic(question, record["output"])
        elif category == "algebra":
            from toolkit.datasets.reverify.algebra import fault_in_algebra  # SymPy: half a second to import

            why = fault_in_algebra(question, record["output"])
        else:
            return Finding("unread", f"{category} is not mathematics")
    except (Unread, ZeroDivisionError) as reason:
        return Finding("unread", str(reason) or "a division by zero in the answer")
    return Finding("wrong", why) if why else Finding("right")
