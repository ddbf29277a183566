"""Which examples a target is measured on: a split of a dataset, or a file as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from toolkit.config import DataConfig
from toolkit.datasets.formats import data_label, load_splits, read_examples
from toolkit.datasets.randomness import permutation
from toolkit.datasets.schema import Example
from toolkit.errors import ToolkitError
from toolkit.evaluate.questions import Question, ask_all

SplitName = Literal["train", "validation", "test", "all"]
# A number of its own, so that the draw does not depend on those that split the data.
_LIMIT_SUITE = 301


@dataclass(frozen=True)
class Suite:
    """Held-out examples under a name.

    name:      the data and its split, e.g. `starter/validation`
    examples:  what is measured
    available: examples that the split has; more than are measured where a limit cut it
    training:  what a run on this data learns from (the nearest-question baseline answers from it)
    """

    name: str
    examples: tuple[Example, ...]
    available: int
    training: tuple[Example, ...] = ()

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """The examples that ask something."""
        return tuple(ask_all(self.examples))


def load_suite(data: DataConfig, seed: int, split: SplitName, max_examples: int | None = None) -> Suite:
    """Read a dataset and choose the examples to measure on.

    seed:         the run's, so that a share held out of its training data is the one that it never saw
    split:        `all` takes a single file as it is, without splitting it
    max_examples: measure at most this many, drawn by seed; default: `data.max_validation_examples`

    Raises ToolkitError with everything that is wrong with the data, or when the split is empty.
    """
    limit = max_examples or data.max_validation_examples
    name = data_label(data.path)
    if split == "all":
        examples = read_examples(data.path, data)
        return Suite(name, tuple(_limit(examples, limit, seed)), len(examples))
    # Everything is read, then limited here, so that the limit says how much it left out.
    splits = load_splits(data.model_copy(update={"max_validation_examples": 1 << 40}), seed)
    examples = {"train": splits.train, "validation": splits.validation, "test": splits.test}[split]
    if not examples:
        others = [other for other in ("validation", "test", "train") if getattr(splits, other)]
        raise ToolkitError(f"there is no {split} split", where=data.path, hint=f"Choose another: --split {others[0]}")
    chosen = _limit(examples, limit, seed)
    return Suite(f"{name}/{split}", tuple(chosen), len(examples), tuple(splits.train))


def _limit(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """Keep `count` examples drawn by seed, in the data's order."""
    if count >= len(examples):
        return list(examples)
    return [examples[index] for index in sorted(permutation(len(examples), seed, _LIMIT_SUITE)[:count])]
