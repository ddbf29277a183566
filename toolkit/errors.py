"""The one error that reaches a user: what is wrong, where it is, what to type next.

Library code raises `ToolkitError` (a bad request, exit code 2) or `JobFailed` (the request was fine, the job was not,
exit code 1). Only `toolkit.commands` turns either into text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    what:  the fault, in the words of the user's file or flag.
    where: a path, `path:line`, or a config key; empty when the fault has no place.
    hint:  what to type or change next; empty when there is nothing useful to say.
    """

    what: str
    where: str = ""
    hint: str = ""

    def __str__(self) -> str:
        """Render as one line: `where: what. hint`."""
        place = f"{self.where}: " if self.where else ""
        advice = f". {self.hint}" if self.hint else ""
        return f"{place}{self.what}{advice}"


class ToolkitError(Exception):
    """A bad request. Carries every problem found, not only the first."""

    exit_code = 2

    def __init__(self, what: str, *, where: object = "", hint: str = "") -> None:
        """Describe one problem; use `gather` for several."""
        self.problems: tuple[Problem, ...] = (Problem(what, str(where), hint),)
        super().__init__(str(self.problems[0]))

    @classmethod
    def gather(cls, problems: Sequence[Problem]) -> ToolkitError:
        """Bundle several problems into one error that prints one line for each."""
        if not problems:
            raise ValueError("gather needs at least one problem")
        first = problems[0]
        error = cls(first.what, where=first.where, hint=first.hint)
        error.problems = tuple(problems)
        error.args = ("\n".join(str(problem) for problem in problems),)
        return error


class JobFailed(ToolkitError):
    """The request was understood but the job could not be done (full disk, out of memory, failed gate)."""

    exit_code = 1
