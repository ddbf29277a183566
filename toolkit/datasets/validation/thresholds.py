"""How much of each fault is too much: the config of `toolkit dataset validate` and `report`.

The limits on diversity and on shares are set from GSM8K and the Alpaca seed tasks, not from the toolkit's own data:
within a factor of two of the worse of those two, and no share below 1 %. `scripts/dataset_thresholds.py` measures the
two sets and checks that the defaults are what this rule gives. Those of `max_category_share` and of the counts are
judgement: neither set has categories, and one leak is one too many.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from toolkit.config import Section


class Thresholds(Section):
    """What is looked for, and from when on a dataset fails. Shares are of the examples, 0 to 1."""

    max_unreadable: int = Field(default=0, ge=0)
    """Lines and records that cannot be read: JSON, UTF-8, length, fields, nothing to learn."""
    max_duplicate_keys: int = Field(default=0, ge=0)
    """Objects with a key that stands in them twice."""
    max_template_faults: int = Field(default=0, ge=0)
    """Conversations that the model's chat template refuses."""
    max_tokens: int | None = Field(default=None, gt=1)
    """Longest example in tokens. Default: the model's context, at most 2,048."""
    max_over_long_share: float = Field(default=0.023, ge=0, le=1)
    """Examples longer than `max_tokens`."""
    max_exact_duplicate_share: float = Field(default=0.01, ge=0, le=1)
    """Examples that repeat an earlier one word for word."""
    near_duplicate_jaccard: float = Field(default=0.8, gt=0, le=1)
    """Two examples are near duplicates from this similarity of their word trigrams on."""
    max_near_duplicate_share: float = Field(default=0.01, ge=0, le=1)
    """Examples that nearly repeat an earlier one."""
    max_leaks: int = Field(default=0, ge=0)
    """Examples of one split whose text, near duplicate or semantic key stands in another."""
    contamination_words: int = Field(default=8, ge=2)
    """Words in a row that count as taken from an evaluation set (--against)."""
    contamination_overlap: float = Field(default=0.5, gt=0, le=1)
    """Share of an evaluation question's runs of words that an example must hold to be contaminated."""
    max_contaminated: int = Field(default=0, ge=0)
    """Examples that hold a question of an evaluation set."""
    max_conflict_share: float = Field(default=0.01, ge=0, le=1)
    """Examples whose question has another answer elsewhere."""
    labels: tuple[str, ...] | None = Field(default=None, strict=False)
    """The categories that there are. Default: any; a rare one spelt nearly like a common one is found all the same."""
    max_label_faults: int = Field(default=0, ge=0)
    """Examples with a category that is not one of `labels`, or a misspelt one."""
    max_metadata_faults: int = Field(default=0, ge=0)
    """Examples with metadata of the wrong type or out of range, or an id given twice."""
    max_category_share: float = Field(default=0.5, gt=0, le=1)
    """Examples of the largest category, where there are several: label balance."""
    language: str | None = None
    """The language that the data should be in, as an ISO 639-1 code. Default: the commonest one."""
    max_other_language_share: float = Field(default=0.01, ge=0, le=1)
    """Examples in another language."""
    max_secrets: int = Field(default=0, ge=0)
    """Examples with a password, token or key in them."""
    max_personal_data_share: float = Field(default=0.023, ge=0, le=1)
    """Examples with an e-mail address, a phone, card, account or social security number."""
    max_answer_fault_share: float = Field(default=0.01, ge=0, le=1)
    """Answers that speak as a chatbot, break off, repeat the question, or refer to what is not there."""
    max_repetitive_share: float = Field(default=0.01, ge=0, le=1)
    """Answers that repeat themselves."""
    no_system_prompt: tuple[str, ...] = Field(default=("context",), strict=False)
    """Categories whose examples must do without a system prompt, since they teach what it says."""
    max_system_prompt_faults: int = Field(default=0, ge=0)
    """Examples of those categories that have one, and answers that quote their system prompt at length."""
    min_template_entropy: float = Field(default=0.5, ge=0, le=1)
    """Variety of the questions' templates (numbers, names, quotations out): 1 when all of a hundred differ."""
    max_template_share: float = Field(default=0.012, gt=0, le=1)
    """Examples that share the commonest template."""
    max_opening_share: float = Field(default=0.044, gt=0, le=1)
    """Examples whose question begins with the commonest three words."""
    min_distinct_trigrams: float = Field(default=0.46, ge=0, le=1)
    """Distinct word trigrams among two thousand of them, taken from examples at random."""


@dataclass(frozen=True)
class Check:
    """One threshold compared with what was found.

    name:  of the threshold
    limit: its value
    value: what was measured; None where the data cannot say (no categories, too few examples)
    """

    name: str
    limit: float
    value: float | None

    @property
    def good(self) -> bool:
        """Whether the dataset keeps within the limit."""
        if self.value is None:
            return True
        return self.value >= self.limit if self.name.startswith("min_") else self.value <= self.limit

    def __str__(self) -> str:
        """Render as one line: what was measured against what is allowed."""
        sign = "at least" if self.name.startswith("min_") else "at most"
        return f"{self.name}: {_figure(self.value)}, {sign} {_figure(self.limit)} asked for"


def _figure(value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
