"""Preservation levels: what may happen to a piece of text once it is kept. Shared by the data and the memory."""

from __future__ import annotations

from typing import Literal, get_args

Preservation = Literal["strict", "moderate", "flexible"]

PRESERVATION_LEVELS: tuple[Preservation, ...] = get_args(Preservation)
"""From the level that protects most to the one that protects least."""

PRESERVATION_MEANINGS: dict[Preservation, str] = {
    "strict": "never altered, summarised, merged or evicted; always quoted word for word",
    "moderate": "may be condensed or merged; the original stays in its history",
    "flexible": "may expire by age, use and budget",
}
