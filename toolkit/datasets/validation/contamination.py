"""Whether training data hold the questions of an evaluation set: shared runs of words.

GPT-3's authors looked for runs of 13 words (Brown et al. 2020, arXiv:2005.14165, appendix C). Instruction data are
shorter, so 8 is the default. A question counts as found when an example holds half of its runs.
Runs that many questions share are phrases.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.config import DataConfig
from toolkit.datasets.fields import suggest_mapping
from toolkit.datasets.lines import read_values
from toolkit.datasets.problems import condense
from toolkit.datasets.records import example_from_record
from toolkit.datasets.schema import Example
from toolkit.datasets.validation.shingles import Numbers, number_words, whole_ngrams
from toolkit.datasets.validation.sources import find_sources
from toolkit.datasets.validation.texts import answer_of, prompt_of, words_of
from toolkit.errors import Problem, ToolkitError

_PHRASE_QUESTIONS = 10


class EvaluationSet:
    """The questions of one or more files, as numbers of their runs of words."""

    def __init__(self, paths: Sequence[Path], data: DataConfig, run_words: int) -> None:
        """Read the files by the mapping in `data`.

        Raises:
            ToolkitError: everything that is wrong with the files, gathered.
        """
        self.run_words = run_words
        self.places: list[str] = []
        questions = self._read(paths, data)
        # A question that is shorter than a run is one run of its own length, found only as a whole question.
        self._short = {" ".join(words): index for index, words in enumerate(questions) if len(words) < run_words}
        runs, owner = whole_ngrams(number_words(questions), run_words)
        pairs = np.unique(np.stack([runs, owner.astype(np.uint64)]), axis=1)
        runs, owner = pairs[0], pairs[1].astype(np.int64)
        counts = np.unique(runs, return_counts=True)[1]
        rare = np.repeat(counts <= _PHRASE_QUESTIONS, counts)
        self._runs, self._owner = runs[rare], owner[rare]
        self._totals = np.bincount(self._owner, minlength=len(questions))

    def _read(self, paths: Sequence[Path], data: DataConfig) -> list[list[str]]:
        problems: list[Problem] = []
        questions: list[list[str]] = []
        for source in find_sources(paths):
            for where, value in read_values(source.path, problems):
                try:
                    example = _read_question(value, data, where)
                except ToolkitError as error:
                    problems.extend(error.problems)
                    continue
                questions.append(words_of(prompt_of(example) or answer_of(example)))
                self.places.append(where)
        if problems:
            raise ToolkitError.gather(condense(problems))
        return questions

    def find(
        self, texts: Sequence[Sequence[str]], prompts: Sequence[Sequence[str]], overlap: float
    ) -> list[tuple[int, str, float]]:
        """Return (index of the text, place of the question that it holds, share of the question's runs held).

        Args:
            texts: whole examples, as words.
            prompts: their questions, as words.
            overlap: least share, 0..1.
        """
        found: list[tuple[int, str, float]] = []
        for index, prompt in enumerate(prompts):
            question = self._short.get(" ".join(prompt)) if len(prompt) < self.run_words else None
            if question is not None:
                found.append((index, self.places[question], 1.0))
        runs, owner = whole_ngrams(number_words(texts), self.run_words)
        for text, question, count in zip(*self._hits(runs, owner), strict=True):
            share = float(count / self._totals[question])
            if share >= overlap:
                found.append((int(text), self.places[question], share))
        return sorted(found, key=lambda item: item[0])

    def _hits(self, runs: Numbers, owner: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Return (text, question, number of different runs that both hold), one of each for every pair that meets."""
        low, high = np.searchsorted(self._runs, runs, "left"), np.searchsorted(self._runs, runs, "right")
        met = np.flatnonzero(high > low)
        if not len(met):
            nothing = np.zeros(0, dtype=np.int64)
            return nothing, nothing, nothing
        counts = high[met] - low[met]
        places = np.repeat(low[met], counts) + np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        # The same run may stand in a text twice: count the places in the evaluation set, each once.
        pairs = np.unique(np.stack([np.repeat(owner[met], counts), places]), axis=1)
        met_pairs, times = np.unique(np.stack([pairs[0], self._owner[pairs[1]]]), axis=1, return_counts=True)
        return met_pairs[0], met_pairs[1], times


def _read_question(value: object, data: DataConfig, where: str) -> Example:
    """Read a record by the mapping, or by the one that its own fields suggest: benchmarks name theirs as they like."""
    try:
        return example_from_record(value, data, where)
    except ToolkitError:
        suggested = suggest_mapping(value) if isinstance(value, dict) else None
        if suggested is None:
            raise
        fields = {name.removeprefix("data."): path for name, path in suggested.items()}
        return example_from_record(value, DataConfig.model_validate(fields), where)
