"""What is read, how it is split, and what a person is told when it cannot be read."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from toolkit.config import DataConfig
from toolkit.datasets.fields import suggest_mapping
from toolkit.datasets.formats import STARTER_FOLDER, hold_out, load_splits, read_examples
from toolkit.datasets.lines import MAX_LINE_BYTES
from toolkit.datasets.records import example_from_record
from toolkit.datasets.schema import Example, Message
from toolkit.errors import ToolkitError

WriteJsonl = Callable[..., Path]

EXCERPT = Path(__file__).parents[1] / "data" / "gsm8k_excerpt"
GOOD = {"instruction": "Say hello", "input": "", "output": "Hello"}
# The shape of the Alpaca seed tasks: the output sits inside a list of instances.
SEED_TASK = {
    "id": "seed_task_1",
    "name": "antonym_relation",
    "instruction": "What is the relation?",
    "instances": [{"input": "Night : Day", "output": "Opposites."}],
    "is_classification": False,
}


def turns(example: Example) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in example.messages]


def problems_of(path: Path | str, **data: Any) -> list[str]:
    """Return the lines of the error that reading a dataset raises."""
    with pytest.raises(ToolkitError) as caught:
        load_splits(DataConfig(path=str(path), **data), 0)
    return [str(problem) for problem in caught.value.problems]


# ---- shapes


def test_instruction_records_join_instruction_and_input_by_an_empty_line(write_jsonl: WriteJsonl) -> None:
    record = {
        "instruction": "Translate",
        "input": "Hallo",
        "output": "Hello",
        "metadata": {"key": "k", "category": "c"},
    }
    first, second = read_examples(write_jsonl([record, GOOD]), DataConfig())
    assert turns(first) == [("user", "Translate\n\nHallo"), ("assistant", "Hello")]
    assert (first.key, first.category, first.where.endswith("data.jsonl:1")) == ("k", "c", True)
    assert turns(second) == [("user", "Say hello"), ("assistant", "Hello")]


def test_chat_records_keep_all_their_turns(write_jsonl: WriteJsonl) -> None:
    messages = [("system", "Be brief"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    record = {"messages": [{"role": role, "content": content} for role, content in messages]}
    (example,) = read_examples(write_jsonl([record]), DataConfig())
    assert turns(example) == messages


def test_prompt_and_completion_are_read_natively_and_by_mapping(write_jsonl: WriteJsonl) -> None:
    native = write_jsonl([{"prompt": "a", "completion": "b"}], "native.jsonl")
    mapped = write_jsonl([{"q": "a", "deep": [{"answer": "b"}]}], "mapped.jsonl")
    by_mapping = read_examples(mapped, DataConfig(prompt="q", completion="deep.0.answer"))
    assert turns(read_examples(native, DataConfig())[0]) == turns(by_mapping[0]) == [("user", "a"), ("assistant", "b")]


def test_the_system_message_of_the_config_goes_before_examples_that_bring_none(write_jsonl: WriteJsonl) -> None:
    own = {
        "messages": [{"role": "system", "content": "own"}, *[{"role": r, "content": r} for r in ("user", "assistant")]]
    }
    first, second = read_examples(write_jsonl([GOOD, own]), DataConfig(system="given"))
    assert first.messages[0] == Message("system", "given")
    assert [m.content for m in second.messages if m.role == "system"] == ["own"]


def test_a_json_list_is_read_like_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps([GOOD, GOOD]), encoding="utf-8")
    assert [example.where for example in read_examples(path, DataConfig())] == [f"{path}:item 1", f"{path}:item 2"]


def test_a_byte_order_mark_windows_line_ends_and_blank_lines_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    line = json.dumps(GOOD).encode()
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n" + line + b"\r\n" + line)
    examples = read_examples(path, DataConfig())
    assert [example.where.rsplit(":", 1)[1] for example in examples] == ["1", "3", "4"]


# ---- real data


def test_gsm8k_is_read_by_mapping_question_and_answer() -> None:
    splits = load_splits(DataConfig(path=str(EXCERPT), prompt="question", completion="answer"), 0)
    assert (len(splits.train), len(splits.validation), splits.test) == (270, 30, [])
    assert [path.name for path in splits.files] == ["train.jsonl", "valid.jsonl"]
    assert turns(splits.train[0])[1][1].endswith("#### 72")


def test_gsm8k_without_a_mapping_is_refused_with_the_mapping_that_it_needs() -> None:
    (line,) = problems_of(EXCERPT)
    assert "no known shape of example (and on 299 more lines: 2, 3, 4," in line
    assert line.endswith("--set data.prompt=question --set data.completion=answer")


def test_nested_outputs_are_refused_with_the_mapping_that_they_need_and_read_with_it(write_jsonl: WriteJsonl) -> None:
    path = write_jsonl([SEED_TASK] * 2)
    assert problems_of(path)[0].endswith(
        ":1: no known shape of example. Say which fields to use: --set data.prompt=instruction "
        "--set data.input=instances.0.input --set data.completion=instances.0.output"
    )
    mapping: dict[str, Any] = {
        "prompt": "instruction",
        "input": "instances.0.input",
        "completion": "instances.0.output",
    }
    example = read_examples(path, DataConfig(path=str(path), **mapping))[0]
    assert turns(example) == [("user", "What is the relation?\n\nNight : Day"), ("assistant", "Opposites.")]


@pytest.mark.parametrize(
    ("record", "mapping"),
    [
        ({"query": "a", "response": "b"}, {"data.prompt": "query", "data.completion": "response"}),
        (
            {"id": "7", "context": "c", "question": "a", "answers": {"text": ["b"]}, "answer": "b"},
            {"data.prompt": "question", "data.input": "context", "data.completion": "answer"},
        ),
        (
            {"data": {"Problem": "a", "Solution": "b"}},
            {"data.prompt": "data.Problem", "data.completion": "data.Solution"},
        ),
        ({"content": "only"}, {"data.text": "content"}),
        ({"dialogue": [{"role": "user", "content": "a"}]}, {"data.messages": "dialogue"}),
        ({"score": 3}, None),
    ],
)
def test_a_mapping_is_suggested_from_the_names_of_the_fields(record: Any, mapping: Any) -> None:
    assert suggest_mapping(record) == mapping


def test_every_example_in_the_guide_is_read_as_the_guide_says() -> None:
    guide = (EXCERPT.parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?:^<!-- mapping: (.*?) -->\n)?^```json\n(.*?)^```$", guide, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 10
    for mapping, body in blocks:
        fields: dict[str, Any] = dict(pair.split("=") for pair in mapping.split())
        for line in body.splitlines():
            read = example_from_record(json.loads(line), DataConfig(**fields), "docs/data.md")
            assert read.text or read.messages[-1].content


def test_the_starter_set_is_read_by_its_name_with_no_key_on_both_sides() -> None:
    splits = load_splits(DataConfig(max_validation_examples=10**6), 0)
    assert [path.parent for path in splits.files] == [STARTER_FOLDER] * 2
    assert len(splits.train) + len(splits.validation) >= 1000
    keys = [{example.key for example in side} for side in (splits.train, splits.validation)]
    assert None not in keys[0] | keys[1] and not keys[0] & keys[1]


# ---- splits


def test_without_a_validation_file_a_twentieth_of_train_is_held_out_by_seed(write_jsonl: WriteJsonl) -> None:
    path = write_jsonl([{**GOOD, "input": str(i)} for i in range(200)])
    splits = load_splits(DataConfig(path=str(path)), 0)
    assert (len(splits.train), len(splits.validation)) == (190, 10)
    assert {e.where for e in splits.train}.isdisjoint(e.where for e in splits.validation)
    again, other = (load_splits(DataConfig(path=str(path)), seed) for seed in (0, 1))
    assert again.validation == splits.validation != other.validation


def test_a_test_file_is_never_trained_on_or_held_out(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    write_jsonl([{**GOOD, "input": f"train {i}"} for i in range(40)], "train.jsonl")
    write_jsonl([{**GOOD, "input": f"test {i}"} for i in range(40)], "test.jsonl")
    splits = load_splits(DataConfig(path=str(tmp_path)), 0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (38, 2, 40)
    assert all("train.jsonl" in example.where for example in splits.train + splits.validation)


@pytest.mark.parametrize("name", ["valid", "validation", "val", "dev"])
def test_a_folder_brings_its_validation_file(name: str, write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    write_jsonl([GOOD] * 3, "train.jsonl")
    write_jsonl([GOOD] * 2, f"{name}.jsonl")
    splits = load_splits(DataConfig(path=str(tmp_path)), 0)
    assert (len(splits.train), len(splits.validation)) == (3, 2)


def test_a_named_validation_file_wins(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    write_jsonl([GOOD] * 3, "train.jsonl")
    write_jsonl([GOOD] * 2, "valid.jsonl")
    other = write_jsonl([GOOD] * 4, "elsewhere/other.jsonl")
    assert len(load_splits(DataConfig(path=str(tmp_path), validation=str(other)), 0).validation) == 4


def test_limits_draw_by_seed_and_leave_the_other_side_alone(write_jsonl: WriteJsonl) -> None:
    path = str(write_jsonl([{**GOOD, "input": str(i)} for i in range(400)]))
    full = load_splits(DataConfig(path=path, validation=0.5), 3)
    few = load_splits(DataConfig(path=path, validation=0.5, max_examples=10, max_validation_examples=7), 3)
    more = load_splits(DataConfig(path=path, validation=0.5, max_examples=20), 3)
    assert (len(few.train), len(few.validation)) == (10, 7)
    assert len(full.validation) == len(more.validation) == 200
    assert {e.where for e in few.train} < {e.where for e in more.train} < {e.where for e in full.train}
    assert {e.where for e in few.validation} < {e.where for e in full.validation}


@settings(max_examples=80)
@given(
    keys=st.lists(st.one_of(st.none(), st.integers(0, 12)), min_size=2, max_size=120),
    fraction=st.floats(0.01, 0.6),
    seed=st.integers(0, 9),
)
@example(keys=[1, 1, 1, 2, 2, 2, 3, 3, None], fraction=0.3, seed=0)
def test_no_key_stands_on_both_sides_of_a_split(keys: list[int | None], fraction: float, seed: int) -> None:
    examples = [Example((), {} if k is None else {"key": k}, str(i)) for i, k in enumerate(keys)]
    if None not in keys and len(set(keys)) == 1:
        with pytest.raises(ToolkitError, match="all examples share one key"):
            hold_out(examples, fraction, seed)
        return
    train, validation = hold_out(examples, fraction, seed)
    assert sorted(int(e.where) for e in train + validation) == list(range(len(keys)))
    assert train and validation
    assert {e.key for e in train if e.key}.isdisjoint({e.key for e in validation if e.key})


def test_one_example_cannot_be_split_and_the_way_out_is_named(write_jsonl: WriteJsonl) -> None:
    path = write_jsonl([GOOD])
    (line,) = problems_of(path)
    assert "nothing can be held out: there is one example" in line and "--set data.validation=FILE" in line
    assert load_splits(DataConfig(path=str(path), validation=0.0), 0).validation == []


# ---- everything that can be wrong


LINES: dict[str, tuple[str, str]] = {
    "{'a': 1}": ("invalid JSON: Expecting property name enclosed in double quotes (column 2)", ""),
    "[1, 2]": ("expected a JSON object, found a list", ""),
    '"text"': ("expected a JSON object, found text", ""),
    "null": ("expected a JSON object, found null", ""),
    '{"messages": []}': ("`messages` must be a list of turns, found an empty list", ""),
    '{"messages": [{"role": "user", "content": "a"}]}': ("no assistant turn: there is nothing to learn", ""),
    '{"messages": [{"role": "assistant", "content": " "}]}': (
        "`messages.0` is an empty assistant turn: there is nothing to learn",
        "",
    ),
    '{"messages": [{"role": "asistant", "content": "a"}]}': (
        "`messages.0` has unknown role 'asistant'",
        "Did you mean 'assistant'?",
    ),
    '{"messages": [{"content": "a"}]}': ("`messages.0` has no role", "Roles are system, user, assistant and tool"),
    '{"messages": [{"role": "assistant", "content": null}]}': ("`messages.0.content` must be text, found null", ""),
    '{"messages": [{"role": "tool", "content": "a"}]}': (
        "`messages.0` is a tool result, but the assistant's turn before it calls nothing",
        "",
    ),
    '{"messages": ["a"]}': ("`messages.0` must be an object with `role` and `content`, found text", ""),
    '{"instruction": "a", "output": ""}': ("`output` is empty: there is nothing to learn", ""),
    '{"instruction": "a", "output": 42}': ("`output` must be text, found a number", ""),
    '{"instruction": " ", "output": "b"}': ("`instruction` is empty", ""),
    '{"instruction": "a", "output": "\\ud800"}': (
        "`output` holds half of a surrogate pair, which is not a character",
        "",
    ),
    '{"n": 1}': (
        "no known shape of example",
        "Say which fields to use: --set data.prompt=FIELD --set data.completion=FIELD (fields with text: none)",
    ),
}


@pytest.mark.parametrize("line", LINES)
def test_a_bad_line_is_named_with_file_and_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{line}\n", encoding="utf-8")
    what, hint = LINES[line]
    assert problems_of(path) == [f"{path}:2: {what}" + (f". {hint}" if hint else "")]


def test_a_mapping_to_a_missing_field_suggests_the_nearest(write_jsonl: WriteJsonl) -> None:
    path = write_jsonl([SEED_TASK])
    assert problems_of(path, prompt="instrction", completion="output") == [
        f"{path}:1: no field `instrction` (data.prompt). Did you mean `instruction`?",
        f"{path}:1: no field `output` (data.completion). Did you mean `instances.0.output`?",
    ]
    assert problems_of(path, prompt="instruction", completion="instances") == [
        f"{path}:1: `instances` must be text, found a list. Texts inside it: `instances.0.input`, `instances.0.output`"
    ]


def test_all_problems_of_all_files_are_reported_at_once(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    write_jsonl([GOOD, {"messages": []}, "x"], "train.jsonl")
    write_jsonl([{"instruction": "a", "output": ""}], "valid.jsonl")
    places = [line.split(": ")[0].removeprefix(f"{tmp_path}/") for line in problems_of(tmp_path)]
    assert places == ["train.jsonl:2", "train.jsonl:3", "valid.jsonl:1"]


def test_after_twenty_problems_the_rest_is_counted(write_jsonl: WriteJsonl) -> None:
    records = [{"messages": [{"role": f"role{i}", "content": "a"}]} for i in range(50)]
    lines = problems_of(write_jsonl(records))
    assert len(lines) == 21 and lines[-1] == "… and 30 more problems"


def test_text_that_is_not_utf8_is_named_with_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"prompt": "caf\xe9"}\n')
    assert problems_of(path) == [f"{path}:2: not UTF-8 (byte 0xe9 at column 16). Save the file as UTF-8"]
    path.write_text(json.dumps(GOOD), encoding="utf-16")
    assert problems_of(path) == [f"{path}:1: the file is UTF-16. Save it as UTF-8"]


@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
def test_an_empty_file_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(content, encoding="utf-8")
    assert problems_of(path) == [f"{path}: the file holds no examples"]


def test_missing_places_suggest_what_stands_beside_them(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    path = write_jsonl([GOOD], "train.jsonl")
    wrong = tmp_path / "trian.jsonl"
    assert problems_of(wrong) == [f"data.path: {wrong}: no such file or folder. Did you mean {path}?"]
    assert problems_of(path, validation=str(wrong)) == [f"data.validation: {wrong}: no such file. Did you mean {path}?"]


def test_a_folder_without_train_file_says_what_to_do(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert "Expected train.jsonl" in problems_of(tmp_path / "folder")[0]
    other = write_jsonl([GOOD], "folder/seed_tasks.jsonl")
    assert problems_of(tmp_path / "folder")[0].endswith(f"Name the file itself: --data {other}")


def test_two_files_for_one_split_are_refused(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    for name in ("train.jsonl", "valid.jsonl", "validation.jsonl"):
        write_jsonl([GOOD], name)
    assert "valid.jsonl and validation.jsonl both claim to be the validation split" in problems_of(tmp_path)[0]


def test_a_file_of_another_kind_is_refused_with_the_kinds_that_are_read(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("a,b")
    (line,) = problems_of(tmp_path / "data.csv")
    assert ".csv is not a kind of data file that is read. Use JSON lines (.jsonl, .jsonl.gz)" in line


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "invalid JSON"), ('{"a": 1}', "must hold a list"), ("[1]", "expected a JSON object"), ("", "no examples")],
)
def test_a_bad_json_list_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(content, encoding="utf-8")
    assert message in problems_of(path)[0]


@pytest.mark.parametrize("fraction", [1.5, 1.0, -0.1])
def test_a_fraction_outside_zero_to_one_is_refused(fraction: float) -> None:
    with pytest.raises(ToolkitError, match="is not a fraction"):
        hold_out([Example((), {}, "1"), Example((), {}, "2")], fraction, 0)


def test_a_line_without_end_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    with path.open("wb") as file:
        file.truncate(4 * MAX_LINE_BYTES)
    tracemalloc.start()
    try:
        assert problems_of(path) == [f"{path}:1: the line is longer than 16 MiB"]
        assert tracemalloc.get_traced_memory()[1] < 3 * MAX_LINE_BYTES
    finally:
        tracemalloc.stop()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELD_NAMES = st.sampled_from(["messages", "role", "content", "instruction", "input", "output", "prompt", "completion"])


@settings(max_examples=150)
@given(
    record=st.one_of(JSON_VALUES, st.dictionaries(FIELD_NAMES, JSON_VALUES)),
    prompt=st.sampled_from([None, "prompt", "messages.0.content", "output.x"]),
)
def test_whatever_a_line_holds_it_is_read_or_refused_in_words(
    record: Any, prompt: str | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    try:
        examples = read_examples(path, DataConfig(prompt=prompt))
    except ToolkitError as error:
        assert all(problem.where.startswith(str(path)) for problem in error.problems)
    else:
        assert all(any(m.role == "assistant" and m.content.strip() for m in e.messages) for e in examples)


@settings(max_examples=100)
@given(content=st.binary(max_size=200))
def test_whatever_bytes_a_file_holds_no_traceback_comes_out(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for name in ("fuzz.jsonl", "fuzz.json", "fuzz.parquet", "fuzz.jsonl.gz", "fuzz.json.gz"):
        path = tmp_path_factory.getbasetemp() / name
        path.write_bytes(content)
        with pytest.raises(ToolkitError):
            read_examples(path, DataConfig())
