"""scripts/core_set_experiment.py: its scorers, the template that writes tools, and the whole of it with two steps."""

from __future__ import annotations

import json
import sys
from itertools import islice

import pytest

from scripts import core_set_experiment as experiment
from toolkit.config import DataConfig
from toolkit.datasets.chat import tokenize_examples, trained_pieces
from toolkit.datasets.generate.registry import generators
from toolkit.datasets.records import example_from_record
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.datasets.writing import write_records


def records(category: str, count: int) -> list[dict]:
    return list(islice(generators()[category].make(5, count), count))


def test_labels_are_first_words():
    assert experiment.same_label("violates: it is too long", "violates: it has a hyphen")
    assert experiment.same_label("strict, rule", "strict, definition")
    assert not experiment.same_label("complies", "violates: it is too long")
    assert not experiment.same_label("", "complies")


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        ("88 + 22 = 110", "The answer is 110.", True),
        ("It is 1,110.", "1110", True),
        ("x = -3", "x = 3", False),
        ("49/12", "… = 49/12", True),
        ("two", "2", False),
        ("Every number solves it.", "Every number solves it.", True),
        ("2 or 3", "3 or 2", False),
    ],
)
def test_numbers_are_compared_by_the_last_one(answer, reference, same):
    assert experiment.same_number(answer, reference) is same


def test_calls_are_compared_by_the_tool_that_they_name():
    assert experiment.same_tool('call memory_delete {"id": "m1"}', 'call memory_delete {"id": "m2"}')
    assert not experiment.same_tool('call memory_list {"id": "m1"}', 'call memory_delete {"id": "m1"}')
    assert not experiment.same_tool("memory_delete", 'call memory_delete {"id": "m1"}')


def test_the_template_writes_tools_and_trains_calls_and_answers(tmp_path):
    tokenizer = Tokenizer.load(experiment.model_with_tools(tmp_path / "model"))
    examples = [example_from_record(record, DataConfig(), str(n)) for n, record in enumerate(records("memory", 20))]
    for example, tokenized in zip(examples, tokenize_examples(examples, tokenizer, 1024).examples, strict=True):
        pieces = trained_pieces(tokenized, tokenizer)
        trained = "".join(text for text, counts in pieces if counts)
        read = "".join(text for text, counts in pieces if not counts)
        assert example.messages[-1].content in trained
        assert f"call {example.messages[1].tool_calls[0].name} " in trained
        assert all(f"{tool['function']['name']}(" in read for tool in example.tools)


def test_a_system_prompt_goes_before_the_question_only_where_it_is_asked_for():
    examples = [example_from_record(record, DataConfig(), "1") for record in records("context", 3)]
    bare, prompted = experiment.questions_of(examples), experiment.questions_of(examples, system_prompt=True)
    assert [question.messages for question in bare] == [question.messages[1:] for question in prompted]
    assert all(question.messages[0].content == e.metadata["system_prompt"] for question, e in zip(prompted, examples))


def test_of_a_conversation_with_tools_the_first_call_is_asked_for():
    (example,) = [example_from_record(record, DataConfig(), "1") for record in records("memory", 1)]
    (question,) = experiment.questions_of([example])
    assert [message.role for message in question.messages] == ["user"]
    assert question.answer is not None and question.answer.tool_calls == example.messages[1].tool_calls


def test_the_part_that_chooses_a_checkpoint_shares_no_key_with_what_is_trained_on(tmp_path):
    asked = [*records("definitions", 30), *records("arithmetic", 30)]
    made = [{**one, "instruction": one["instruction"] + end} for one in asked for end in ("", " Thank you.")]
    write_records(tmp_path / "data" / "train.jsonl", made)
    folder = experiment.training_part(tmp_path / "data", tmp_path / "part")
    sides = [
        [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]
        for name in ("train", "valid")
    ]
    assert len(sides[0]) + len(sides[1]) == 120 and 2 <= len(sides[1]) <= 12
    keys = [{record["metadata"]["key"] for record in side} for side in sides]
    assert not keys[0] & keys[1]


@pytest.mark.slow
def test_two_steps_give_tables_of_every_category(tmp_path, monkeypatch, capsys):
    data = tmp_path / "data"
    for name, count in (("train", 6), ("valid", 2)):
        chosen = [one for category in ("context", "tagging", "memory") for one in records(category, 8)[-count:]]
        write_records(data / f"{name}.jsonl", chosen)
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["experiment", "--data", str(data), "--steps", "2", "--out", str(out)])
    experiment.main()
    assert capsys.readouterr().out.strip() == (out / "experiment.md").read_text("utf-8").strip()
    tables = json.loads((out / "experiment.json").read_text("utf-8"))
    assert [(row["category"], row["scorer"], row["n"]) for row in tables["categories"]] == [
        ("context", "exact match", 2),
        ("memory", "exact match", 2),
        ("memory", "tool", 2),
        ("tagging", "exact match", 2),
        ("tagging", "label", 2),
    ]
    assert len(tables["context with the prompt before, without it after"]) == 1
