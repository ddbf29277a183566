"""Algebra examples: proved by SymPy, every kind within, failures reported and skipped, the same bytes from a seed."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from fractions import Fraction

import pytest
import sympy

from toolkit.datasets.generate import algebra_proof as proof
from toolkit.datasets.generate import quadratic_equations, solution_checks
from toolkit.datasets.generate.algebra import ALGEBRA
from toolkit.datasets.generate.algebra_problems import Solved
from toolkit.datasets.generate.algebra_systems import system_problem
from toolkit.datasets.generate.equations import (
    Equation,
    Part,
    Root,
    constant,
    linear,
    normal_form,
    polynomial,
    quadratic_roots,
    rational,
    write,
)
from toolkit.datasets.generate.generator import Record, Rejected


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return list(ALGEBRA.make(1, 500))


def test_the_examples_of_a_seed_have_the_bytes_that_they_always_had(records: list[Record]) -> None:
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records[:300])
    assert (
        hashlib.sha256(lines.encode()).hexdigest() == "625dfd9c7c4f04bfe1a35813d9c0ccd64f8b7d2dfbc8764a38e1d9c70fd30cf9"
    )


def test_every_kind_of_problem_is_drawn_and_every_kind_of_solution(records: list[Record]) -> None:
    counts = Counter(record["metadata"]["kind"] for record in records)
    assert counts.keys() == {
        "linear equation", "quadratic equation", "system of 2", "system of 3", "equation story",
        "solution check",
    }  # fmt: skip
    assert min(counts.values()) > 20
    answers = "\n".join(record["output"].lower() for record in records)
    for said in ("√", "i", "no real solution", "double", "no solution", "every number", "infinitely many", "/"):
        assert said in answers, said


def test_a_proof_that_fails_is_reported_and_the_example_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(a: int, b: int, c: int) -> tuple[Root, ...]:
        return (Root(a + 100), Root(b - 100))

    monkeypatch.setattr(quadratic_equations, "quadratic_roots", wrong)
    told: list[str] = []
    kinds = {record["metadata"]["kind"] for record in ALGEBRA.make(1, 60, told.append)}
    assert "quadratic equation" not in kinds
    assert len(told) > 5 and sum("does not solve it" in one for one in told) > 5


def test_a_candidate_is_confirmed_or_refused_with_both_sides_or_in_one_word(records: list[Record]) -> None:
    checks = [record for record in records if record["metadata"]["kind"] == "solution check"]
    yes = sum(record["output"].startswith("Yes") for record in checks)
    assert 0.35 < yes / len(checks) < 0.65
    short = [record for record in checks if record["instruction"].endswith(solution_checks.SHORT)]
    assert {record["output"] for record in short} == {"Yes.", "No."}
    form = re.compile(
        r"Yes: with . = \S+ both sides are \S+\."
        r"|No: with . = \S+ the left side is \S+ and the right side is \S+"
    )
    assert all(form.fullmatch(record["output"]) for record in checks if record not in short)


def test_a_candidate_whose_sides_sympy_finds_to_be_others_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solution_checks, "at", lambda side, values: Fraction(3))
    with pytest.raises(Rejected, match="is not 3"):
        solution_checks.check_problem(random.Random(1))


def test_a_question_that_asks_for_a_check_gets_one_where_there_is_something_to_check(records: list[Record]) -> None:
    asked = re.compile(r"check the result|to check it|Check your result|prove that it fits")
    answers = [one["output"] for one in records if asked.search(one["instruction"])]
    answers = [one for one in answers if re.search(r"[a-z] = |\. Put back", one) and "no real solution." not in one]
    assert len(answers) > 20
    assert [one for one in answers if "Check: " not in one and "Put back" not in one] == []


def test_one_question_has_one_answer_and_wordings_differ(records: list[Record]) -> None:
    asked = {record["instruction"] + record["input"] for record in records}
    assert len(asked) > 0.98 * len(records)
    assert len({re.sub(r"\d+", "#", text) for text in asked}) > 0.7 * len(records)


def test_the_key_of_an_equation_does_not_depend_on_the_name_of_its_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = set()
    for name in "xtq":
        monkeypatch.setattr(quadratic_equations, "UNKNOWNS", name)
        monkeypatch.setattr(quadratic_equations, "_COEFFICIENTS", (lambda _: (2, -10, 12),))
        keys.add(quadratic_equations.quadratic_problem(random.Random(1)).key)
    assert keys == {"equation:1,-5,6"}
    assert normal_form((2, -10, 12)) == normal_form((-1, 5, -6)) == "1,-5,6"


X = "x"
SQUARE = Equation(polynomial(X, 1, -5, 6), constant(0))


def test_a_right_solution_is_proved_and_a_wrong_missing_or_invented_one_is_not() -> None:
    proof.prove_quadratic(SQUARE, X, 1, (Root(2), Root(3)))
    for roots in ((Root(2), Root(4)), (Root(2),), (Root(3),), (Root(2), Root(2))):
        with pytest.raises(Rejected):
            proof.prove_quadratic(SQUARE, X, 1, roots)
    line = Equation(polynomial(X, 3, 5), polynomial(X, 1, 11))
    proof.prove_linear(line, X, Root(3))
    with pytest.raises(Rejected):
        proof.prove_linear(line, X, Root(4))
    with pytest.raises(Rejected):
        proof.prove_linear(Equation(polynomial(X, 3, 5), polynomial(X, 3, 5)), X, Root(4))


def test_irrational_and_complex_solutions_are_compared_symbolically_not_by_floats() -> None:
    golden = Equation(polynomial(X, 1, -1, -1), constant(0))
    proof.prove_quadratic(golden, X, 1, (Root(1, 1, 5, 2), Root(1, -1, 5, 2)))
    close = sympy.Rational(sympy.GoldenRatio.evalf(40)).limit_denominator(10**15)
    with pytest.raises(Rejected):
        proof.prove_quadratic(golden, X, 1, (Root(int(close.p), s=int(close.q)), Root(1, -1, 5, 2)))
    proof.prove_quadratic(Equation(polynomial(X, 1, 2, 5), constant(0)), X, 1, (Root(-1, 2, -1), Root(-1, -2, -1)))


def test_a_system_is_proved_in_every_equation() -> None:
    rows = [((1, 1), 5), ((2, -1), 1)]
    equations = [Equation(linear("xy", factors), constant(right)) for factors, right in rows]
    proof.prove_system(equations, {"x": Root(2), "y": Root(3)})
    with pytest.raises(Rejected):
        proof.prove_system(equations, {"x": Root(3), "y": Root(2)})


def test_no_solution_and_infinitely_many_are_told_apart() -> None:
    same = Equation((Part(2, ((polynomial(X, 1, 3), 1),)),), polynomial(X, 2, 6))
    proof.prove_degenerate(same, True)
    for equation, always in ((same, False), (Equation(same.left, polynomial(X, 2, 7)), True), (SQUARE, False)):
        with pytest.raises(Rejected):
            proof.prove_degenerate(equation, always)
    first, second = (Equation(linear("xy", (n, 2 * n)), constant(3 * n)) for n in (1, 4))
    proof.prove_parallel(first, second, 4, True)
    with pytest.raises(Rejected):
        proof.prove_parallel(first, second, 4, False)


@pytest.mark.parametrize(
    ("numbers", "written"),
    [
        ((1, -5, 6), ["3", "2"]),
        ((1, 4, 4), ["-2"]),
        ((6, 1, -2), ["1/2", "-2/3"]),
        ((1, -2, -4), ["1 + √5", "1 - √5"]),
        ((4, -12, 7), ["(3 + √2)/2", "(3 - √2)/2"]),
        ((1, 2, 5), ["-1 + 2i", "-1 - 2i"]),
        ((1, -6, 11), ["3 + i√2", "3 - i√2"]),
        ((2, 0, -1), ["√2/2", "-√2/2"]),
        ((-1, 0, 8), ["2√2", "-2√2"]),
    ],
)
def test_roots_are_those_of_sympy_and_written_in_lowest_terms(
    numbers: tuple[int, int, int], written: list[str]
) -> None:
    a, b, c = numbers
    x = sympy.Symbol("x")
    roots = quadratic_roots(a, b, c)
    assert {sympy.nsimplify(proof.root_value(root)) for root in roots} == set(sympy.roots(a * x**2 + b * x + c, x))
    assert sorted(map(str, roots)) == sorted(written)


def test_equations_are_written_as_people_write_them() -> None:
    bracket = Part(-2, ((polynomial("t", 1, -3), 1),))
    assert write((bracket, Part(7))) == "-2(t - 3) + 7"
    assert write((Part(1, ((polynomial("t", 2, 1), 1),), 3),)) == "(2t + 1)/3"
    assert write(polynomial("x", -1, 0, Fraction(1, 2))) == "-x² + 1/2"
    assert write((Part(1, ((polynomial("x", 1, 4), 2),)),)) == "(x + 4)²"
    assert str(rational(Fraction(-7, 2))) == "-7/2"


def test_systems_of_three_are_solved_as_sympy_solves_them() -> None:
    solved = next(made for seed in range(50) if (made := _system(seed)) and made.kind == "system of 3")
    names = sympy.symbols(" ".join(solved.unknowns))
    rows = [proof.expression(one.left) - proof.expression(one.right) for one in solved.equations]
    (values,) = sympy.linsolve(rows, names)
    assert solved.solution.replace(" and ", ", ") == ", ".join(f"{n} = {v}" for n, v in zip(names, values, strict=True))


def _system(seed: int) -> Solved | None:
    try:
        return system_problem(random.Random(seed), 3)
    except Rejected:
        return None
