"""One pass over a dataset: every record read, judged and measured; then comparisons, figures, thresholds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toolkit.config import DataConfig
from toolkit.datasets.schema import Example
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.datasets.validation.answers import judge_answer, quotes_system_prompt
from toolkit.datasets.validation.columns import NO_NUMBER, Columns, numbers
from toolkit.datasets.validation.comparing import compare_examples
from toolkit.datasets.validation.contamination import EvaluationSet
from toolkit.datasets.validation.diversity import Diversity, measure_diversity
from toolkit.datasets.validation.findings import Findings
from toolkit.datasets.validation.language import language_of
from toolkit.datasets.validation.metadata import judge_metadata
from toolkit.datasets.validation.near import NearIndex
from toolkit.datasets.validation.personal import personal_data
from toolkit.datasets.validation.reading import Reading
from toolkit.datasets.validation.rendering import count_tokens
from toolkit.datasets.validation.secrets import secrets_in
from toolkit.datasets.validation.sources import SPLITS, Source, note_marks
from toolkit.datasets.validation.texts import (
    answer_of,
    content_number,
    count_words,
    number_of,
    opening_of,
    prompt_of,
    question_of,
    system_of,
    template_of,
    words_of,
)
from toolkit.datasets.validation.thresholds import Check, Thresholds
from toolkit.datasets.validation.verdict import check_thresholds

_BATCH = 256
_KEPT_TEXTS = 4_000
_KEPT_CHARACTERS = 120
_MOST_SHOWN = 100


@dataclass(frozen=True)
class Request:
    """What to judge, and by what.

    sources:    the files, with their splits
    data:       the mapping of fields
    thresholds: what to look for, and how much of it is too much
    tokenizer:  of the model whose tokens are counted and whose template must render; None: neither is done
    max_tokens: longest example; None: no limit
    evaluation: files whose questions must not stand in the data
    """

    sources: Sequence[Source]
    data: DataConfig
    thresholds: Thresholds
    tokenizer: Tokenizer | None = None
    max_tokens: int | None = None
    evaluation: Sequence[Path] = ()


@dataclass(frozen=True, eq=False)
class Validation:
    """What was found and measured.

    findings:  what is wrong, by kind
    checks:    every threshold with what was measured
    columns:   what is known of each example that could be read
    records:   how many records there were, those that could not be read included
    diversity: how varied the examples are
    language:  the language that they are in; None where it cannot be told
    templates: the commonest templates of questions with their counts, the commonest first
    openings:  the commonest first words, likewise
    """

    findings: Findings
    checks: tuple[Check, ...]
    columns: Columns
    records: int
    diversity: Diversity
    language: str | None
    templates: tuple[tuple[str, int], ...]
    openings: tuple[tuple[str, int], ...]

    @property
    def good(self) -> bool:
        """Whether every threshold is kept."""
        return all(check.good for check in self.checks)


def validate(request: Request, progress: Callable[[int], None] = lambda _: None) -> Validation:
    """Judge a dataset.

    Memory stays bounded: texts are seen a batch at a time, what is kept of each example is a few hundred bytes, and its
    trigrams lie in a temporary file.

    Args:
        request: what to judge.
        progress: told after every batch how many examples have been read.

    Raises:
        ToolkitError: the evaluation set cannot be read. What is wrong with the data themselves is a finding.
    """
    with ExitStack() as stack:
        near = stack.enter_context(NearIndex())
        judge = _Judge(request, near)
        for batch in judge.batches():
            judge.take(batch)
            progress(len(judge.columns))
        return judge.conclude()


class _Judge:
    """The state of one pass."""

    def __init__(self, request: Request, near: NearIndex) -> None:
        self.request, self.near = request, near
        self.findings, self.columns = Findings(), Columns()
        self.reading = Reading(request.data, self.findings)
        limits = request.thresholds
        self.evaluation = (
            EvaluationSet(request.evaluation, request.data, limits.contamination_words) if request.evaluation else None
        )
        self._texts: dict[int, str] = {}
        for split in SPLITS:
            if any(source.split == split for source in request.sources):
                self.columns.splits.number(split)

    # ---- reading

    def batches(self) -> Iterator[list[tuple[Example, str]]]:
        """Yield examples with their splits, a batch at a time; what cannot be read becomes findings."""
        batch: list[tuple[Example, str]] = []
        for source in self.request.sources:
            note_marks(source.path, self.findings)
            for example in self.reading.examples(source):
                batch.append((example, source.split))
                if len(batch) == _BATCH:
                    yield batch
                    batch = []
        yield batch

    # ---- judging

    def take(self, batch: list[tuple[Example, str]]) -> None:
        """Judge and measure a batch of examples."""
        if not batch:
            return
        texts, prompts = [], []
        for example, split in batch:
            prompt, answer = prompt_of(example), answer_of(example)
            prompt_words, answer_words = words_of(prompt), words_of(answer)
            texts.append([*prompt_words, *answer_words])
            prompts.append(prompt_words or answer_words)
            self._remember(example, split, (prompt, prompt_words), (answer, answer_words))
            self._judge(example, prompt, answer, prompt_words, answer_words)
            self.columns.language.append(self.columns.languages.number(language_of(f"{prompt}\n{answer}", texts[-1])))
        self.near.add(texts)
        self._count_tokens([example for example, _ in batch])
        if self.evaluation is not None:
            self._compare_with_evaluation([example.where for example, _ in batch], texts, prompts)

    def _remember(
        self, example: Example, split: str, asked: tuple[str, list[str]], answered: tuple[str, list[str]]
    ) -> None:
        """Put an example's numbers into the columns; `asked` and `answered` are texts with their words."""
        columns, (prompt, prompt_words), (answer, answer_words) = self.columns, asked, answered
        columns.put_place(example.where)
        columns.split.append(columns.splits.number(split))
        columns.category.append(-1 if example.category is None else columns.categories.number(example.category))
        columns.content.append(content_number(example))
        system = system_of(example)
        columns.prompt.append(number_of(f"{system}\0{' '.join(prompt_words)}") if prompt_words else 0)
        columns.answer.append(number_of(" ".join(answer_words)))
        columns.key.append(0 if example.key is None else number_of(example.key))
        identity = example.metadata.get("id")
        columns.identity.append(0 if identity is None else number_of(str(identity)))
        template = template_of(question_of(example))
        columns.template.append(self._kept(template))
        columns.opening.append(self._kept(opening_of(template)))
        columns.prompt_words.append(count_words(prompt))
        columns.answer_words.append(count_words(answer))
        difficulty = example.metadata.get("difficulty")
        columns.difficulty.append(float(difficulty) if isinstance(difficulty, int | float) else NO_NUMBER)

    def _kept(self, text: str) -> int:
        """Return the number of a text, and remember the beginnings of the first few thousand for showing them."""
        if not text:
            return 0
        number = number_of(text)
        if len(self._texts) < _KEPT_TEXTS:
            self._texts.setdefault(number, text[:_KEPT_CHARACTERS])
        return number

    def _judge(
        self, example: Example, prompt: str, answer: str, prompt_words: list[str], answer_words: list[str]
    ) -> None:
        where, add = example.where, self.findings.add
        for kind, what in judge_answer(example, prompt, answer, prompt_words, answer_words):
            add(kind, where, what)
        for what, hint in judge_metadata(example.metadata):
            add("metadata", where, what, hint)
        system = system_of(example)
        if system and example.category in self.request.thresholds.no_system_prompt:
            add("system-prompt", where, f"an example of {example.category!r} has a system prompt")
        elif system and quotes_system_prompt(words_of(system), answer_words):
            add("system-prompt", where, "the answer quotes its system prompt", "Answer without repeating the rules")
        # As it was said, since the words of every turn count, not only those of the last.
        said = "\n".join(part for part in (system, prompt, answer) if part)
        for kind, things in (("secret", secrets_in(said)), ("personal-data", personal_data(said))):
            named = dict(things)
            if named:
                add(kind, where, ", ".join(f"{name}: {value}" for name, value in named.items()))

    def _count_tokens(self, examples: list[Example]) -> None:
        tokenizer, limit = self.request.tokenizer, self.request.max_tokens
        if tokenizer is None:
            self.columns.tokens.extend([0] * len(examples))
            return
        counts = count_tokens(examples, tokenizer, self.findings)
        self.columns.tokens.extend(counts)
        for example, count in zip(examples, counts, strict=True):
            if limit is not None and count > limit:
                self.findings.add("over-long", example.where, f"{count:,} tokens, {limit:,} at most are trained")

    def _compare_with_evaluation(self, places: list[str], texts: list[list[str]], prompts: list[list[str]]) -> None:
        assert self.evaluation is not None
        overlap = self.request.thresholds.contamination_overlap
        for index, question, share in self.evaluation.find(texts, prompts, overlap):
            self.findings.add("contamination", places[index], f"holds {share:.0%} of the question {question}")

    # ---- concluding

    def conclude(self) -> Validation:
        """Compare the examples with each other, measure them, and hold all of it against the thresholds."""
        limits, columns = self.request.thresholds, self.columns
        clusters = self.near.clusters(limits.near_duplicate_jaccard)
        language = compare_examples(columns, clusters, self.findings, limits.labels, limits.language)
        diversity = measure_diversity(
            numbers(columns.content), numbers(columns.template), numbers(columns.opening), self.near.trigrams
        )
        checks = check_thresholds(limits, self.findings, columns, self.reading.records, diversity)
        return Validation(
            findings=self.findings,
            checks=checks,
            columns=columns,
            records=self.reading.records,
            diversity=diversity,
            language=language,
            templates=self._commonest(numbers(columns.template)),
            openings=self._commonest(numbers(columns.opening)),
        )

    def _commonest(self, column: np.ndarray, count: int = 8) -> tuple[tuple[str, int], ...]:
        values, counts = np.unique(column[column != 0], return_counts=True)
        order = np.argsort(-counts, kind="stable")[:_MOST_SHOWN]
        best = [(self._texts.get(int(values[i]), ""), int(counts[i])) for i in order]
        return tuple(sorted((pair for pair in best if pair[0]), key=lambda pair: (-pair[1], pair[0]))[:count])
