"""Arithmetic examples: the same bytes from a seed, every kind, answers in the form that the question asks for."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.datasets.generate import arithmetic_frames
from toolkit.datasets.generate.exact_arithmetic import ARITHMETIC
from toolkit.datasets.generate.generator import Record
from toolkit.datasets.generate.order_of_operations import text, value
from toolkit.datasets.generate.workings import (
    Operation,
    by_columns,
    by_places,
    difficulty_of,
    paper_steps,
    parts,
    working,
)

OPERATIONS: tuple[Operation, ...] = ("+", "-", "×", "÷")


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return list(ARITHMETIC.make(1, 4_000))


def test_the_examples_of_a_seed_have_the_bytes_that_they_always_had(records: list[Record]) -> None:
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records[:1_000])
    assert (
        hashlib.sha256(lines.encode()).hexdigest() == "e718904672332273b4489d0d4e62adf0daaeb7f83d7b4346d28483667bdee63c"
    )


def test_every_kind_of_problem_is_drawn(records: list[Record]) -> None:
    counts = Counter(record["metadata"]["kind"] for record in records)
    assert counts.keys() == {
        "addition", "subtraction", "multiplication", "division", "remainder", "division by zero", "fractions",
        "order of operations", "word problem",
    }  # fmt: skip
    assert min(counts.values()) > 100


def test_negative_and_large_numbers_and_answers_that_are_fractions_occur(records: list[Record]) -> None:
    kinds = ("addition", "subtraction", "multiplication", "division")
    binary = [record for record in records if record["metadata"]["kind"] in kinds]
    numbers = [record["metadata"]["key"].removeprefix("operands:").split(",") for record in binary]
    assert sum(any(one.startswith("-") for one in pair) for pair in numbers) > 200
    assert sum(any(len(one) > 9 for one in pair) for pair in numbers) > 100
    assert sum("/" in record["output"] for record in binary if record["metadata"]["kind"] == "division") > 30


def test_a_question_that_asks_for_the_number_alone_gets_nothing_else(records: list[Record]) -> None:
    asked = re.compile(r"only the number|Just the number|number alone|only the result", re.IGNORECASE)
    answers = [record["output"] for record in records if asked.search(record["instruction"])]
    assert len(answers) > 200
    assert [one for one in answers if not re.fullmatch(r"-?[\d,]+(/\d+)?|undefined", one)] == []


def test_a_question_that_asks_for_the_working_gets_equations(records: list[Record]) -> None:
    asked = re.compile(r"Show your working|Show every step|Step by step")
    answers = [record["output"] for record in records if asked.search(record["instruction"])]
    assert len(answers) > 100
    assert [one for one in answers if "=" not in one and "undefined" not in one] == []


def test_dividing_by_zero_is_said_to_be_undefined_and_nothing_else_is(records: list[Record]) -> None:
    said = [record for record in records if "undefined" in record["output"]]
    assert {record["metadata"]["kind"] for record in said} == {"division by zero", "order of operations"}
    zeros = [record for record in records if record["metadata"]["kind"] == "division by zero"]
    assert all("undefined" in record["output"] for record in zeros)


def test_wordings_differ_and_not_only_in_their_numbers(records: list[Record]) -> None:
    frames = {re.sub(r"\d+", "#", record["instruction"]) for record in records}
    assert len(frames) > 0.6 * len(records)
    assert len({record["instruction"] + record["input"] for record in records}) > 0.95 * len(records)


def test_one_question_has_one_answer(records: list[Record]) -> None:
    asked: dict[str, set[str]] = {}
    for record in records:
        asked.setdefault(f"{record['instruction']}|{record['input']}", set()).add(record["output"])
    assert [question for question, answers in asked.items() if len(answers) > 1] == []


def test_the_key_is_the_operand_pair_whatever_the_order_and_operation(records: list[Record]) -> None:
    for record in records:
        if record["metadata"]["kind"] in ("addition", "multiplication"):
            first, second = (int(one) for one in record["metadata"]["key"].removeprefix("operands:").split(","))
            assert first <= second


def test_steps_on_paper_are_counted_as_a_person_counts_them() -> None:
    assert [paper_steps("+", 3, 4), paper_steps("+", 38, 45), paper_steps("+", -38, 45)] == [1, 3, 4]
    assert [paper_steps("-", 82, 45), paper_steps("×", 12, 34), paper_steps("÷", 84, 7)] == [3, 6, 4]
    assert [round(difficulty_of(steps), 2) for steps in (0, 1, 12, 48)] == [0, 0.08, 0.5, 0.8]


@given(st.integers(-(10**9), 10**9), st.integers(-(10**6), 10**6), st.sampled_from(OPERATIONS))
def test_the_written_steps_end_at_the_result_that_python_finds(a: int, b: int, operation: Operation) -> None:
    if operation == "÷" and b == 0:
        b = 7
    exact = {"+": a + b, "-": a - b, "×": a * b, "÷": Fraction(a, b or 1)}[operation]
    assert working(operation, a, b)[-1].rpartition(" = ")[2] in (str(exact), f"-({-exact})")


@given(st.integers(0, 10**12))
def test_the_parts_of_a_number_add_up_to_it(number: int) -> None:
    assert sum(parts(number)) == number


def test_place_by_place_the_last_line_adds_up_the_columns() -> None:
    assert by_places("+", 347, 85) == ["300 + 0 = 300", "40 + 80 = 120", "7 + 5 = 12", "300 + 120 + 12 = 432"]
    assert by_places("-", 52, 38) == ["50 - 30 = 20", "2 - 8 = -6", "20 + (-6) = 14"]


def test_in_columns_each_digit_stands_with_its_carry_from_the_units_up() -> None:
    assert by_columns("+", 95, 7) == ["95 + 7: 5 + 7 = 12", "9 + 0 + 1 = 10"]
    assert by_columns("-", 103, 38) == ["103 - 38: 13 - 8 = 5", "10 - 3 - 1 = 6", "1 - 0 - 1 = 0"]
    assert by_columns("×", 7, 138) == ["7 × 138: 7 × 8 = 56", "7 × 3 + 5 = 26", "7 × 1 + 2 = 9"]


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.sampled_from("+-×"))
def test_the_columns_make_up_the_number_that_python_finds(a: int, b: int, operation: Operation) -> None:
    first, second = {"+": (a, b), "-": (max(a, b), min(a, b)), "×": (a % 10, b)}[operation]
    exact = {"+": first + second, "-": first - second, "×": first * second}[operation]
    columns = [int(line.rpartition(" = ")[2]) for line in by_columns(operation, first, second)]
    assert int(f"{columns[-1]}" + "".join(str(column % 10) for column in columns[-2::-1])) == exact


def test_a_request_for_columns_gets_columns(records: list[Record]) -> None:
    asked = [record for record in records if record["instruction"].endswith(arithmetic_frames.COLUMNS)]
    assert len(asked) > 500
    assert all(re.match(r"\d+ [-+×] \d+: \d+ [-+×] \d+ = \d+; ", record["output"]) for record in asked)


def test_the_easiest_sums_are_of_single_digits(records: list[Record]) -> None:
    single = [record for record in records if re.fullmatch(r"operands:\d,\d", record["metadata"]["key"])]
    assert len(single) > 250
    assert {record["metadata"]["kind"] for record in single} >= {"addition", "subtraction", "multiplication"}


def test_brackets_are_written_only_where_the_order_needs_them() -> None:
    assert text(("-", 9, ("-", 5, ("×", 2, 3)))) == "9 - (5 - 2 × 3)"
    assert text(("×", ("+", -1, 2), -3)) == "(-1 + 2) × (-3)"
    assert text(("-", ("-", 9, 5), 2)) == "9 - 5 - 2"
    assert value(("÷", 7, ("-", 9, 5))) == Fraction(7, 4)


def test_a_story_whose_two_formulas_agree_is_not_rejected() -> None:
    told: list[str] = []
    list(ARITHMETIC.make(1, 2_000, told.append))
    assert told == []
