"""Files and folders: Parquet, packed JSON, shards, the hub's folder layout; and what is wrong with them, in words."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.config import DataConfig
from toolkit.datasets.corpus import read_corpus
from toolkit.datasets.folders import split_files
from toolkit.datasets.formats import data_label, load_splits, read_examples
from toolkit.datasets.schema import Example
from toolkit.errors import ToolkitError

WriteJsonl = Callable[..., Path]
GOOD = {"instruction": "Say hello", "output": "Hello"}
MESSAGES = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def said(example: Example) -> list[str]:
    return [message.content for message in example.messages]


def problems_of(path: Path | str, **data: Any) -> list[str]:
    with pytest.raises(ToolkitError) as caught:
        load_splits(DataConfig(path=str(path), **data), 0)
    return [str(problem) for problem in caught.value.problems]


def write_parquet(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = dict.fromkeys(name for row in rows for name in row)
    pq.write_table(pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows]), path, **options)
    return path


def numbered(start: int, count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(start, start + count)]


# ---- Parquet


def test_parquet_is_read_as_the_same_records_in_json_lines_are(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    records = [
        {"messages": MESSAGES, "metadata": {"key": "k"}},
        {"messages": [{"role": "system", "content": "s"}, *MESSAGES], "metadata": {"category": "c"}},
        {"instruction": "Translate", "input": "Hallo", "output": "Hello"},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"text": "naïve café 🙂"},
        {"prompt": "p", "chosen": "c", "rejected": "r"},
    ]
    parquet = read_examples(write_parquet(tmp_path / "data.parquet", records), DataConfig())
    lines = read_examples(write_jsonl(records), DataConfig())
    for ours, theirs in zip(parquet, lines, strict=True):
        assert (ours.messages, ours.text, ours.rejected, ours.metadata) == (
            theirs.messages, theirs.text, theirs.rejected, theirs.metadata,
        )  # fmt: skip
    assert [e.where for e in parquet[:2]] == [f"{tmp_path}/data.parquet:row 1", f"{tmp_path}/data.parquet:row 2"]


def test_arguments_that_a_call_does_not_have_are_not_invented_though_parquet_gives_every_call_all_of_them(
    tmp_path: Path,
) -> None:
    def record(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        calls = [{"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}]
        return {"messages": [MESSAGES[0], {"role": "assistant", "content": None, "tool_calls": calls}]}

    path = write_parquet(tmp_path / "tools.parquet", [record("w", {"city": "Bern"}), record("t", {"zone": {"utc": 1}})])
    assert pq.read_table(path).to_pylist()[0]["messages"][1]["tool_calls"][0]["function"]["arguments"] == {
        "city": "Bern", "zone": None,
    }  # fmt: skip
    calls = [example.messages[1].tool_calls[0] for example in read_examples(path, DataConfig())]
    assert [(call.name, call.arguments) for call in calls] == [("w", {"city": "Bern"}), ("t", {"zone": {"utc": 1}})]


def test_wrong_rows_of_a_parquet_file_are_all_named_by_row(tmp_path: Path) -> None:
    rows = [
        {"messages": None, "price": Decimal("1.5"), "when": None},
        {"messages": MESSAGES, "price": None, "when": None},
        {"messages": MESSAGES[:1], "price": None, "when": None},
    ]
    path = write_parquet(tmp_path / "data.parquet", rows, row_group_size=1)
    lines = problems_of(path)
    assert [line.split(": ")[0] for line in lines] == [f"{path}:row 1", f"{path}:row 3"]
    assert "`messages` must be a list of turns, found null" in lines[0]
    numbers = write_parquet(tmp_path / "numbers.parquet", [{"prompt": 1, "completion": b"bytes"}])
    assert problems_of(numbers) == [
        f"{numbers}:row 1: `prompt` must be text, found a number",
        f"{numbers}:row 1: `completion` must be text, found bytes",
    ]


def test_an_empty_a_cut_and_a_foreign_parquet_file_are_refused_in_one_line(tmp_path: Path) -> None:
    empty = tmp_path / "empty.parquet"
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), empty)
    assert problems_of(empty) == [f"{empty}: the file holds no examples"]
    whole = write_parquet(tmp_path / "whole.parquet", numbered(0, 50)).read_bytes()
    for name, content in {"cut": whole[:-20], "nothing": b"", "text": b"PAR1" + b"x" * 40}.items():
        path = tmp_path / f"{name}.parquet"
        path.write_bytes(content)
        (line,) = problems_of(path)
        assert line.startswith(f"{path}: cannot be read as Parquet: ") and "\n" not in line
    broken = bytearray(whole)
    broken[8:60] = b"\xff" * 52
    (tmp_path / "broken.parquet").write_bytes(bytes(broken))
    assert "cannot be read as Parquet" in problems_of(tmp_path / "broken.parquet")[0]


def test_strings_that_are_not_utf8_are_a_problem_of_the_file(tmp_path: Path) -> None:
    array = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff"))
    pq.write_table(pa.table({"text": array}), tmp_path / "latin.parquet")
    assert "cannot be read as Parquet: 'utf-8' codec" in problems_of(tmp_path / "latin.parquet")[0]


def test_parquet_is_read_in_batches(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "long.parquet", [{"text": f"{i} " + "x" * 2000, "skip": i} for i in range(8000)])
    tracemalloc.start()
    try:
        total = sum(len(json.dumps(document["text"])) for document in _documents(path))
        assert total > 16e6
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()


def _documents(path: Path) -> Any:
    from toolkit.datasets.lines import read_values

    return (value for _, value in read_values(path, []))


# ---- JSON


def test_packed_json_lines_and_lists_are_read(tmp_path: Path) -> None:
    lines = "".join(json.dumps(record) + "\n" for record in numbered(0, 3))
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "valid.json.gz").write_bytes(gzip.compress(json.dumps(numbered(3, 2)).encode()))
    splits = load_splits(DataConfig(path=str(tmp_path)), 0)
    assert [said(e) for e in splits.train] == [["q0", "a0"], ["q1", "a1"], ["q2", "a2"]]
    assert [e.where for e in splits.validation] == [f"{tmp_path}/valid.json.gz:item {i}" for i in (1, 2)]
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(gzip.compress(lines.encode() * 99)[:-9])
    assert "cannot be read: Compressed file ended before" in problems_of(path)[-1]
    path.write_bytes(b"no gzip")
    assert problems_of(path) == [f"{path}: cannot be read: Not a gzipped file (b'no'). Pack or download the file again"]


def test_json_lines_under_the_name_json_are_read_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text("".join(json.dumps(record) + "\n" for record in numbered(0, 2)), encoding="utf-8-sig")
    assert [e.where for e in read_examples(path, DataConfig())] == [f"{path}:1", f"{path}:2"]


def test_nul_bytes_and_escaped_surrogates_are_named_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"text": "a\0b"}\n{"text": "\\ud83d"}\n{"text": "a\\u0000b"}\n')
    lines = problems_of(path, validation=0.0)
    assert [line.split(": ")[0] for line in lines] == [f"{path}:1", f"{path}:2"]
    assert "Invalid control character" in lines[0] and "half of a surrogate pair" in lines[1]


# ---- folders


@pytest.mark.parametrize("place", ["", "data/"])
def test_shards_are_read_in_the_order_of_their_numbers_wherever_the_hub_puts_them(place: str, tmp_path: Path) -> None:
    for number in range(11):
        write_parquet(tmp_path / f"{place}train-{number:05d}-of-00011.parquet", numbered(number, 1))
    write_parquet(tmp_path / f"{place}validation-00000-of-00001-abcdef0123456789.parquet", numbered(50, 2))
    write_parquet(tmp_path / f"{place}test-00000-of-00001.parquet", numbered(60, 3))
    splits = load_splits(DataConfig(path=str(tmp_path)), 0)
    assert [said(e)[0] for e in splits.train] == [f"q{i}" for i in range(11)]
    assert (len(splits.validation), len(splits.test), len(splits.files)) == (2, 3, 13)


def test_a_folder_for_each_split_and_a_folder_of_numbered_files_are_read(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a/train/0000.parquet", numbered(0, 2))
    write_parquet(tmp_path / "a/train/0001.parquet", numbered(2, 2))
    write_parquet(tmp_path / "a/validation/0000.parquet", numbered(4, 1))
    splits = load_splits(DataConfig(path=str(tmp_path / "a")), 0)
    assert [said(e)[0] for e in splits.train + splits.validation] == [f"q{i}" for i in range(5)]
    for number in (10, 9, 1):
        write_parquet(tmp_path / f"b/part-{number}.parquet", numbered(number, 1))
    splits = load_splits(DataConfig(path=str(tmp_path / "b"), validation=0.0), 0)
    assert [said(e)[0] for e in splits.train] == ["q1", "q9", "q10"]


def test_a_missing_shard_is_named_and_nothing_is_trained_on_the_rest(tmp_path: Path) -> None:
    for number in (0, 2):
        write_parquet(tmp_path / f"train-{number:05d}-of-00003.parquet", numbered(number, 1))
    assert "of the train split shard 1 of 3 is missing" in problems_of(tmp_path)[0]


def test_two_files_for_train_are_refused_whatever_their_kind(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    write_jsonl([GOOD], "train.jsonl")
    write_parquet(tmp_path / "train.parquet", numbered(0, 1))
    assert (
        "train.jsonl and train.parquet both claim to be the train split. Keep one of them" in problems_of(tmp_path)[0]
    )


def test_a_folder_of_several_sets_names_them(tmp_path: Path) -> None:
    for name in ("main", "socratic"):
        write_parquet(tmp_path / name / "train-00000-of-00001.parquet", numbered(0, 3))
    (line,) = problems_of(tmp_path)
    assert line == f"{tmp_path}: there are several sets: main, socratic. Choose one: --data {tmp_path}/main"
    assert len(load_splits(DataConfig(path=f"{tmp_path}/main", validation=0.0), 0).train) == 3


@settings(max_examples=300)
@given(
    names=st.lists(
        st.from_regex(
            r"(data/|main/|train/)?(train|valid|validation|test|part|x)([-_.][0-9]{1,3}(-of-[0-9]{1,3})?)?"
            r"\.(jsonl|json|parquet|jsonl\.gz|txt)",
            fullmatch=True,
        ),
        max_size=6,
        unique=True,
    )
)
def test_whatever_a_folder_holds_each_file_counts_once_or_the_folder_is_refused(names: list[str]) -> None:
    try:
        found = split_files(names, "folder", "folder/{}")
    except ToolkitError as error:
        assert all(problem.where == "folder" for problem in error.problems)
        return
    files = [name for chosen in found.values() for name in chosen]
    assert found["train"] and len(set(files)) == len(files) and set(files) <= set(names)
    assert not any("test" in name.rsplit("/", 1)[-1] for name in found["train"] if not name.startswith("train/"))


def test_a_run_is_named_after_its_data_without_suffix_or_commit(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "my.data.jsonl.gz", numbered(0, 1))
    assert data_label(str(path)) == "my.data"
    assert data_label("starter") == "starter"
    assert data_label("openai/gsm8k@" + "a" * 40 + ":main") == "gsm8k-main"


def test_a_pretraining_corpus_may_be_parquet(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "corpus.parquet", [{"text": "one"}, {"text": "two"}])
    assert [document["text"] for document in read_corpus(path)] == ["one", "two"]
    assert len(read_corpus(tmp_path)) == 2
