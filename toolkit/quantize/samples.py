"""Examples of a run's data that a proof compares on: held-out ones, which training never saw, and trained ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.config import FinetuneConfig
from toolkit.config_files import load_config
from toolkit.datasets.formats import load_splits
from toolkit.datasets.schema import Example, Message
from toolkit.errors import ToolkitError
from toolkit.runs import RunFolder

_EACH = 64


@dataclass(frozen=True)
class Samples:
    """Examples of the data, none where there are no data (any more).

    held_out: of the validation and test data
    training: of what was trained on
    """

    held_out: tuple[Example, ...] = ()
    training: tuple[Example, ...] = ()

    @property
    def all(self) -> tuple[Example, ...]:
        """Both, the held-out ones first."""
        return (*self.held_out, *self.training)

    @property
    def conversations(self) -> list[tuple[Message, ...]]:
        """The conversations without tools."""
        return [example.messages for example in self.all if example.text is None and not example.uses_tools]


def read_samples(run_folder: Path | None) -> Samples:
    """Take up to 64 examples of each kind from a run's data, evenly spread over them."""
    if run_folder is None:
        return Samples()
    try:
        config = load_config(FinetuneConfig, RunFolder(run_folder).config_path)
        splits = load_splits(config.data, config.train.seed)
    except ToolkitError:
        return Samples()
    return Samples(spread([*splits.validation, *splits.test]), spread(splits.train))


def spread(examples: Sequence[Example], count: int = _EACH) -> tuple[Example, ...]:
    """Choose `count` examples (all, if there are no more) at even distances."""
    step = max(1.0, len(examples) / count)
    return tuple(examples[int(number * step)] for number in range(min(count, len(examples))))
