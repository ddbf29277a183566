"""Ten thousand mathematical examples checked again from their own text, and wrong ones found."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from toolkit.datasets.generate.algebra import ALGEBRA
from toolkit.datasets.generate.exact_arithmetic import ARITHMETIC
from toolkit.datasets.generate.generator import Record
from toolkit.datasets.reverify.arithmetic import value_asked_for
from toolkit.datasets.reverify.columns import column_fault
from toolkit.datasets.reverify.examples import reverify
from toolkit.datasets.reverify.expressions import Unread, evaluate


@pytest.fixture(scope="module")
def arithmetic() -> list[Record]:
    return list(ARITHMETIC.make(11, 750))


@pytest.fixture(scope="module")
def algebra() -> list[Record]:
    return list(ALGEBRA.make(11, 250))


def _not_right(records: list[Record]) -> list[tuple[Any, ...]]:
    findings = [(reverify(record), record) for record in records]
    return [
        (found, one["instruction"], one["input"], one["output"]) for found, one in findings if found.verdict != "right"
    ]


def test_a_thousand_examples_are_right_by_their_own_text(arithmetic: list[Record], algebra: list[Record]) -> None:
    assert _not_right(arithmetic) == []
    assert _not_right(algebra) == []


@pytest.mark.slow
def test_ten_thousand_examples_are_right_by_their_own_text() -> None:
    assert _not_right(list(ARITHMETIC.make(12, 6_000))) == []
    assert _not_right(list(ALGEBRA.make(12, 4_000))) == []


def _with(record: Record, output: str) -> Record:
    return {**record, "output": output}


def _last_number_raised(output: str) -> str:
    """Add one to the last whole number of the answer."""
    return re.sub(r"\d+(?=\D*$)", lambda found: str(int(found[0]) + 1), output)


def _first_number_raised(output: str) -> str:
    return re.sub(r"\d+", lambda found: str(int(found[0]) + 1), output, count=1)


def test_no_arithmetic_example_with_a_wrong_result_passes(arithmetic: list[Record]) -> None:
    judged = [record for record in arithmetic if "undefined" not in record["output"]]
    assert len(judged) > 500
    passed = [
        one
        for record in judged
        if reverify(one := _with(record, _last_number_raised(record["output"]))).verdict == "right"
    ]
    assert passed == []


def test_a_wrong_step_is_found_where_the_result_is_right(arithmetic: list[Record]) -> None:
    stepped = [record for record in arithmetic if "The answer is" in record["output"] and "=" in record["output"]]
    assert len(stepped) > 50
    passed = [
        one
        for record in stepped
        if reverify(one := _with(record, _first_number_raised(record["output"]))).verdict == "right"
    ]
    assert passed == []


@pytest.mark.parametrize(
    "columns",
    [
        "47 + 38: 7 + 8 = 15; 4 + 3 + 1 = 8",
        "95 + 7: 5 + 7 = 12; 9 + 0 + 1 = 10",
        "52 - 38: 12 - 8 = 4; 5 - 3 - 1 = 1",
        "7 × 38: 7 × 8 = 56; 7 × 3 + 5 = 26",
    ],
)
def test_columns_with_the_right_digits_and_carries_are_right(columns: str) -> None:
    assert column_fault(f"{columns}. The answer is 1.") == ""
    assert column_fault(f"x = {columns}; x = 1.") == ""


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        ("47 + 38: 7 + 8 = 15; 4 + 3 = 7", "column 2"),
        ("47 + 38: 8 + 7 = 15; 4 + 3 + 1 = 8", "column 1"),
        ("41 + 38: 1 + 8 = 9; 4 + 3 + 1 = 8", "column 2"),
        ("47 + 138: 7 + 8 = 15; 4 + 3 + 1 = 8", "2 columns"),
        ("52 - 38: 12 - 8 = 4; 5 - 3 = 2", "column 2"),
        ("59 - 38: 19 - 8 = 11; 5 - 3 = 2", "column 1"),
        ("7 × 38: 7 × 8 = 56; 7 × 3 + 6 = 27", "column 2"),
        ("7 × 38: 8 × 7 = 56; 7 × 3 + 5 = 26", "column 1"),
    ],
)
def test_columns_with_another_digit_or_carry_are_wrong(columns: str, fault: str) -> None:
    assert fault in column_fault(f"{columns}. The answer is 1.")
    assert fault in column_fault(f"x = {columns}; x = 1.")


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("No.", "right"),
        ("Yes.", "wrong"),
        ("No: with x = 4 the left side is 11 and the right side is 13.", "right"),
        ("No: with x = 4 the left side is 12 and the right side is 13.", "wrong"),
        ("No: with x = 4 the left side is 11 and the right side is 14.", "wrong"),
        ("No: with x = 5 the left side is 11 and the right side is 13.", "wrong"),
        ("Yes: with x = 4 both sides are 13.", "wrong"),
        ("That depends.", "unread"),
    ],
)
def test_a_candidate_for_an_equation_is_put_in_again(answer: str, verdict: str) -> None:
    question = {"instruction": "Is x = 4 a solution of 2x + 3 = 13?", "metadata": {"category": "algebra"}}
    assert reverify({**question, "output": answer}).verdict == verdict


def test_an_equation_solved_in_columns_with_a_carry_left_out_is_wrong() -> None:
    question = {"instruction": "Solve x - 38 = 47.", "input": "", "metadata": {"category": "algebra"}}
    right = "x = 47 + 38: 7 + 8 = 15; 4 + 3 + 1 = 8; x = 85."
    assert reverify({**question, "output": right}).verdict == "right"
    assert reverify({**question, "output": right.replace("4 + 3 + 1 = 8", "4 + 3 = 7")}).verdict == "wrong"


def test_a_number_for_a_division_by_zero_is_wrong_and_undefined_for_any_other_sum_too(arithmetic: list[Record]) -> None:
    for record in arithmetic[:300]:
        said = "0" if "undefined" in record["output"] else "That is undefined."
        if record["metadata"]["kind"] != "remainder":
            assert reverify(_with(record, said)).verdict != "right", record


def test_no_algebra_example_with_a_wrong_solution_passes(algebra: list[Record]) -> None:
    no_number = ("no solution", "infinitely", "every number", "double")
    some = [record for record in algebra[:150] if re.search(r"\d", record["output"])]
    judged = [record for record in some if not any(said in record["output"].lower() for said in no_number)]
    assert len(judged) > 100
    passed = [
        one
        for record in judged
        if reverify(one := _with(record, _last_number_raised(record["output"]))).verdict == "right"
    ]
    assert passed == []


PLANTED: list[tuple[str, str, str, str]] = [
    ("arithmetic", "What is 17 × 4?", "17 × 4 is 68.", "17 × 4 is 67."),
    (
        "arithmetic",
        "Work out 8 - 3 × 2.",
        "3 × 2 = 6; 8 - 6 = 2. The answer is 2.",
        "8 - 3 = 5; 5 × 2 = 10. The answer is 10.",
    ),
    (
        "arithmetic",
        "Work out 8 - 3 × 2.",
        "3 × 2 = 6; 8 - 6 = 2. The answer is 2.",
        "3 × 2 = 5; 8 - 6 = 2. The answer is 2.",
    ),
    ("arithmetic", "Simplify 12/18.", "12/18 = 2/3", "12/18 = 4/6"),
    ("arithmetic", "Write 7/3 as a mixed number.", "7/3 = 2 1/3", "7/3 = 7/3"),
    ("arithmetic", "Which is larger, 2/3 or 3/5?", "2/3 is larger.", "3/5 is larger."),
    ("arithmetic", "What is the remainder when 17 is divided by 5?", "The remainder is 2.", "The remainder is 3."),
    (
        "arithmetic",
        "Is 21 divisible by 7? If not, what is the remainder?",
        "Yes: 7 × 3 = 21.",
        "No, the remainder is 1.",
    ),
    ("arithmetic", "Divide 9 by 0.", "9 ÷ 0 is undefined.", "9 ÷ 0 = 0"),
    (
        "arithmetic",
        "A bus has 20 seats. How many buses does the school need for 41 people?",
        "3 buses are needed.",
        "2 buses are needed.",
    ),
    ("algebra", "Solve x² - 5x + 6 = 0.", "x = 2 or x = 3", "x = 2"),
    ("algebra", "Solve x² - 5x + 6 = 0.", "x = 2 or x = 3", "x = 2 or x = 3 or x = 4"),
    ("algebra", "Solve x² - 2x - 4 = 0.", "x = 1 + √5 or x = 1 - √5", "x = 1 + √6 or x = 1 - √6"),
    ("algebra", "Solve x² + 1 = 0. Work over the complex numbers.", "x = i or x = -i", "There is no real solution."),
    ("algebra", "Solve 3x² = 19.", "x = √57/3 or x = -√57/3", "x = √19 or x = -√19"),
    ("algebra", "Solve x² + 1 = 0. Only real solutions count.", "There is no real solution.", "x = i or x = -i"),
    ("algebra", "Solve 2(t + 1) = 2t + 2.", "Every number solves it.", "There is no solution."),
    ("algebra", "Solve 2(t + 1) = 2t + 3.", "There is no solution.", "Every number solves it."),
    ("algebra", "Solve 3a + 1 = 10 for a.", "3a = 9; a = 3.", "3a = 8; a = 3."),
    ("algebra", "Solve x + y = 5 and x - y = 1 for x and y.", "x = 3 and y = 2.", "x = 2 and y = 3."),
    (
        "algebra",
        "Three whole numbers in a row add up to 12. Which are they?",
        "They are 3, 4 and 5.",
        "They are 4, 5 and 6.",
    ),
]


@pytest.mark.parametrize(("category", "question", "right", "wrong"), PLANTED)
def test_the_right_answer_passes_and_the_planted_one_is_wrong(
    category: str, question: str, right: str, wrong: str
) -> None:
    example = {"instruction": question, "input": "", "metadata": {"category": category}}
    assert reverify({**example, "output": right}).verdict == "right"
    assert reverify({**example, "output": wrong}).verdict == "wrong"


def test_what_it_cannot_read_is_no_verdict() -> None:
    for category, question in (
        ("arithmetic", "How many roads are there?"),
        ("algebra", "Prove it."),
        ("algebra", "Is x = 4 a solution of this puzzle?"),
        ("algebra", "Does x = 4 solve 2x = 8 and 3x = 12?"),
        ("python", "1 + 1"),
    ):
        example = {"instruction": question, "input": "", "output": "7", "metadata": {"category": category}}
        assert reverify(example).verdict == "unread"
    with pytest.raises(Unread):
        value_asked_for("What is 3 + 4? And what is 5 × 9?")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 + 3 * 4", 14), ("(2 + 3) × 4", 20), ("-3 - (-5)", 2), ("12 / 4 / 3", 1), ("3/4 ÷ 1/2", 1.5),
        ("2 1/2 + 1", 3.5), ("1,200 - 200", 1000), ("7 - 5 - 2", 0), ("(-3)²", 9), ("2 × (-3)", -6),
    ],
)  # fmt: skip
def test_expressions_are_read_with_the_usual_order(text: str, value: float) -> None:
    assert evaluate(text) == value


@pytest.mark.parametrize("text", ["", "3 +", "(3", "three", "3 4", "x + 1"])
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(Unread):
        evaluate(text)


def test_the_metadata_is_not_asked(arithmetic: list[Record]) -> None:
    read: Callable[[Record], str] = lambda record: reverify(record).verdict  # noqa: E731
    assert all(read({**one, "metadata": {"category": "arithmetic"}}) == "right" for one in arithmetic[:50])
