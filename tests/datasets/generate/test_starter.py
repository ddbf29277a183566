"""The bundled starter set: its split, its answers, and that the shipped files are what the code makes."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

import toolkit
from toolkit.config import DataConfig
from toolkit.datasets.formats import load_splits
from toolkit.datasets.generate import definitions, procedures
from toolkit.datasets.generate.arithmetic import Problem, all_problems, draw_problems
from toolkit.datasets.generate.starter import arithmetic_problems, build_starter, to_jsonl, write_starter

DATA = Path(toolkit.__file__).parent / "nano" / "data"
TRAIN, VALID = build_starter()
EVERYTHING = [*TRAIN, *VALID]

# Written for the test: what a question asks for, read from its words alone.
ASKS = [
    (re.compile(r"(?:Subtract|Take) (\d+) (?:from|away from) (\d+)\."), lambda b, a: a - b),
    (re.compile(r"Subtract the second number from the first\.\n(\d+) and (\d+)"), lambda a, b: a - b),
    (re.compile(r"(\d+) (?:-|minus) (\d+)"), lambda a, b: a - b),
    (re.compile(r"(\d+) (?:\+|plus) (\d+)"), lambda a, b: a + b),
    (re.compile(r"(\d+) (?:×|times) (\d+)"), lambda a, b: a * b),
    (re.compile(r"(?:Add|sum of)[^\d]*(\d+) and (\d+)"), lambda a, b: a + b),
    (re.compile(r"(?:Multiply|product of)[^\d]*(\d+) (?:and|by) (\d+)"), lambda a, b: a * b),
]


def answer_by_reading(record: dict) -> int:
    """Return the answer that the question's words ask for."""
    text = f"{record['instruction']}\n{record['input']}"
    for pattern, compute in ASKS:
        match = pattern.search(text)
        if match:
            return compute(int(match[1]), int(match[2]))
    raise AssertionError(f"cannot read {text!r}")


def arithmetic_of(records: list[dict]) -> list[dict]:
    return [record for record in records if record["metadata"]["category"] == "arithmetic"]


def test_the_set_has_a_thousand_records_and_a_fifth_is_held_out_of_every_category():
    assert len(EVERYTHING) >= 1000
    held_out = Counter(record["metadata"]["category"] for record in VALID)
    for category, count in Counter(record["metadata"]["category"] for record in EVERYTHING).items():
        assert held_out[category] / count == pytest.approx(0.2, abs=0.01)


def test_every_arithmetic_answer_is_what_its_words_ask_for():
    records = arithmetic_of(EVERYTHING)
    assert len(records) == 720
    for record in records:
        *_, result = record["output"].split("; ")
        assert result == str(answer_by_reading(record)), record


def test_every_step_of_every_working_is_exact_and_the_digits_of_the_result_come_from_it():
    for record in arithmetic_of(EVERYTHING):
        restated, working = record["output"].split(": ")
        assert eval(restated.replace("×", "*")) == answer_by_reading(record), record
        units, tens, result = working.split("; ")
        computed = []
        for step in (units, tens):
            left, right = step.split(" = ")
            assert eval(left.replace("×", "*")) == int(right), record
            computed.append(int(right))
        assert int(result) == 10 * computed[1] + computed[0] % 10, record


def test_no_semantic_key_is_on_both_sides():
    assert not {r["metadata"]["key"] for r in TRAIN} & {r["metadata"]["key"] for r in VALID}


def test_keys_identify_records():
    keys = Counter(record["metadata"]["key"] for record in EVERYTHING)
    assert max(keys.values()) == 1
    assert len({record["metadata"]["id"] for record in EVERYTHING}) == len(EVERYTHING)


def test_no_pair_of_numbers_is_asked_about_on_both_sides_whatever_the_operation():
    def pairs(records: list[dict]) -> set[frozenset[str]]:
        return {frozenset(re.findall(r"\d+", r["instruction"] + r["input"])) for r in arithmetic_of(records)}

    assert len(pairs(TRAIN)) > 500
    assert not pairs(TRAIN) & pairs(VALID)


def test_no_held_out_sum_is_the_inverse_of_a_trained_one():
    def facts(records: list[dict]) -> set[frozenset[int]]:
        result = set()
        for record in arithmetic_of(records):
            numbers = [int(n) for n in re.findall(r"\d+", record["instruction"] + record["input"])]
            result.add(frozenset([*numbers, int(record["output"].split("; ")[-1])]))
        return result

    assert not facts(TRAIN) & facts(VALID)


def test_no_question_is_on_both_sides():
    def questions(records: list[dict]) -> set[str]:
        return {f"{record['instruction']} {record['input']}".lower() for record in records}

    assert not questions(TRAIN) & questions(VALID)


def test_every_held_out_term_and_procedure_was_taught_in_other_words():
    taught = {(r["metadata"]["category"], r["output"]) for r in TRAIN}
    held_out = [r for r in VALID if r["metadata"]["category"] != "arithmetic"]
    assert all((r["metadata"]["category"], r["output"]) in taught for r in held_out)


def test_every_phrasing_of_definitions_and_procedures_is_held_out_somewhere_and_taught_elsewhere():
    for module in (definitions, procedures):
        forms = {re.escape(form).replace(r"\{term\}", ".+").replace(r"\{task\}", ".+") for form in module.PHRASINGS}
        for form in forms:
            assert any(re.fullmatch(form, record["instruction"]) for record in TRAIN)


def test_the_shipped_files_are_what_the_code_makes(tmp_path: Path):
    write_starter(tmp_path)
    for name in ("train.jsonl", "valid.jsonl"):
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes()


def test_the_data_path_starter_reads_the_shipped_split():
    splits = load_splits(DataConfig(path="starter", max_validation_examples=1000), seed=0)
    assert (len(splits.train), len(splits.validation)) == (len(TRAIN), len(VALID))
    assert not {e.key for e in splits.train} & {e.key for e in splits.validation}


def test_another_seed_gives_another_set_and_the_same_seed_the_same():
    assert to_jsonl(build_starter(1)[0]) != to_jsonl(TRAIN)
    assert to_jsonl(build_starter()[1]) == to_jsonl(VALID)


def test_fact_families_of_the_drawn_problems_never_meet():
    seen: set = set()
    for problem in arithmetic_problems():
        assert seen.isdisjoint(problem.family)
        seen |= problem.family


def test_a_problem_shares_its_key_with_its_commuted_form():
    assert Problem("addition", 23, 45).key == Problem("addition", 45, 23).key == Problem("subtraction", 45, 23).key


def test_asking_for_more_problems_than_can_be_kept_apart_is_refused():
    import random

    with pytest.raises(ValueError, match="keep their fact families apart"):
        draw_problems({"multiplication": len(all_problems("multiplication"))}, random.Random(0))
