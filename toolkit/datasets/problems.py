"""A dataset may be wrong in ten thousand lines: say each thing once, with its lines, and stop after a screenful."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.errors import Problem

SHOWN_PROBLEMS = 20
"""Lines printed of one dataset's problems; the rest is counted."""

_SHOWN_ALIKE = 3
_LISTED_LINES = 10


def condense(problems: Sequence[Problem]) -> list[Problem]:
    """Fold a complaint that comes often into one line; after `SHOWN_PROBLEMS` lines, count the rest."""
    alike: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        alike.setdefault((problem.what, problem.hint), []).append(problem)
    condensed: list[Problem] = []
    for same in alike.values():
        if len(same) <= _SHOWN_ALIKE:
            condensed.extend(same)
            continue
        lines = ", ".join(problem.where.rsplit(":", 1)[-1] for problem in same[1 : _LISTED_LINES + 1])
        dots = ", …" if len(same) > _LISTED_LINES + 1 else ""
        what = f"{same[0].what} (and on {len(same) - 1} more lines: {lines}{dots})"
        condensed.append(Problem(what, same[0].where, same[0].hint))
    rest = len(condensed) - SHOWN_PROBLEMS
    return condensed if rest <= 0 else [*condensed[:SHOWN_PROBLEMS], Problem(f"… and {rest} more problems")]
