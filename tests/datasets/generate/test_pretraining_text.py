"""The text that nano is trained on: deterministic, exact, and clear of the starter set's semantic keys."""

from __future__ import annotations

import hashlib
import json
import re
from itertools import islice
from pathlib import Path

import pytest

import toolkit
from toolkit.datasets.generate import definitions, facts, procedures
from toolkit.datasets.generate.pretraining_text import DOCUMENTS, documents, keeps_clear, keys
from toolkit.datasets.generate.starter import build_starter

pytestmark = pytest.mark.slow  # the whole text is read

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(toolkit.__file__).parent / "nano" / "data"
SEED = 7  # train.seed of configs/nano-pretrain.yaml
SHIPPED = {
    side: [json.loads(line) for line in (DATA / f"{side}.jsonl").read_text(encoding="utf-8").splitlines()]
    for side in ("train", "valid")
}


def texts_of(document: dict) -> list[str]:
    return [document["text"]] if "text" in document else [message["content"] for message in document["messages"]]


@pytest.fixture(scope="module")
def whole_text() -> list[dict]:
    """Every document of the corpus."""
    return list(documents(SEED))


@pytest.fixture(scope="module")
def corpus(whole_text: list[dict]) -> list[str]:
    """Every line of the corpus."""
    return [line for document in whole_text for text in texts_of(document) for line in text.split("\n")]


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


def test_no_operand_pair_of_the_starter_set_is_worked_with_in_the_text(corpus):
    asked = pairs_of(SHIPPED["valid"]) | pairs_of(SHIPPED["train"])
    found = 0
    for line in corpus:
        for part in re.split("[=;:]", line):  # what stands on two sides of those is a result beside another step
            numbers = [int(number) for number in re.findall(r"\d+", part)]
            found += len(numbers) > 1
            for first, second in zip(numbers, numbers[1:], strict=False):
                assert frozenset((first, second)) not in asked, line
    assert found > 3 * DOCUMENTS


def test_no_equation_of_the_text_gives_a_starter_answer_away_by_inversion(corpus):
    facts_asked = set()
    for record in [*SHIPPED["valid"], *SHIPPED["train"]]:
        if record["metadata"]["category"] == "arithmetic":
            numbers = re.findall(r"\d+", record["instruction"] + record["input"])
            facts_asked.add(frozenset(int(n) for n in [*numbers, record["output"].split("; ")[-1]]))
    equation = re.compile(r"(\d+) (?:\+|-|×|plus|minus|times) (\d+) (?:=|is) (\d+)")
    found = 0
    for line in corpus:
        for match in equation.finditer(line):
            found += 1
            assert frozenset(int(number) for number in match.groups()) not in facts_asked, line
    assert found > DOCUMENTS


def test_no_term_procedure_or_answer_of_the_starter_set_occurs_in_the_text(corpus):
    terms = [term for term in definitions.DEFINITIONS if term != "42"]  # 42 as a number is in many sums
    sentences = [*definitions.DEFINITIONS.values(), *procedures.PROCEDURES.values(), *procedures.PROCEDURES]
    text = "\n".join(corpus).lower()
    assert not [subject for subject in [*terms, *sentences] if subject.lower() in text]


def test_no_question_of_the_starter_set_occurs_in_the_text(corpus):
    asked = {record["instruction"].lower() for side in SHIPPED.values() for record in side if not record["input"]}
    assert not asked & {line.lower() for line in corpus}


def test_equations_in_the_text_are_exact(corpus):
    steps = re.compile(r"\d+(?: [+×-] \d+)+ = \d+")
    checked = 0
    for line in corpus[::5]:
        for equation in steps.findall(line):
            left, right = equation.split(" = ")
            assert eval(left.replace("×", "*")) == int(right), line
            checked += 1
    assert checked > 20_000


def test_no_reply_has_the_form_that_the_starter_set_wants(whole_text):
    wanted = re.compile(r".*; \d+")
    for document in whole_text:
        for message in document.get("messages", []):
            assert not (message["role"] == "assistant" and wanted.fullmatch(message["content"]))


def test_the_same_seed_gives_the_same_text_and_another_seed_another():
    first, again, other = (list(islice(documents(seed), 50)) for seed in (SEED, SEED, 8))
    assert first == again != other


def test_the_whole_text_is_the_one_that_nano_was_trained_on(whole_text):
    digest = hashlib.sha256()
    for document in whole_text:
        digest.update(json.dumps(document, ensure_ascii=False).encode() + b"\n")
    assert digest.hexdigest() in (ROOT / "docs" / "nano.md").read_text(encoding="utf-8")


def test_the_number_of_documents_is_the_one_asked_for():
    assert len(list(documents(SEED, 25))) == 25


def test_a_document_that_names_a_starter_pair_is_not_clear_in_either_order():
    first, second = sorted(next(iter(pairs_of(SHIPPED["valid"]))))
    assert not keeps_clear({"text": f"It was {first} and then {second}."})
    assert not keeps_clear({"messages": [{"role": "user", "content": f"{second} + {first}"}]})
    assert keeps_clear({"text": f"It was {first}.\nThen it was {second}."})


def test_a_document_that_names_a_starter_term_is_not_clear():
    assert not keeps_clear({"text": "It depends on a Red thread."})
    assert keeps_clear({"text": "It depends on a thread."})


def test_the_facts_of_the_text_are_about_other_things_than_the_starter_set():
    assert not set(facts.TASKS) & set(procedures.PROCEDURES)
    assert not set(facts.MEANINGS) & set(definitions.DEFINITIONS)


def test_the_starter_set_that_is_avoided_is_the_one_that_is_shipped():
    train, valid = build_starter()
    assert [record["metadata"]["key"] for record in valid] == [r["metadata"]["key"] for r in SHIPPED["valid"]]
    assert [record["metadata"]["key"] for record in train] == [r["metadata"]["key"] for r in SHIPPED["train"]]
