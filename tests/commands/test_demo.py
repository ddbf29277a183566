"""`toolkit demo`: the whole way, on a model too small to keep its promises; and the promises themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from toolkit.cli import main
from toolkit.commands import demo as demo_module
from toolkit.commands.demo import AFTER, BEFORE, QUANTISED, check_promises, choose_samples, show_outcome
from toolkit.datasets.schema import Example, Message
from toolkit.errors import JobFailed
from toolkit.evaluate.evaluation import NEAREST, Evaluation
from toolkit.evaluate.exact_match import Answer
from toolkit.evaluate.suites import Suite
from toolkit.runs import RunFolder


def suite(*counts: tuple[str, int]) -> Suite:
    examples = tuple(
        Example((Message("user", f"{family} {i}"), Message("assistant", "x")), {"category": family}, f"{family}:{i}")
        for family, count in counts
        for i in range(count)
    )
    return Suite("starter/validation", examples, len(examples))


def with_shares(arithmetic: float, facts: float, questions: Suite, target: str) -> Evaluation:
    answers = []
    for family, share in (("arithmetic", arithmetic), ("facts", facts)):
        n = sum(question.family == family for question in questions.questions)
        answers += [Answer("x", True, i < round(share * n)) for i in range(n)]
    return Evaluation(target, questions, tuple(answers), (), ())


def four(before: float, after: float, quantised: float, nearest: float) -> dict[str, Evaluation]:
    asked = suite(("arithmetic", 100), ("facts", 100))
    shares = {BEFORE: before, AFTER: after, QUANTISED: quantised, NEAREST: nearest}
    return {heading: with_shares(share, share, asked, heading) for heading, share in shares.items()}


@pytest.mark.parametrize(
    ("figures", "kept"),
    [
        ((0.05, 0.95, 0.93, 0.20), [True, True, True]),
        ((0.45, 0.95, 0.90, 0.65), [True, True, True]),
        ((0.46, 0.95, 0.95, 0.20), [False, True, True]),
        ((0.05, 0.95, 0.95, 0.66), [True, False, True]),
        ((0.05, 0.95, 0.89, 0.20), [True, True, False]),
    ],
)
def test_each_promise_is_held_against_the_figures(figures: tuple[float, ...], kept: list[bool]) -> None:
    assert [promise.kept for promise in check_promises(four(*figures))] == kept


def test_the_lead_over_the_baseline_is_that_of_arithmetic_alone() -> None:
    asked = suite(("arithmetic", 10), ("facts", 90))
    evaluations = {
        BEFORE: with_shares(0, 0, asked, BEFORE),
        AFTER: with_shares(0.2, 1, asked, AFTER),
        QUANTISED: with_shares(0.2, 1, asked, QUANTISED),
        NEAREST: with_shares(0, 0, asked, NEAREST),
    }
    rise, lead, loss = check_promises(evaluations)
    assert (rise.kept, lead.kept, loss.kept) == (True, False, True)
    assert lead.figure == pytest.approx(20)


def test_a_missed_promise_is_printed_and_fails_the_job(tmp_path: Path, capsys) -> None:
    promises = check_promises(four(0.9, 0.95, 0.5, 0.2))
    with pytest.raises(JobFailed) as caught:
        show_outcome(promises, RunFolder(tmp_path / "run"), tmp_path / "run.gguf")
    assert caught.value.exit_code == 1
    assert len(caught.value.problems) == 2
    printed = capsys.readouterr().out
    assert printed.count("MISSED") == 2 and printed.count("kept") == 1
    assert "toolkit chat" in printed


def test_samples_are_the_first_question_of_each_family_and_then_the_second_ones() -> None:
    asked = suite(("sums", 5), ("facts", 5))
    chosen = [asked.questions[index] for index in choose_samples(asked)]
    assert [(question.family, question.text) for question in chosen] == [
        ("facts", "facts 0"),
        ("sums", "sums 0"),
        ("facts", "facts 1"),
    ]


def test_the_demonstration_goes_the_whole_way_and_can_be_repeated(
    build_tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # K-quants need rows of 256 numbers.
    model = build_tiny_model(family="qwen2", hidden_size=256)
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        f"model: {model}\nmethod: full\n"
        "data: {path: starter, max_examples: 12, max_validation_examples: 6}\n"
        "train: {max_steps: 2, batch_size: 4, learning_rate: 1e-4, device: cpu}\n"
    )
    monkeypatch.setattr(demo_module, "recipe", lambda name: recipe)
    result = CliRunner().invoke(main, ["demo"])
    assert result.exit_code == 1, result.output
    assert "promised: exact match rises by at least 50 points" in result.stderr
    assert "before" in result.stdout and "Q4_K_M in llama.cpp" in result.stdout and "nearest question" in result.stdout
    (run,) = (tmp_path / "runs").iterdir()
    assert sorted(path.name for path in run.rglob("*.gguf")) == sorted(
        [f"{run.name}-Q4_K_M.gguf", f"{model.name}-Q4_K_M.gguf"]
    )
    rows = json.loads((run / "evaluation.json").read_text())
    assert len({row["target"] for row in rows}) == 4
    assert {(row["metric"], row["target"]) for row in rows if row["metric"] == "perplexity"} == {
        ("perplexity", target) for target in {row["target"] for row in rows} - {NEAREST}
    }
    page = (run / "report.html").read_text("utf-8")
    assert "<svg" in page and "every weight trained on starter" in page
    monkeypatch.setattr(demo_module, "run_finetune", lambda config, name: (_ for _ in ()).throw(JobFailed(str(name))))
    again = CliRunner().invoke(main, ["demo"])
    assert "None" in again.stderr, "without --name the run is counted up, never overwritten"
