"""Examples out of files, where everything that cannot be read is a finding and reading goes on."""

from __future__ import annotations

from collections.abc import Iterator

from toolkit.config import DataConfig
from toolkit.datasets.lines import read_values
from toolkit.datasets.records import example_from_record
from toolkit.datasets.schema import Example
from toolkit.datasets.validation.findings import Findings
from toolkit.datasets.validation.sources import Source
from toolkit.errors import Problem, ToolkitError


class Reading:
    """Reads sources one after the other.

    Attributes:
        records: how many records have been met, those that could not be read included
    """

    def __init__(self, data: DataConfig, findings: Findings) -> None:
        """Read by the mapping in `data`; put what is wrong into `findings`."""
        self.records = 0
        self._data, self._findings = data, findings

    def examples(self, source: Source) -> Iterator[Example]:
        """Yield the examples of one file that can be read."""
        problems: list[Problem] = []
        for where, value in read_values(source.path, problems, unique_keys=True):
            self._report(problems)
            self.records += 1
            try:
                yield example_from_record(value, self._data, where)
            except ToolkitError as error:
                for problem in error.problems:
                    self._findings.add(_record_kind(problem.what), where, problem.what, problem.hint)
        self._report(problems)

    def _report(self, problems: list[Problem]) -> None:
        for problem in problems:
            kind = _reading_kind(problem.what)
            self.records += kind != "duplicate-key"
            self._findings.add(kind, problem.where, problem.what, problem.hint)
        problems.clear()


def _reading_kind(what: str) -> str:
    """Tell the reader's problems apart by its own words."""
    if what.startswith("the key "):
        return "duplicate-key"
    if "UTF-" in what:
        return "encoding"
    return "long-line" if what.startswith("the line is longer") else "unreadable"


def _record_kind(what: str) -> str:
    """Tell an example that holds nothing to learn from one that is malformed, likewise."""
    nothing = ("nothing to learn", "is empty", "empty turn", "an empty text", "empty assistant turn")
    return "empty" if any(words in what for words in nothing) else "record"
