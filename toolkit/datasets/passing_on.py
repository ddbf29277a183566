"""Records with their examples, for commands that pass records on: everything must be readable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from toolkit.config import DataConfig
from toolkit.datasets.lines import read_values
from toolkit.datasets.problems import condense
from toolkit.datasets.records import example_from_record
from toolkit.datasets.schema import Example
from toolkit.datasets.validation.sources import Source
from toolkit.errors import Problem, ToolkitError


def read_records(sources: Sequence[Source], data: DataConfig) -> Iterator[tuple[dict[str, Any], Example]]:
    """Yield every record as it stands in the files, with the example that it is read as.

    Raises:
        ToolkitError: at the end, everything that is wrong with the files, gathered, each with file and line.
    """
    problems: list[Problem] = []
    count = 0
    for source in sources:
        for where, value in read_values(source.path, problems, unique_keys=True):
            try:
                example = example_from_record(value, data, where)
            except ToolkitError as error:
                problems.extend(error.problems)
                continue
            assert isinstance(value, dict)
            count += 1
            yield value, example
    if not count and not problems:
        problems.append(Problem("there are no examples", ", ".join(str(source.path) for source in sources)))
    if problems:
        raise ToolkitError.gather(condense(problems))
