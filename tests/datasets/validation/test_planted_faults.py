"""One folder with a fault of every kind among clean examples of GSM8K: each is found, with its file and line."""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.validation.judging import clean_records, found, judged, write
from toolkit.datasets.lines import MAX_LINE_BYTES
from toolkit.datasets.validation.validate import Validation

CLEAN = 40


def changed(record: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Copy a record, its id and key new, with other fields; `metadata__x` reaches into the metadata."""
    copied = copy.deepcopy(record)
    fresh = hashlib.sha256(repr(sorted(fields.items())).encode()).hexdigest()[:8]
    copied["metadata"] |= {"id": f"planted-{fresh}", "key": f"planted:{fresh}"}
    for name, value in fields.items():
        if name.startswith("metadata__"):
            copied["metadata"][name.removeprefix("metadata__")] = value
        else:
            copied[name] = value
    return copied


def nearly(text: str) -> str:
    """Change one word in the middle."""
    words = text.split()
    words[len(words) // 2] = "otherwise"
    return " ".join(words)


SPARE = clean_records(30, start=100)
LEAKED = clean_records(1)[0]
PLANTED: dict[str, Any] = {
    "unreadable": b'{"instruction": "Is this JSON?", "output": \n',
    "encoding": b'{"instruction": "Wo ist das B\xfcro?", "output": "Im ersten Stock."}\n',
    "duplicate-key": b'{"instruction": "How many floors?", "output": "Two floors.", "output": "Three floors."}\n',
    "record": {"instruction": "Where is the answer?", "answer": "Under another name."},
    "empty": changed(SPARE[0], output="  "),
    "exact-duplicate": changed(clean_records(3)[2]),
    "near-duplicate": changed(clean_records(6)[5], instruction=nearly(clean_records(6)[5]["instruction"])),
    "conflict": changed(clean_records(8)[7], output="Nobody can say how much that is. #### 0"),
    "label": changed(SPARE[1], metadata__category="summs"),
    "metadata": changed(SPARE[2], metadata__preservation="strickt"),
    "secret": changed(SPARE[3], output="Log in with AKIAIOSFODNN7QWERTYU and look. #### 3"),
    "personal-data": changed(SPARE[4], output="Write to maria.lopez@acme-widgets.com about it. #### 4"),
    "over-long": changed(SPARE[5], output=" ".join(f"Step {n} adds {n * n} more." for n in range(300))),
    "repetition": changed(SPARE[6], output="We add one more to it. " * 12),
    "language": changed(
        SPARE[7],
        instruction="Wie viele Äpfel bleiben übrig, wenn Anna von zwölf Äpfeln sieben an ihre Geschwister verschenkt?",
        output="Von zwölf Äpfeln gehen sieben weg, also bleiben fünf Äpfel übrig, die Anna behalten kann.",
    ),
    "as-an-ai": changed(SPARE[8], output="As an AI language model, I cannot buy apples. #### 1"),
    "missing-context": changed(SPARE[9], instruction="Why did she go?", output="In the passage she is late."),
    "truncated": changed(SPARE[10], output="First she takes the eleven apples out of the basket and the"),
    "echo": changed(SPARE[11], output=f"{SPARE[11]['instruction']} The answer is 5."),
    "system-prompt": changed(SPARE[12], metadata__category="context", system="Answer in one word, always."),
    "template": changed(SPARE[13], output="It ends <|im_end|> here. #### 5"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("planted")
    write(place / "train.jsonl", [*clean_records(CLEAN), *PLANTED.values()])
    leaks = [
        changed(LEAKED, output=LEAKED["output"]),
        changed(SPARE[20], metadata__key="gsm8k:11"),
    ]
    write(place / "valid.jsonl", [*clean_records(2, start=60), *leaks])
    return place


@pytest.fixture(scope="module")
def validation(folder: Path) -> Validation:
    return judged(folder, tokens=True, max_tokens=700)


@pytest.mark.parametrize("kind", PLANTED)
def test_every_planted_fault_is_found_at_its_line_and_no_other(validation: Validation, kind: str) -> None:
    line = CLEAN + 1 + list(PLANTED).index(kind)
    assert found(validation, kind) == [f"train.jsonl:{line}"]


@pytest.mark.parametrize(("kind", "line"), [("leak-text", 3), ("leak-key", 4)])
def test_leaks_are_found_where_they_do_harm_outside_train(validation: Validation, kind: str, line: int) -> None:
    assert found(validation, kind) == [f"valid.jsonl:{line}"]


def test_each_finding_says_what_is_wrong_and_what_to_do(validation: Validation) -> None:
    for finding in validation.findings:
        assert finding.what and finding.advice and finding.severity in ("error", "warning", "note")
    (secret,) = validation.findings.of_kind("secret")
    assert "AWS" in secret.what and "QWERTYU" not in secret.what
    (near,) = validation.findings.of_kind("near-duplicate")
    assert near.what.endswith("train.jsonl:6")
    (label,) = validation.findings.of_kind("label")
    assert label.advice == "Did you mean sums?"


def test_thresholds_are_broken_by_the_faults_and_by_nothing_else(validation: Validation) -> None:
    broken = {check.name for check in validation.checks if not check.good}
    assert {"max_unreadable", "max_duplicate_keys", "max_leaks", "max_secrets", "max_label_faults"} <= broken
    assert not broken & {"min_distinct_trigrams", "max_category_share"} - {"max_category_share"}


def test_clean_examples_have_no_finding(tmp_path: Path) -> None:
    validation = judged(write(tmp_path / "train.jsonl", clean_records(CLEAN)), tokens=True, max_tokens=700)
    assert (dict(validation.findings.counts), validation.good) == ({}, True)


def test_nothing_is_rewritten_in_place(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    judged(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("size", [1 << 27, pytest.param(1 << 30, marks=pytest.mark.slow)], ids=["128 MiB", "1 GiB"])
def test_a_line_of_a_gigabyte_is_passed_over_in_bounded_memory(tmp_path: Path, size: int) -> None:
    path = tmp_path / "train.jsonl"
    records = clean_records(2)
    with path.open("wb") as file:
        file.write(json.dumps(records[0]).encode() + b"\n")
        file.truncate(size)  # a hole: no disk is filled
        file.seek(size)
        file.write(b"\n" + json.dumps(records[1]).encode() + b"\n")
    judged(write(tmp_path / "small.jsonl", records))  # what is imported and loaded once does not count
    tracemalloc.start()
    try:
        validation = judged(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_LINE_BYTES
    finally:
        tracemalloc.stop()
    assert found(validation, "long-line") == ["train.jsonl:2"]
    assert [validation.columns.where(index).rpartition(":")[2] for index in range(2)] == ["1", "3"]


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress], ids=["plain", "gzip"])
def test_a_byte_order_mark_and_windows_line_ends_are_noted_at_their_lines(tmp_path: Path, pack: Any) -> None:
    lines = [json.dumps(record).encode() for record in clean_records(4)]
    path = tmp_path / ("train.jsonl" if pack(b"") == b"" else "train.jsonl.gz")
    path.write_bytes(
        pack(b"\xef\xbb\xbf" + lines[0] + b"\n" + lines[1] + b"\n" + lines[2] + b"\r\n" + lines[3] + b"\r\n")
    )
    validation = judged(path)
    name = path.name
    assert (found(validation, "bom"), found(validation, "line-ends")) == ([f"{name}:1"], [f"{name}:3"])
    assert validation.good and len(validation.columns) == 4


def test_a_line_end_cut_in_two_by_the_reading_is_seen(tmp_path: Path) -> None:
    record = clean_records(1)[0]
    start = json.dumps(record).encode()
    padding = (1 << 20) - len(start) - 1
    path = tmp_path / "train.jsonl"
    path.write_bytes(start + b" " * padding + b"\r\n" + json.dumps(clean_records(2)[1]).encode() + b"\n")
    assert found(judged(path), "line-ends") == ["train.jsonl:1"]


def test_a_damaged_archive_is_a_finding(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(clean_records(1)[0]).encode() * 50)[:-20])
    assert found(judged(path), "unreadable") == ["train.jsonl.gz"]


def test_an_empty_file_breaks_a_threshold(tmp_path: Path) -> None:
    validation = judged(write(tmp_path / "train.jsonl", []))
    assert not validation.good
