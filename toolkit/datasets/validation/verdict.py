"""Findings and figures against thresholds."""

from __future__ import annotations

from collections import Counter

from toolkit.datasets.validation.columns import Columns
from toolkit.datasets.validation.diversity import Diversity
from toolkit.datasets.validation.findings import Findings
from toolkit.datasets.validation.thresholds import Check, Thresholds

_COUNTS = {
    "max_unreadable": ("unreadable", "encoding", "long-line", "record", "empty"),
    "max_duplicate_keys": ("duplicate-key",),
    "max_template_faults": ("template",),
    "max_leaks": ("leak-text", "leak-key"),
    "max_contaminated": ("contamination",),
    "max_label_faults": ("label",),
    "max_metadata_faults": ("metadata",),
    "max_secrets": ("secret",),
    "max_system_prompt_faults": ("system-prompt",),
}
_SHARES = {
    "max_over_long_share": ("over-long",),
    "max_exact_duplicate_share": ("exact-duplicate",),
    "max_near_duplicate_share": ("near-duplicate",),
    "max_conflict_share": ("conflict",),
    "max_other_language_share": ("language",),
    "max_personal_data_share": ("personal-data",),
    "max_answer_fault_share": ("as-an-ai", "missing-context", "truncated", "echo"),
    "max_repetitive_share": ("repetition",),
}


def check_thresholds(
    limits: Thresholds, findings: Findings, columns: Columns, records: int, diversity: Diversity
) -> tuple[Check, ...]:
    """Compare every threshold with what was found, in the order in which they are declared."""
    values: dict[str, float | None] = {name: findings.count(*kinds) for name, kinds in _COUNTS.items()}
    if not records:
        values["max_unreadable"] = max(1, findings.count(*_COUNTS["max_unreadable"]))
    examples = len(columns)
    for name, kinds in _SHARES.items():
        values[name] = findings.count(*kinds) / examples if examples else None
    values["max_category_share"] = _largest_category_share(columns)
    values["min_template_entropy"] = diversity.template_entropy
    # Of a handful of examples every share is large.
    enough = diversity.template_entropy is not None
    values["max_template_share"] = diversity.template_share if enough else None
    values["max_opening_share"] = diversity.opening_share if enough else None
    values["min_distinct_trigrams"] = diversity.distinct_trigrams
    names = [name for name in type(limits).model_fields if name in values]
    return tuple(Check(name, getattr(limits, name), values[name]) for name in names)


def _largest_category_share(columns: Columns) -> float | None:
    counts = Counter(number for number in columns.category if number >= 0)
    return max(counts.values()) / counts.total() if len(counts) > 1 else None
