"""What tests of validation share: clean records that we did not write, and one call that judges files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from toolkit.config import DataConfig
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.datasets.validation.sources import find_sources
from toolkit.datasets.validation.thresholds import Thresholds
from toolkit.datasets.validation.validate import Request, Validation, validate
from toolkit.models import find_model

EXCERPT = Path(__file__).resolve().parents[2] / "data" / "gsm8k_excerpt"


def clean_records(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Return questions and answers of GSM8K's excerpt as instruction records."""
    lines = (EXCERPT / "train.jsonl").read_text("utf-8").splitlines()[start : start + count]
    pairs = [json.loads(line) for line in lines]
    return [
        {
            "instruction": pair["question"],
            "input": "",
            "output": pair["answer"],
            "metadata": {
                "id": f"clean-{start + number}",
                "category": "sums",
                "difficulty": 0.5,
                "preservation": "flexible",
                "key": f"gsm8k:{start + number}",
                "verified": True,
            },
        }
        for number, pair in enumerate(pairs)
    ]


def write(path: Path, records: Iterable[dict[str, Any] | bytes]) -> Path:
    """Write records as lines; bytes go in as they are."""
    with path.open("wb") as file:
        for record in records:
            file.write(record if isinstance(record, bytes) else json.dumps(record).encode() + b"\n")
    return path


def judged(*paths: Path, tokens: bool = False, max_tokens: int | None = None, **limits: Any) -> Validation:
    """Judge files, without counting tokens unless asked for."""
    against = tuple(limits.pop("against", ()))
    tokenizer = Tokenizer.load(find_model("nano").folder) if tokens else None
    data = DataConfig(**limits.pop("data", {}))
    return validate(Request(find_sources(paths), data, Thresholds(**limits), tokenizer, max_tokens, against))


def found(validation: Validation, kind: str) -> list[str]:
    """Return the places of one kind of finding, without folders."""
    return [finding.where.rpartition("/")[2] for finding in validation.findings.of_kind(kind)]
