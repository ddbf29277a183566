"""The core set: its size, its bytes, and that a split of it has nothing on both sides."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

from toolkit.config import DataConfig
from toolkit.datasets.generate.generation import make_set, read_counts
from toolkit.datasets.generate.registry import generators
from toolkit.datasets.records import example_from_record
from toolkit.datasets.splitting import assign_splits
from toolkit.datasets.validation.sources import Source
from toolkit.datasets.validation.thresholds import Thresholds
from toolkit.datasets.validation.validate import Request, validate
from toolkit.datasets.writing import write_records

GENERATORS = generators()
RECORDS = list(make_set(GENERATORS, read_counts((), GENERATORS), 1))

# Of what `toolkit dataset generate --seed 1 --out FILE.jsonl` writes. A change of a generator's words changes it:
# then the report in docs/core-set and the figures in docs/datasets.md are to be made again (`make dataset`).
SHA_256 = "44bcb53a611636e1ceffc06145236416c9ff5789fdf4c5737f157fecf568bbb9"


def test_seed_1_gives_the_bytes_that_are_pinned(tmp_path):
    write_records(tmp_path / "core.jsonl", RECORDS)
    assert hashlib.sha256((tmp_path / "core.jsonl").read_bytes()).hexdigest() == SHA_256


def test_every_category_is_there_within_its_counts():
    counts = Counter(record["metadata"]["category"] for record in RECORDS)
    assert list(counts) == [name for name in GENERATORS if name != "reasoning"]
    assert 1_000 <= len(RECORDS) <= 5_000
    stated = {
        "procedures": (500, 1_000),
        "definitions": (200, 500),
        "context": (200, 500),
        "tagging": (100, 300),
        "compliance": (100, 300),
        "process": (100, 300),
    }
    for name, (low, high) in stated.items():
        assert low <= counts[name] <= high, name


def test_its_split_is_80_to_20_in_every_category_and_passes_validation_without_a_leak(tmp_path):
    examples = [example_from_record(record, DataConfig(), str(n)) for n, record in enumerate(RECORDS)]
    splits = assign_splits(examples, {"train": 80, "valid": 20}, 1)
    sides = {
        name: [r for r, split in zip(RECORDS, splits, strict=True) if split == name] for name in ("train", "valid")
    }
    for name, records in sides.items():
        write_records(tmp_path / f"{name}.jsonl", records)
    everything = Counter(record["metadata"]["category"] for record in RECORDS)
    held_out = Counter(record["metadata"]["category"] for record in sides["valid"])
    for name, count in everything.items():
        assert abs(held_out[name] / count - 0.2) < 0.02, name
    keys = [{record["metadata"]["key"] for record in records} for records in sides.values()]
    assert not keys[0] & keys[1]
    sources = [Source(tmp_path / "train.jsonl", "train"), Source(tmp_path / "valid.jsonl", "validation")]
    validation = validate(Request(sources, DataConfig(), Thresholds()))
    assert [str(check) for check in validation.checks if not check.good] == []
    assert validation.findings.count("leak-text", "leak-key", "exact-duplicate", "conflict", "metadata") == 0


def test_questions_are_varied_far_beyond_what_is_asked_for():
    openings = Counter(" ".join(str(r.get("instruction", "")).split()[:3]) for r in RECORDS if "instruction" in r)
    assert openings.most_common(1)[0][1] / len(RECORDS) < 0.03
    answers = Counter(json.dumps(r.get("output", r.get("messages"))) for r in RECORDS)
    assert len(answers) > 0.25 * len(RECORDS)
