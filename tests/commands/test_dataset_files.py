"""split, convert, dedupe and inspect, from the command line."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.validation.judging import clean_records, write
from tests.small_runs import toolkit


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    records = clean_records(50)
    for number, record in enumerate(records):
        record["metadata"]["category"] = ("a", "b")[number % 2]
    return write(tmp_path / "all.jsonl", records)


def test_a_split_has_every_record_once_as_it_was_and_validates_without_leaks(data: Path, tmp_path: Path) -> None:
    ran = toolkit("dataset", "split", data, "--out", tmp_path / "out", "--shares", "80/10/10")
    parts = {name: lines(tmp_path / "out" / f"{name}.jsonl") for name in ("train", "valid", "test")}
    assert ran.exit_code == 0
    assert {name: len(part) for name, part in parts.items()} == {"train": 40, "valid": 5, "test": 5}
    together = [json.dumps(record) for part in parts.values() for record in part]
    assert sorted(together) == sorted(json.dumps(record) for record in lines(data))
    assert ran.stdout.splitlines()[-1].split() == ["all", "40", "5", "5"]
    assert toolkit("dataset", "validate", tmp_path / "out", "--no-tokens").exit_code == 0


def test_the_same_seed_splits_into_the_same_bytes(data: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        toolkit("dataset", "split", data, "--out", tmp_path / name, "--seed", seed, "--suffix", ".jsonl.gz")
    one, two, three = ((tmp_path / name / "valid.jsonl.gz").read_bytes() for name in ("one", "two", "three"))
    assert one == two != three


def test_split_refuses_files_that_exist_and_data_that_cannot_be_read(data: Path, tmp_path: Path) -> None:
    toolkit("dataset", "split", data, "--out", tmp_path / "out")
    ran = toolkit("dataset", "split", data, "--out", tmp_path / "out")
    assert ran.exit_code == 2 and ran.stderr.count("the file exists") == 2
    bad = write(
        tmp_path / "bad.jsonl", [*clean_records(3), b"{\n", {"text": "a", "b": 1}, b'{"text": "a", "text": "b"}\n']
    )
    ran = toolkit("dataset", "split", bad, "--out", tmp_path / "other")
    assert ran.exit_code == 2 and f"{bad}:4: invalid JSON" in ran.stderr and f"{bad}:6: the key 'text'" in ran.stderr
    assert not (tmp_path / "other").exists()


def test_dedupe_writes_a_new_file_and_lists_what_went_and_why(tmp_path: Path) -> None:
    records = clean_records(8)
    words = records[3]["output"].split()
    words[len(words) // 2] = "otherwise"
    near = {**records[3], "output": " ".join(words)}
    data = write(tmp_path / "train.jsonl", [*records, records[1], near])
    before = data.read_bytes()
    ran = toolkit("dataset", "dedupe", data, "--out", tmp_path / "new.jsonl", "--removed", tmp_path / "gone.jsonl")
    assert ran.exit_code == 0 and data.read_bytes() == before
    assert lines(tmp_path / "new.jsonl") == records
    gone = lines(tmp_path / "gone.jsonl")
    assert [(item["where"], item["kind"], item["like"]) for item in gone] == [
        (f"{data}:9", "exact", f"{data}:2"),
        (f"{data}:10", "near", f"{data}:4"),
    ]
    assert f"{data}:9: the same as {data}:2" in ran.stdout
    assert "10 examples, 1 exact and 1 near duplicates taken out" in ran.stdout
    toolkit("dataset", "dedupe", data, "--out", tmp_path / "exact.jsonl", "--exact")
    assert len(lines(tmp_path / "exact.jsonl")) == 9


def test_dedupe_of_several_splits_asks_which(tmp_path: Path) -> None:
    for name in ("train", "valid"):
        write(tmp_path / f"{name}.jsonl", clean_records(2))
    ran = toolkit("dataset", "dedupe", tmp_path, "--out", tmp_path / "new.jsonl")
    assert ran.exit_code == 2 and "train, validation: which of them" in ran.stderr


def test_convert_there_and_back_is_the_same_and_a_loss_is_refused_with_file_and_line(tmp_path: Path) -> None:
    records = clean_records(3)
    data = write(tmp_path / "train.jsonl", records)
    toolkit("dataset", "convert", data, "--to", "sharegpt", "--out", tmp_path / "chat.json")
    ran = toolkit("dataset", "convert", tmp_path / "chat.json", "--to", "instruction", "--out", tmp_path / "back.jsonl")
    assert (ran.exit_code, lines(tmp_path / "back.jsonl")) == (0, records)
    ran = toolkit("dataset", "convert", data, "--to", "text", "--out", tmp_path / "text.jsonl")
    assert ran.exit_code == 2 and f"{data}:1: as text it would lose its turns" in ran.stderr
    assert not (tmp_path / "text.jsonl").exists()
    ran = toolkit("dataset", "convert", data, "--to", "text", "--out", tmp_path / "text.jsonl", "--lossy")
    assert ran.exit_code == 0 and "warning: 3 examples lost its turns" in ran.stderr
    (first, *_) = lines(tmp_path / "text.jsonl")
    assert first["text"].startswith("<|im_start|>user\nNatalia sold clips")


def test_convert_refuses_what_cannot_be_said_and_its_own_input(tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", [{"text": "Just a text."}])
    ran = toolkit("dataset", "convert", data, "--to", "messages", "--out", tmp_path / "new.jsonl")
    assert (ran.exit_code, ran.stderr) == (2, f"error: {data}:1: a plain text has no turns to write as messages\n")
    ran = toolkit("dataset", "convert", data, "--to", "text", "--out", data, "--overwrite")
    assert ran.exit_code == 2 and "nothing is rewritten in place" in ran.stderr


def test_inspect_prints_and_ends_where_there_is_no_terminal(data: Path) -> None:
    ran = toolkit("dataset", "inspect", data)
    assert ran.exit_code == 0 and ran.stdout.count("── ") == 5 and "\x1b[" not in ran.stdout
    assert "<|im_start|>assistant\n«Natalia sold 48/2" in ran.stdout and "#### 72<|im_end|>»" in ran.stdout


def test_inspect_finds_an_example_by_id_line_or_category_and_shows_its_ids(data: Path) -> None:
    by_id = toolkit("dataset", "inspect", data, "--id", "clean-7", "--ids").stdout
    assert by_id == toolkit("dataset", "inspect", data, "--id", "8", "--ids").stdout
    assert f"── {data}:8" in by_id and "category b" in by_id
    ids = by_id.rstrip().splitlines()[-1].split()
    counts = by_id.splitlines()[1].replace(",", "").split()
    assert (len(ids), sum("«" in number for number in ids)) == (int(counts[0]), int(counts[2]))
    only = toolkit("dataset", "inspect", data, "--category", "a", "--skip", "1", "--count", "2").stdout
    assert [line for line in only.splitlines() if line.startswith("──")] == [f"── {data}:3", f"── {data}:5"]
    nothing = toolkit("dataset", "inspect", data, "--id", "nobody")
    assert (nothing.exit_code, nothing.stderr) == (2, "error: no such example. Leave out --id, --category or --skip\n")


def in_a_terminal(arguments: list[str], keys: list[bytes]) -> str:
    """Run the command with a terminal of its own, type a key at every pause; return what it showed."""
    ours, theirs = pty.openpty()
    code = "from toolkit.cli import main; main()"
    ran = subprocess.Popen([sys.executable, "-c", code, *arguments], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        for key in [*keys, b""]:
            # The command drops what was typed before it asked: wait until it has shown something and is silent.
            while select.select([ours], [], [], 1.5 if shown else 60)[0]:
                shown += os.read(ours, 65536)
            os.write(ours, key)
    except OSError:  # Linux says so when the command has ended
        pass
    finally:
        ran.kill()
        ran.wait()
        os.close(ours)
    return shown.decode()


@pytest.mark.slow
def test_inspect_in_a_terminal_colours_what_is_trained_and_ends_at_q(data: Path) -> None:
    shown = in_a_terminal(["dataset", "inspect", str(data)], [b" ", b"q"])
    assert [f"── {data}:{number}" in shown for number in (1, 2, 3)] == [True, True, False]
    green = re.findall(r"\x1b\[32m\x1b\[1m(.*?)\x1b\[0m", shown, re.DOTALL)
    assert len(green) == 2 and green[0].startswith("Natalia sold 48/2") and green[0].endswith("<|im_end|>")
    assert "«" not in shown
