"""Rows by family, comparisons and evaluation.json."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from toolkit.config import DataConfig
from toolkit.errors import ToolkitError
from toolkit.evaluate.evaluation import Evaluation, compare, evaluate_nearest
from toolkit.evaluate.exact_match import Answer
from toolkit.evaluate.intervals import Estimate
from toolkit.evaluate.perplexity import ExampleLoss
from toolkit.evaluate.results import EvaluationRow, format_figure, make_row, read_rows, rows_as_json, save_rows
from toolkit.evaluate.suites import Suite, load_suite

KEYS = {"target", "suite", "family", "metric", "value", "low", "high", "n"}


def suite_of(examples, training=()) -> Suite:
    return Suite("set/validation", tuple(examples), len(examples), tuple(training))


def evaluated(target: str, suite: Suite, correct: list[bool], losses: list[float] | None = None) -> Evaluation:
    answers = tuple(Answer("x", True, right) for right in correct)
    measured = tuple(ExampleLoss(loss, 1.0) for loss in losses or [])
    named = tuple(question.family for question in suite.questions) if losses else ()
    return Evaluation(target, suite, answers, measured, named)


def test_figures_are_given_by_family_and_overall(example) -> None:
    suite = suite_of([example("1+1", "2", "sums"), example("2+2", "4", "sums"), example("why", "so", "facts")])
    rows = evaluated("t", suite, [True, False, True], [1.0, 3.0, 2.0]).rows()
    exact = {row.family: (row.value, row.n) for row in rows if row.metric == "exact_match"}
    assert exact == {"facts": (1.0, 1), "sums": (0.5, 2), "overall": (2 / 3, 3)}
    perplexities = {row.family: row.value for row in rows if row.metric == "perplexity"}
    assert perplexities == {
        "facts": pytest.approx(math.exp(2)),
        "sums": pytest.approx(math.exp(2)),
        "overall": pytest.approx(math.exp(2)),
    }
    assert list(dict.fromkeys(row.family for row in rows)) == ["facts", "sums", "overall"]


def test_data_without_categories_is_one_family_called_all(example) -> None:
    rows = evaluated("t", suite_of([example("a", "b"), example("c", "d")]), [True, False]).rows()
    assert [(row.family, row.n) for row in rows] == [("all", 2)]


def test_examples_without_a_category_among_others_are_called_other(example) -> None:
    rows = evaluated("t", suite_of([example("a", "b"), example("c", "d", "facts")]), [True, False]).rows()
    assert [row.family for row in rows] == ["facts", "other", "overall"]


def test_comparisons_pair_the_same_questions_family_by_family(example) -> None:
    suite = suite_of([example(f"q{i}", "a", "sums" if i < 6 else "facts") for i in range(10)])
    first = evaluated("before", suite, [False] * 10)
    second = evaluated("after", suite, [True] * 6 + [False] * 4)
    by_family = {one.family: one.exact_match.difference for one in compare(first, second)}
    assert by_family == {"facts": 0.0, "sums": 1.0, "overall": 0.6}


def test_evaluations_of_different_questions_are_not_compared(example) -> None:
    first = evaluated("a", suite_of([example("q", "a")]), [True])
    second = evaluated("b", suite_of([example("r", "a")]), [True])
    with pytest.raises(ValueError):
        compare(first, second)


def test_the_baseline_answers_from_the_training_questions_alone(example) -> None:
    suite = suite_of(
        [example("What is 3 + 4?", "7"), example("What is 9 + 9?", "18")], [example("What is 3 + 4 ?", "7")]
    )
    assert [answer.correct for answer in evaluate_nearest(suite).answers] == [True, False]
    assert {row.metric for row in evaluate_nearest(suite).rows()} == {"exact_match"}


def test_every_row_of_the_file_has_the_documented_keys_and_strict_json(tmp_path: Path, example) -> None:
    path = tmp_path / "run" / "evaluation.json"
    rows = evaluated("t", suite_of([example("a", "b")]), [True], [2e6]).rows()
    save_rows(path, rows)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    loaded = json.loads(path.read_text("utf-8"), parse_constant=refuse)
    assert all(set(row) == KEYS for row in loaded)
    assert next(row for row in loaded if row["metric"] == "perplexity")["value"] is None
    assert [row.metric for row in read_rows(path)] == ["exact_match", "perplexity"]


def test_measuring_again_replaces_the_same_target_and_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"

    def row(target: str, value: float) -> EvaluationRow:
        return make_row(target, "s", "all", "exact_match", Estimate(value, 0.0, 1.0, 3))

    save_rows(path, [row("a", 0.1), row("b", 0.2)])
    save_rows(path, [row("b", 0.9)])
    assert [(kept.target, kept.value) for kept in read_rows(path)] == [("a", 0.1), ("b", 0.9)]


def test_a_file_that_is_no_evaluation_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text('{"precious": true}')
    with pytest.raises(ToolkitError, match="not a list of evaluation rows"):
        save_rows(path, [])
    assert path.read_text() == '{"precious": true}'


def test_figures_are_written_as_people_read_them() -> None:
    percent = EvaluationRow("t", "s", "f", "exact_match", 0.975, 0.9407, 0.9901, 200)
    hopeless = EvaluationRow("t", "s", "f", "perplexity", math.inf, None, None, 1)
    assert format_figure(percent) == "97.5 (94.1–99.0)"
    assert format_figure(EvaluationRow("t", "s", "f", "perplexity", 1.0833, 1.05, 1.12, 200)) == "1.08 (1.05–1.12)"
    assert format_figure(EvaluationRow("t", "s", "f", "perplexity", 4719.6, None, None, 200)) == "4,720"
    assert format_figure(hopeless) == "over a million"
    assert format_figure(None) == "–"
    assert json.loads(rows_as_json([hopeless]))[0]["value"] is None


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    path = tmp_path / "facts.jsonl"
    lines = [json.dumps({"instruction": f"q{i}", "output": f"a{i}", "metadata": {"key": f"k{i}"}}) for i in range(40)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_held_out_share_is_the_one_that_the_seed_drew_and_never_meets_training(data_file: Path) -> None:
    data = DataConfig(path=str(data_file), validation=0.25)
    suite = load_suite(data, 3, "validation")
    again = load_suite(data, 3, "validation")
    other = load_suite(data, 4, "validation")
    assert suite.name == "facts/validation"
    assert len(suite.examples) == suite.available == 10
    assert not {example.key for example in suite.examples} & {example.key for example in suite.training}
    assert suite.examples == again.examples != other.examples


def test_a_limit_draws_by_seed_and_says_how_many_there_are(data_file: Path) -> None:
    suite = load_suite(DataConfig(path=str(data_file)), 0, "all", 7)
    assert (len(suite.examples), suite.available, suite.name) == (7, 40, "facts")
    assert load_suite(DataConfig(path=str(data_file)), 0, "all", 7).examples == suite.examples


def test_a_split_that_is_not_there_is_named_with_one_that_is(data_file: Path) -> None:
    with pytest.raises(ToolkitError, match="there is no test split.*--split validation"):
        load_suite(DataConfig(path=str(data_file)), 0, "test")
