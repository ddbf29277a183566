from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from toolkit.config import DataConfig
from toolkit.datasets.conversion import SHAPES, Shape, convert_example
from toolkit.datasets.passing_on import read_records
from toolkit.datasets.records import example_from_record
from toolkit.datasets.validation.sources import find_sources
from toolkit.datasets.writing import check_output, write_records
from toolkit.errors import ToolkitError

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": [2]}}}


def said(role: str, content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


SUM, SURE = said("user", "6 times 7?"), said("user", "Sure?")
RECORDS: dict[str, dict[str, Any]] = {
    "instruction": {"instruction": "6 times 7?", "input": "", "output": "42", "metadata": {"key": "6*7", "ok": True}},
    "with history": {
        "instruction": "And 6 times 8?",
        "output": "48",
        "history": [["6 times 7?", "42"]],
        "system": "Be brief.",
    },
    "chat": {"messages": [SUM, said("assistant", "42")]},
    "untrained turn": {"messages": [SUM, said("assistant", "41", weight=0), SURE, said("assistant", "42")]},
    "tools": {
        "tools": [TOOL],
        "messages": [
            said("user", "1 and 2?"),
            said("assistant", None, tool_calls=[CALL]),
            said("tool", "3", tool_call_id="c1"),
            said("assistant", "3"),
        ],
    },
    "preference": {"prompt": "6 times 7?", "chosen": "42", "rejected": "41"},
    "long preference": {
        "chosen": [SUM, said("assistant", "42"), SURE, said("assistant", "Yes.")],
        "rejected": [SUM, said("assistant", "42"), SURE, said("assistant", "No.")],
    },
    "text": {"text": "6 times 7 is 42."},
}
WITHOUT_LOSS = {
    "instruction": {"instruction", "messages", "sharegpt", "completion"},
    "with history": {"instruction", "messages", "sharegpt", "completion"},
    "chat": {"instruction", "messages", "sharegpt", "completion"},
    "untrained turn": {"messages", "sharegpt", "completion"},
    "tools": {"messages", "sharegpt", "completion"},
    "preference": {"preference"},
    "long preference": {"preference"},
    "text": {"text"},
}


class PlainTemplate:
    """Stands for a model's tokenizer where only rendering is asked for."""

    def render(self, messages: Any, **_: Any) -> str:
        return "\n".join(f"{message.role}: {message.content}" for message in messages)


def convert(record: dict[str, Any], to: Shape) -> tuple[dict[str, Any], tuple[str, ...]]:
    example = example_from_record(record, DataConfig(), "x:1")
    return convert_example(example, record, to, DataConfig(), PlainTemplate())  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("to", SHAPES)
def test_a_conversion_keeps_everything_or_names_what_it_loses(name: str, to: Shape) -> None:
    record = RECORDS[name]
    try:
        written, lost = convert(record, to)
    except ToolkitError:
        lost, written = ("refused",), {}
    assert (not lost) == (to in WITHOUT_LOSS[name])
    if not lost:
        before, after = (example_from_record(value, DataConfig(), "x:1") for value in (record, written))
        assert [m.as_dict() for m in after.messages] == [m.as_dict() for m in before.messages]
        assert (after.text, after.tools, after.metadata) == (before.text, before.tools, before.metadata)
        trained = [[m.trained for m in example.messages if m.role == "assistant"] for example in (before, after)]
        assert trained[0] == trained[1]


@pytest.mark.parametrize(
    ("name", "to", "loss"),
    [
        ("untrained turn", "instruction", "which turns are trained"),
        ("preference", "messages", "the rejected answer"),
        ("chat", "text", "its turns (a text has none)"),
    ],
)
def test_what_gets_lost_is_named(name: str, to: Shape, loss: str) -> None:
    assert loss in convert(RECORDS[name], to)[1]


def test_fields_that_no_shape_has_go_into_the_metadata_and_mapped_ones_do_not() -> None:
    record = {"id": "seed_1", "question": "6 times 7?", "answers": ["42", "forty-two"], "is_sum": True}
    data = DataConfig(prompt="question", completion="answers.0")
    example = example_from_record(record, data, "x:1")
    written, lost = convert_example(example, record, "instruction", data)
    assert written == {
        "instruction": "6 times 7?",
        "input": "",
        "output": "42",
        "metadata": {"id": "seed_1", "is_sum": True},
    }
    assert lost == ("the other items of `answers`",)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json", ".parquet"])
def test_records_written_are_read_back_as_they_were(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"train{suffix}"
    records = [RECORDS["chat"], RECORDS["tools"], RECORDS["with history"]]
    assert write_records(path, records) == 3
    read = [example for _, example in read_records(find_sources([path]), DataConfig())]
    for record, example in zip(records, read, strict=True):
        expected = replace(example_from_record(record, DataConfig(), ""), where=example.where)
        assert [m.as_dict() for m in example.messages] == [m.as_dict() for m in expected.messages]
        assert example.tools == expected.tools


def test_equal_records_give_equal_bytes_packed_or_not(tmp_path: Path) -> None:
    for suffix in (".jsonl", ".jsonl.gz", ".json"):
        one, two = tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"
        write_records(one, RECORDS.values())
        write_records(two, RECORDS.values())
        assert one.read_bytes() == two.read_bytes()
    packed, plain = (tmp_path / "one.jsonl.gz").read_bytes(), (tmp_path / "one.jsonl").read_bytes()
    assert gzip.decompress(packed) == plain
    assert json.loads((tmp_path / "one.json").read_text("utf-8")) == list(RECORDS.values())


def test_parquet_keeps_fields_that_the_first_record_lacks(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write_records(path, [{"text": "a"}, {"text": "b", "metadata": {"key": "k"}}])
    assert parquet.read_table(path).column_names == ["text", "metadata"]


def test_parquet_that_cannot_hold_the_records_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    with pytest.raises(ToolkitError, match=r"Parquet cannot hold these records.*Write \.jsonl instead"):
        write_records(path, [{"a": 1}, {"a": "text"}])
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_read_is_never_written(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("{}\n")
    for overwrite in (False, True):
        with pytest.raises(ToolkitError, match="nothing is rewritten in place"):
            check_output(path, overwrite=overwrite, sources=[tmp_path / "." / "x.jsonl"])
    with pytest.raises(ToolkitError, match="the file exists"):
        check_output(path, overwrite=False)
    check_output(path, overwrite=True)
    with pytest.raises(ToolkitError, match="does not say which kind"):
        check_output(tmp_path / "x.csv", overwrite=False)
