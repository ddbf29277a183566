"""The text that nano is trained on: deterministic, exact, and clear of the starter set's semantic keys."""

from __future__ import annotations

import json
import re
from itertools import islice
from pathlib import Path

import pytest

import toolkit
from toolkit.datasets.generate import definitions, facts, procedures
from toolkit.datasets.generate.pretraining_text import DOCUMENTS, documents, keeps_clear, keys
from toolkit.datasets.generate.starter import build_starter

DATA = Path(toolkit.__file__).parent / "nano" / "data"
SEED = 7  # train.seed of configs/nano-pretrain.yaml
SHIPPED = {
    side: [json.loads(line) for line in (DATA / f"{side}.jsonl").read_text(encoding="utf-8").splitlines()]
    for side in ("train", "valid")
}
EQUATION = re.compile(r"(\d+) (\+|-|×|plus|minus|times) (\d+) (?:=|is|makes) (\d+)")


def texts_of(document: dict) -> list[str]:
    return [document["text"]] if "text" in document else [message["content"] for message in document["messages"]]


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    """Every line of the whole corpus."""
    return [line for document in documents(SEED) for text in texts_of(document) for line in text.split("\n")]


def pairs_of(records: list[dict]) -> set[frozenset[int]]:
    """The operand pairs of the records, read from their questions (not from their keys)."""
    return {
        frozenset(int(number) for number in re.findall(r"\d+", record["instruction"] + record["input"]))
        for record in records
        if record["metadata"]["category"] == "arithmetic"
    }


def test_no_semantic_key_of_the_starter_set_is_among_the_keys_of_the_text():
    taught = keys()
    assert len(taught) > 1000
    for side in ("valid", "train"):
        assert not taught & {record["metadata"]["key"] for record in SHIPPED[side]}


def test_no_operand_pair_of_the_starter_set_stands_on_a_line_of_the_text(corpus):
    asked = pairs_of(SHIPPED["valid"]) | pairs_of(SHIPPED["train"])
    lines = 0
    for line in corpus:
        numbers = [int(number) for number in re.findall(r"\d+", line)]
        lines += len(numbers) > 1
        for first, second in zip(numbers, numbers[1:], strict=False):
            assert frozenset((first, second)) not in asked, line
    assert lines > DOCUMENTS


def test_no_term_procedure_or_answer_of_the_starter_set_occurs_in_the_text(corpus):
    terms = [term for term in definitions.DEFINITIONS if term != "42"]  # 42 as a number is in many sums
    sentences = [*definitions.DEFINITIONS.values(), *procedures.PROCEDURES.values(), *procedures.PROCEDURES]
    pattern = re.compile("|".join(re.escape(text) for text in [*terms, *sentences]), re.IGNORECASE)
    assert not [line for line in corpus if pattern.search(line)]


def test_no_question_of_the_starter_set_occurs_in_the_text(corpus):
    asked = {record["instruction"].lower() for side in SHIPPED.values() for record in side if not record["input"]}
    assert not asked & {line.lower() for line in corpus}


def test_equations_in_the_text_are_exact(corpus):
    compute = {"+": int.__add__, "plus": int.__add__, "-": int.__sub__, "minus": int.__sub__}
    checked = 0
    for line in corpus[::7]:
        match = EQUATION.fullmatch(line.rstrip("."))
        if match:
            operation = compute.get(match[2], int.__mul__)
            assert operation(int(match[1]), int(match[3])) == int(match[4]), line
            checked += 1
    assert checked > 5000


def test_no_reply_is_a_bare_number_as_the_starter_set_wants_it():
    for document in islice(documents(SEED), 3000):
        for message in document.get("messages", []):
            assert not (message["role"] == "assistant" and message["content"].strip().isdigit())


def test_the_same_seed_gives_the_same_text_and_another_seed_another():
    first, again, other = (list(islice(documents(seed), 50)) for seed in (SEED, SEED, 8))
    assert first == again != other


def test_the_number_of_documents_is_the_one_asked_for():
    assert len(list(documents(SEED, 25))) == 25


def test_a_document_that_names_a_starter_pair_is_not_clear_in_either_order():
    first, second = sorted(next(iter(pairs_of(SHIPPED["valid"]))))
    assert not keeps_clear({"text": f"It was {first} and then {second}."})
    assert not keeps_clear({"messages": [{"role": "user", "content": f"{second} + {first}"}]})
    assert keeps_clear({"text": f"It was {first}.\nThen it was {second}."})


def test_the_facts_of_the_text_are_about_other_things_than_the_starter_set():
    assert not set(facts.TASKS) & set(procedures.PROCEDURES)
    assert not set(facts.MEANINGS) & set(definitions.DEFINITIONS)


def test_the_starter_set_that_is_avoided_is_the_one_that_is_shipped():
    train, valid = build_starter()
    assert [record["metadata"]["key"] for record in valid] == [r["metadata"]["key"] for r in SHIPPED["valid"]]
    assert [record["metadata"]["key"] for record in train] == [r["metadata"]["key"] for r in SHIPPED["train"]]
