"""Measure GSM8K and the Alpaca seed tasks, and check that the shipped thresholds are what their figures give.

    python -m scripts.dataset_thresholds [--data ../shared/data]

A limit is within a factor of two of the worse of the two sets; a share is never asked to be below 1 %. Upper limits are
rounded up to two digits, lower ones down. Exit code 1 when a default differs.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from toolkit.config import DataConfig
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.datasets.validation.sources import find_sources
from toolkit.datasets.validation.thresholds import Thresholds
from toolkit.datasets.validation.validate import Request, Validation, validate
from toolkit.models import find_model

SETS = {
    "GSM8K": ("gsm8k", DataConfig(prompt="question", completion="answer")),
    "Alpaca": (
        "alpaca_seed_tasks/seed_tasks.jsonl",
        DataConfig(prompt="instruction", input="instances.0.input", completion="instances.0.output"),
    ),
}
JUDGED = {"max_category_share"}
LEAST_SHARE = 0.01


def measure(folder: Path) -> dict[str, Validation]:
    """Judge both sets with the bundled model's tokens and its limit."""
    facts = find_model("nano")
    tokenizer = Tokenizer.load(facts.folder)
    limits = Thresholds()
    return {
        name: validate(Request(find_sources([folder / place]), data, limits, tokenizer, facts.context))
        for name, (place, data) in SETS.items()
    }


def limit_from(name: str, values: list[float]) -> float:
    """Apply the rule to the figures of the sets."""
    if name.startswith("min_"):
        return _rounded(min(values) / 2, math.floor)
    return _rounded(max(2 * max(values), LEAST_SHARE), math.ceil)


def _rounded(value: float, rounding) -> float:
    scale = 10 ** (1 - math.floor(math.log10(value)))
    return rounding(round(value * scale, 6)) / scale


def main() -> int:
    """Print a table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    measured = measure(parser.parse_args().data)
    wrong = 0
    print(f"| threshold | {' | '.join(measured)} | limit |\n| --- | {'--- | ' * len(measured)}--- |")
    for name, info in Thresholds.model_fields.items():
        values = [check.value for judged in measured.values() for check in judged.checks if check.name == name]
        if info.annotation is not float or name in JUDGED or not values or any(value is None for value in values):
            continue
        found = [value for value in values if value is not None]
        limit = limit_from(name, found)
        wrong += limit != info.default
        remark = "" if limit == info.default else f" (shipped: {info.default})"
        print(f"| `{name}` | {' | '.join(f'{value:.4g}' for value in found)} | {limit:g}{remark} |")
    for name, judged in measured.items():
        print(f"{name}: {len(judged.columns):,} examples, findings {dict(judged.findings.counts)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
