"""What validation remembers of every example: about a hundred bytes of numbers, never its text."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from toolkit.datasets.validation.shingles import Numbers

NO_NUMBER = float("nan")


class Names:
    """Numbers names as they come, from 0."""

    def __init__(self) -> None:
        """Start empty."""
        self._numbers: dict[str, int] = {}

    def number(self, name: str) -> int:
        """Return the number of a name, a new one for a new name."""
        return self._numbers.setdefault(name, len(self._numbers))

    def all(self) -> list[str]:
        """Return the names in the order of their numbers."""
        return list(self._numbers)


class Columns:
    """One row for each example, column by column.

    Numbers that stand for texts are 64 bits, 0 where there is no text. `category`, `language` and `split` are numbers
    of the `Names` of the same kind, -1 for a missing category.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.categories, self.languages, self.splits = Names(), Names(), Names()
        self._files = Names()
        self._file, self._line = array("i"), array("q")
        self.split, self.category, self.language = array("i"), array("i"), array("i")
        self.content, self.prompt, self.answer = array("Q"), array("Q"), array("Q")
        self.key, self.identity = array("Q"), array("Q")
        self.template, self.opening = array("Q"), array("Q")
        self.tokens, self.prompt_words, self.answer_words = array("i"), array("i"), array("i")
        self.difficulty = array("d")

    def __len__(self) -> int:
        return len(self._line)

    def put_place(self, where: str) -> None:
        """Append the place of an example, `file:12`, `file:row 12` or `file:item 12`."""
        start, _, end = where.rpartition(":")
        label, space, number = end.rpartition(" ")
        self._file.append(self._files.number(f"{start}:{label}{space}"))
        self._line.append(int(number))

    def where(self, index: int) -> str:
        """Return the place of an example as it was put."""
        return f"{self._files.all()[self._file[index]]}{self._line[index]}"


def numbers(column: array) -> Numbers:
    """Return a column of 64-bit numbers as an array (N,) uint64, a copy."""
    return np.array(column, dtype=np.uint64)


def groups(column: Numbers, skip: int = 0) -> Iterator[NDArray[np.int64]]:
    """Yield the indices of each value that stands more than once, in their order; `skip` is no value.

    The value that stands first in the column comes first.
    """
    order = np.argsort(column, kind="stable")
    ordered = column[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, dtype=np.int64)
    ends = np.r_[starts[1:], len(ordered)]
    several = (ends - starts > 1) & (ordered[starts] != np.uint64(skip))
    starts, ends = starts[several], ends[several]
    for place in np.argsort(order[starts], kind="stable"):
        yield order[starts[place] : ends[place]]
