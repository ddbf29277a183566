"""`toolkit dataset generate` and `init`: what is written, what is refused, and that nothing half remains."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from toolkit.cli import main
from toolkit.config import DataConfig
from toolkit.datasets.formats import read_examples
from toolkit.datasets.generate import generation
from toolkit.datasets.generate.registry import generators

FEW = ("--count", "definitions=12", "--count", "context=12", "--count", "memory=12")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["dataset", *(str(argument) for argument in arguments)])


def written(out: Path, *arguments: object) -> list[dict]:
    result = run("generate", "--out", out, *arguments)
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


def test_only_the_named_categories_are_made_in_the_set_s_own_order(tmp_path):
    records = written(tmp_path / "deep" / "a.jsonl", "--count", "memory=3", "--count", "definitions=2")
    assert [record["metadata"]["category"] for record in records] == ["definitions"] * 2 + ["memory"] * 3


def test_seeds_decide_and_the_default_is_1(tmp_path):
    first = written(tmp_path / "a.jsonl", *FEW)
    assert written(tmp_path / "b.jsonl", *FEW, "--seed", 1) == first
    assert written(tmp_path / "c.jsonl", *FEW, "--seed", 2) != first


def test_a_dry_run_shows_counts_and_statistics_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("generate", "--dry-run", "--out", "x.jsonl", *FEW)
    assert result.exit_code == 0
    assert "nothing written (--dry-run): 36 examples" in result.stderr
    for word in ("definitions", "verified", "difficulty", "strict/moderate/flexible", "12", "36"):
        assert word in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_stays_unless_overwrite_is_given(tmp_path):
    out = tmp_path / "a.jsonl"
    out.write_text("mine\n")
    result = run("generate", "--out", out, *FEW)
    assert result.exit_code == 2 and "the file exists" in result.stderr and "--overwrite" in result.stderr
    assert out.read_text() == "mine\n"
    assert len(written(out, *FEW, "--overwrite")) == 36


def test_an_interruption_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    out = tmp_path / "a.jsonl"
    out.write_text("mine\n")
    made = generation.make_set

    def interrupted(*arguments, **named):
        for number, record in enumerate(made(*arguments, **named)):
            if number == 20:
                raise KeyboardInterrupt
            yield record

    monkeypatch.setattr("toolkit.commands.dataset_generate.make_set", interrupted)
    result = run("generate", "--out", out, "--overwrite", *FEW)
    assert result.exit_code == 130 and "interrupted" in result.stderr
    assert out.read_text() == "mine\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".json", ".parquet"])
def test_every_kind_of_file_holds_the_same_examples(tmp_path, suffix):
    def examples(path: Path) -> list[tuple]:
        read = read_examples(path, DataConfig())
        return [(example.messages, example.tools, example.key, example.category) for example in read]

    written(tmp_path / "a.jsonl", *FEW)
    for name in ("one", "two"):
        assert run("generate", "--out", tmp_path / f"{name}{suffix}", *FEW).exit_code == 0
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
    assert examples(tmp_path / f"one{suffix}") == examples(tmp_path / "a.jsonl")


def test_a_packed_file_holds_no_time(tmp_path):
    run("generate", "--out", tmp_path / "a.jsonl.gz", *FEW)
    packed = (tmp_path / "a.jsonl.gz").read_bytes()
    assert packed[4:8] == bytes(4) and gzip.decompress(packed).count(b"\n") == 36


def test_a_table_has_one_row_for_each_example(tmp_path):
    run("generate", "--out", tmp_path / "a.parquet", *FEW)
    assert pq.read_table(tmp_path / "a.parquet").num_rows == 36


def test_messages_are_asked_for_by_format(tmp_path):
    records = written(tmp_path / "a.jsonl", *FEW, "--format", "messages")
    assert all(set(record) <= {"messages", "tools", "metadata"} for record in records)
    plain = read_examples(tmp_path / "a.jsonl", DataConfig())
    written(tmp_path / "b.jsonl", *FEW)
    assert [example.messages for example in plain] == [
        example.messages for example in read_examples(tmp_path / "b.jsonl", DataConfig())
    ]


def test_all_mistakes_are_told_at_once(tmp_path):
    result = run(
        "generate", "--out", tmp_path / "a.jsonl",
        *("--count", "definitons=3", "--count", "memory", "--count", "memory=0"),
        *("--count", "process=2", "--count", "process=3"),
    )  # fmt: skip
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "error: --count definitons=3: no category named definitons. Did you mean definitions?",
        "error: --count memory: expected category=N, N a whole number above 0. Such as --count process=100",
        "error: --count memory=0: expected category=N, N a whole number above 0. Such as --count process=100",
        "error: --count process=3: process is counted twice",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--out: where to? No file is named. For example: --out examples.jsonl, or --dry-run"),
        (("--out", "a.txt"), "a.txt: the name does not say which kind of file to write"),
        (("--out", "."), ".: the name does not say which kind of file to write"),
        (("--dry-run", "--from", "none.yaml"), "none.yaml: cannot be read: No such file or directory"),
        (("--dry-run", "--cycle", "none.yaml"), "none.yaml: cannot be read: No such file or directory"),
        (("--dry-run", "--from", "a", "--cycle", "b"), "--cycle belongs to the toolkit's own categories"),
    ],
)
def test_refusals(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run("generate", *arguments)
    assert result.exit_code == 2 and message in result.stderr and "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_says_what_every_option_does_and_its_default():
    text = " ".join(run("generate", "--help").stdout.split())
    for option in (
        "--out",
        "--count",
        "--seed",
        "--from",
        "--cycle",
        "--reasoning",
        "--format",
        "--dry-run",
        "--overwrite",
    ):
        assert option in text
    for name, generator in generators().items():
        assert (f"{name}={generator.default_count}" in text) == (generator.default_count > 0)
    assert "[default: 1;" in text and "[default: records]" in text


def test_families_of_reasoning_gym_are_added_by_name_and_not_made_otherwise(tmp_path):
    records = written(tmp_path / "a.jsonl", "--count", "tagging=3", "--reasoning", "gcd", "--reasoning", "lcm")
    kinds = [record["metadata"]["kind"] for record in records[3:]]
    assert len(kinds) == 40 and set(kinds) == {"gcd", "lcm"}
    few = written(tmp_path / "b.jsonl", "--count", "reasoning=4", "--reasoning", "gcd")
    assert [record["metadata"]["category"] for record in few] == ["reasoning"] * 4
    assert "reasoning" not in generation.read_counts((), generators())
    wrong = run("generate", "--dry-run", "--reasoning", "gdc", "--reasoning", "lcmm")
    assert wrong.exit_code == 2 and wrong.stderr.splitlines() == [
        "error: --reasoning gdc: no family named gdc. Did you mean gcd?",
        "error: --reasoning lcmm: no family named lcmm. Did you mean lcm?",
    ]


def test_a_size_outside_what_a_category_is_meant_for_is_said():
    result = run("generate", "--dry-run", "--count", "process=5")
    assert "note: process is meant for 100 to 300 examples" in result.stderr


def test_init_writes_a_file_that_generate_takes_and_overwrites_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("init", "mine")
    assert result.exit_code == 0 and "toolkit dataset generate --from mine/team.yaml --dry-run" in result.stdout
    records = written(tmp_path / "team.jsonl", "--from", "mine/team.yaml")
    assert {record["metadata"]["category"] for record in records} == {"definitions", "procedures", "context", "tools"}
    assert all(record["metadata"]["source"] == "team.yaml" for record in records)
    Path("mine/team.yaml").write_text("terms: []\n")
    again = run("init", "mine")
    assert again.exit_code == 2 and "exists already" in again.stderr and "--force" in again.stderr
    assert Path("mine/team.yaml").read_text() == "terms: []\n"
    assert run("init", "mine", "--force").exit_code == 0
    Path("file").write_text("")
    assert "this is a file, not a folder" in run("init", "file").stderr


def test_stages_of_ones_own_are_taken_by_cycle(tmp_path):
    stage = "agent: a, purpose: p, hands_over: h, protocol: r, when_it_fails: f"
    (tmp_path / "c.yaml").write_text(f"name: PQ\nstages:\n  - {{name: Plan, {stage}}}\n  - {{name: Query, {stage}}}\n")
    records = written(tmp_path / "a.jsonl", "--cycle", tmp_path / "c.yaml", "--count", "process=20")
    assert "Observe" not in json.dumps(records)


def test_the_hash_seed_does_not_matter(tmp_path):
    digests = set()
    sizes = {name: 10 if name == "python" else 60 for name in generators() if name != "reasoning"}
    counts = [word for name, size in sizes.items() for word in ("--count", f"{name}={size}")]
    for hash_seed in ("0", "4711"):
        out = tmp_path / f"{hash_seed}.jsonl"
        subprocess.run(
            [sys.executable, "-m", "toolkit", "dataset", "generate", "--out", out, *counts],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            cwd=Path(__file__).parents[2],
        )
        digests.add(hashlib.sha256(out.read_bytes()).hexdigest())
    assert len(digests) == 1
