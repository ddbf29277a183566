"""Measure one target on one suite, and compare targets that answered the same questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

from toolkit.datasets.chat import tokenize_examples
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.evaluate.exact_match import Answer, answer_questions, exact_match
from toolkit.evaluate.intervals import PairedDifference, paired_difference
from toolkit.evaluate.nearest import NearestQuestion
from toolkit.evaluate.perplexity import ExampleLoss, example_losses, perplexity
from toolkit.evaluate.questions import OVERALL, ask_all, families_of, with_overall
from toolkit.evaluate.results import EvaluationRow, make_row
from toolkit.evaluate.suites import Suite
from toolkit.protocols import Scorer

if TYPE_CHECKING:
    from toolkit.gguf_backend.tokenizer import GgufTokenizer

NEAREST = "nearest question"
Item = TypeVar("Item")


@dataclass(frozen=True)
class Evaluation:
    """What one target did on a suite.

    answers:   one for each of the suite's questions, in order
    losses:    one for each example with a trained token; empty for the baseline
    truncated: examples whose perplexity was measured on their beginning only
    dropped:   examples without perplexity, since their prompt alone fills the context
    """

    target: str
    suite: Suite
    answers: tuple[Answer, ...]
    losses: tuple[ExampleLoss, ...]
    loss_families: tuple[str, ...]
    truncated: int = 0
    dropped: int = 0

    def rows(self) -> list[EvaluationRow]:
        """Summarise by family and overall; the families first, in alphabetical order."""
        rows: list[EvaluationRow] = []
        answer_families = [question.family for question in self.suite.questions]
        for family in with_overall([*answer_families, *self.loss_families]):
            answers = _of_family(self.answers, answer_families, family)
            if answers:
                rows.append(make_row(self.target, self.suite.name, family, "exact_match", exact_match(answers)))
            losses = _of_family(self.losses, self.loss_families, family)
            if sum(loss.weight_sum for loss in losses) > 0:
                rows.append(make_row(self.target, self.suite.name, family, "perplexity", perplexity(losses)))
        return rows


def _of_family(items: Sequence[Item], named: Sequence[str], family: str) -> list[Item]:
    return [item for item, name in zip(items, named, strict=True) if family in (OVERALL, name)]


def evaluate_scorer(
    target: str,
    scorer: Scorer,
    tokenizer: Tokenizer | GgufTokenizer,
    suite: Suite,
    *,
    context: int,
    batch_size: int = 32,
    advance: Callable[[int], None] | None = None,
) -> Evaluation:
    """Measure exact match and perplexity of one opened target.

    context: longest sequence in tokens; longer examples are truncated for perplexity, and counted
    advance: called with the units of work done; there are `work_units(suite)` in all
    """
    # A .gguf's tokenizer has the same face: what `tokenize_examples` calls, it offers.
    tokenized = tokenize_examples(suite.examples, cast(Tokenizer, tokenizer), context)
    losses = example_losses(scorer, tokenized.examples, pad_id=tokenizer.pad_id or 0, advance=advance)
    answers = answer_questions(
        scorer, tokenizer, suite.questions, context=context, batch_size=batch_size, advance=advance
    )
    named = families_of(suite.examples)
    by_place = {example.where: family for example, family in zip(suite.examples, named, strict=True)}
    loss_families = tuple(by_place[example.where] for example in tokenized.examples)
    return Evaluation(
        target, suite, tuple(answers), tuple(losses), loss_families, tokenized.truncated, len(tokenized.dropped)
    )


def work_units(suite: Suite) -> int:
    """Count the calls' worth of work that `evaluate_scorer` reports through `advance`."""
    return len(suite.examples) + len(suite.questions)


def evaluate_nearest(suite: Suite) -> Evaluation:
    """Measure the nearest-question baseline; it has no perplexity. Raises ValueError without training questions."""
    answers = NearestQuestion(ask_all(suite.training)).answer_questions(suite.questions)
    return Evaluation(NEAREST, suite, tuple(answers), (), ())


@dataclass(frozen=True)
class Comparison:
    """`second` against `first` on one family, example by example."""

    first: str
    second: str
    family: str
    exact_match: PairedDifference


def compare(first: Evaluation, second: Evaluation) -> list[Comparison]:
    """Pair two evaluations of the same suite, family by family. Raises ValueError when their questions differ."""
    if first.suite.questions != second.suite.questions:
        raise ValueError("only evaluations of the same questions can be paired")
    named = [question.family for question in first.suite.questions]
    comparisons = []
    for family in with_overall(named) if named else []:
        before = [answer.correct for answer in _of_family(first.answers, named, family)]
        after = [answer.correct for answer in _of_family(second.answers, named, family)]
        comparisons.append(Comparison(first.target, second.target, family, paired_difference(before, after)))
    return comparisons
