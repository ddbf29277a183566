"""`toolkit evaluate`: which data, which split, what is printed and what is saved."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from toolkit.backends import Target
from toolkit.cli import main
from toolkit.commands.evaluate import choose_data
from toolkit.commands.evaluation_table import console_for_results, format_comparison, tables
from toolkit.config import DataConfig, FinetuneConfig, TrainConfig
from toolkit.config_files import save_config
from toolkit.errors import ToolkitError
from toolkit.evaluate.evaluation import Comparison
from toolkit.evaluate.intervals import paired_difference
from toolkit.evaluate.results import EvaluationRow

KEYS = {"target", "suite", "family", "metric", "value", "low", "high", "n"}


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    """A folder with 12 training and 4 validation examples in two families."""
    folder = tmp_path / "facts"
    folder.mkdir()
    for name, numbers in (("train", range(12)), ("valid", range(12, 16))):
        records = [
            {
                "instruction": f"What is {number} plus {number}?",
                "output": str(2 * number),
                "metadata": {"category": "even" if number % 2 == 0 else "odd", "key": f"{number}+{number}"},
            }
            for number in numbers
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.fixture
def evaluate() -> Callable[..., Result]:
    """Run `toolkit evaluate` with arguments."""
    return lambda *arguments: CliRunner().invoke(main, ["evaluate", *map(str, arguments), "--device", "cpu"])


def make_run(root: Path, config: FinetuneConfig) -> Target:
    run = root / "my-run"
    run.mkdir(parents=True)
    save_config(config, run / "config.yaml")
    return Target("run", "my-run", run_folder=run)


def test_a_model_and_the_baseline_are_measured_side_by_side(tiny_qwen2: Path, facts: Path, evaluate, tmp_path) -> None:
    out = tmp_path / "out"
    result = evaluate(tiny_qwen2, "--data", facts, "--baseline", "nearest", "--json", "--out", out)
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert json.loads((out / "evaluation.json").read_text()) == printed["rows"]
    assert all(set(row) == KEYS for row in printed["rows"])
    by_metric = {(row["target"], row["metric"], row["family"]): row["n"] for row in printed["rows"]}
    assert by_metric[tiny_qwen2.name, "exact_match", "overall"] == 4
    assert by_metric[tiny_qwen2.name, "perplexity", "even"] == 2
    assert by_metric["nearest question", "exact_match", "odd"] == 2
    assert {row["suite"] for row in printed["rows"]} == {"facts/validation"}
    assert [one["second"] for one in printed["comparisons"]] == ["nearest question"]


def test_tables_show_families_with_n_and_intervals(tiny_qwen2: Path, facts: Path, evaluate) -> None:
    result = evaluate(tiny_qwen2, "--data", facts, "--baseline", "nearest")
    assert result.exit_code == 0, result.output
    assert "Exact match in % (95 % interval) · facts/validation" in result.stdout
    assert "Perplexity" in result.stdout
    assert "0.0 (0.0–49.0)" in result.stdout  # Wilson, 0 of 4
    assert "not saved" in result.stderr


def test_answers_can_be_kept_for_reading(tiny_qwen2: Path, facts: Path, evaluate, tmp_path: Path) -> None:
    kept = tmp_path / "answers.jsonl"
    result = evaluate(tiny_qwen2, "--data", facts, "--max-examples", 3, "--answers", kept)
    assert result.exit_code == 0, result.output
    answers = [json.loads(line) for line in kept.read_text("utf-8").splitlines()]
    assert len(answers) == 3
    assert set(answers[0]) == {
        "target", "where", "family", "question", "reference", "text", "finished", "correct",
    }  # fmt: skip
    assert "3 of 4 examples" in result.stderr


def test_a_run_is_measured_on_its_own_data_with_its_own_seed(facts: Path, tmp_path: Path) -> None:
    data = DataConfig(path=str(facts / "train.jsonl"), validation=0.25, prompt="instruction", completion="output")
    run = make_run(tmp_path / "runs", FinetuneConfig(data=data, train=TrainConfig(seed=7)))
    assert choose_data([run], None, []) == (data, 7, True)
    assert choose_data([run], str(facts / "train.jsonl"), []) == (data, 7, True)
    other, seed, is_own = choose_data([run], str(facts / "valid.jsonl"), ["data.system=Be kind."])
    assert (other, seed, is_own) == (DataConfig(path=str(facts / "valid.jsonl"), system="Be kind."), 0, False)


def test_a_lone_file_that_no_run_was_trained_on_is_measured_whole(tiny_qwen2: Path, facts: Path, evaluate) -> None:
    result = evaluate(tiny_qwen2, "--data", facts / "valid.jsonl", "--json")
    rows = json.loads(result.stdout)["rows"]
    assert {row["suite"] for row in rows} == {"valid"}
    assert max(row["n"] for row in rows) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}", "--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["nothing-here", "nor-here", "--data", "starter"], "nor-here"),
        (["{model}"], "which data? No run among the targets says. For example: --data starter"),
        (["{model}", "--data", "{facts}", "--set", "train.seed=1"], "only data.… options can be set here"),
        (["{model}", "--data", "{facts}", "--split", "test"], "there is no test split"),
        (["{model}", "--data", "{facts}/valid.jsonl", "--baseline", "nearest"], "needs training questions"),
        (["{model}", "--data", "{facts}", "--set", "data.promt=x"], "Did you mean data.prompt?"),
    ],
)
def test_bad_requests_are_one_line_each_and_exit_2(
    arguments: Sequence[str], message: str, tiny_qwen2: Path, facts: Path, evaluate
) -> None:
    result = evaluate(*(argument.format(model=tiny_qwen2, facts=facts) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert all(line.startswith("error: ") for line in result.stderr.strip().splitlines())


def test_figures_land_in_the_run_that_is_measured(tiny_qwen2: Path, facts: Path, tmp_path: Path, evaluate) -> None:
    run = make_run(tmp_path / "runs", FinetuneConfig(data=DataConfig(path=str(facts))))
    assert run.run_folder is not None
    (run.run_folder / "model").symlink_to(tiny_qwen2)
    result = evaluate("my-run", tiny_qwen2)
    assert result.exit_code == 0, result.output
    rows = json.loads((run.run_folder / "evaluation.json").read_text())
    assert {row["target"] for row in rows} == {"my-run", tiny_qwen2.name}
    assert "McNemar p = 1.000" in result.stdout


def test_tables_have_families_in_rows_targets_in_columns_and_dashes_where_nothing_was_measured() -> None:
    def row(target: str, family: str, metric: str, value: float) -> EvaluationRow:
        return EvaluationRow(target, "set/validation", family, metric, value, value, value, 10)

    rows = [
        row("nano", "sums", "exact_match", 0.1),
        row("nano", "overall", "exact_match", 0.1),
        row("nano", "sums", "perplexity", 9.0),
        row("nano", "facts", "perplexity", 8.0),
        row("run", "sums", "perplexity", 1.5),
        row("nearest", "sums", "exact_match", 0.3),
    ]
    exact, perplexity = tables(rows, {"nano": "before", "run": "after"})
    assert [column.header for column in exact.columns] == ["family", "n", "before", "nearest"]
    assert [column.header for column in perplexity.columns] == ["family", "n", "before", "after"]
    assert list(exact.columns[3].cells) == ["30.0 (30.0–30.0)", "–"]
    assert list(perplexity.columns[3].cells) == ["1.50 (1.50–1.50)", "–"]


def test_a_table_fits_120_columns_where_stdout_is_a_pipe() -> None:
    assert console_for_results().width == 120


def test_a_comparison_is_one_sentence() -> None:
    comparison = Comparison("before", "after", "overall", paired_difference([False] * 20, [True] * 20))
    assert format_comparison(comparison).startswith("after against before, overall: +100.0 points (")
    assert format_comparison(comparison).endswith("McNemar p < 0.001")


def test_overrides_of_other_sections_are_all_named_at_once() -> None:
    with pytest.raises(ToolkitError) as caught:
        choose_data([], "starter", ["train.seed=1", "lora.rank=2", "data.validation=0.1"])
    assert len(caught.value.problems) == 2
