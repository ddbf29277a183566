"""`toolkit evaluate`: exact match and perplexity of one or more targets on the same held-out examples, side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from toolkit.atomic_files import write_atomic
from toolkit.backends import Target, open_target, resolve_target
from toolkit.commands.evaluation_table import console_for_results, format_comparison, tables
from toolkit.commands.options import backend_option, full_base_option
from toolkit.commands.progress import say
from toolkit.config import DataConfig, DeviceChoice, FinetuneConfig
from toolkit.config_files import load_config
from toolkit.errors import Problem, ToolkitError
from toolkit.evaluate.evaluation import (
    Comparison,
    Evaluation,
    compare,
    evaluate_nearest,
    evaluate_scorer,
    work_units,
)
from toolkit.evaluate.questions import OVERALL, SINGLE_FAMILY
from toolkit.evaluate.results import EvaluationRow, rows_as_json, save_rows
from toolkit.evaluate.suites import SplitName, Suite, load_suite
from toolkit.runs import RunFolder, runs_root


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@click.option("--data", "data_path", help="File, folder or `starter`. Default: what the (first) run was trained on.")
@click.option(
    "--split",
    type=click.Choice(get_args(SplitName)),
    help="Which part. Default: validation; `all` for a single file that the run was not trained on.",
)
@click.option("--max-examples", type=click.IntRange(min=1), help="At most this many, drawn by seed. [default: 200]")
@click.option("--baseline", type=click.Choice(["nearest"]), help="Add: the nearest training question's answer.")
@click.option("--seed", type=click.IntRange(min=0), help="Draws split and limit. Default: the (first) run's, else 0.")
@click.option("--set", "overrides", multiple=True, metavar="data.KEY=VALUE", help="How to read the data (repeatable).")
@click.option("--device", type=click.Choice(get_args(DeviceChoice)), default="auto", show_default=True, help="Where.")
@backend_option
@full_base_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--out", type=click.Path(path_type=Path), help="Save evaluation.json in this folder (or as this .json).")
@click.option("--answers", type=click.Path(path_type=Path, dir_okay=False), help="Save every answer as JSON lines.")
def evaluate(
    targets: tuple[str, ...],
    data_path: str | None,
    split: SplitName | None,
    max_examples: int | None,
    baseline: str | None,
    seed: int | None,
    overrides: tuple[str, ...],
    device: str,
    backend: str,
    full_base: bool,
    as_json: bool,
    out: Path | None,
    answers: Path | None,
) -> None:
    """Measure every TARGET on the same held-out examples and compare them.

    A TARGET is a run, an adapter folder, a model folder, a hub name, nano or a .gguf file. The figures are saved as
    evaluation.json in the run's folder when one run is among the targets.
    """
    resolved = resolve_all(targets)
    run = _only_run(resolved)
    data, run_seed, is_own = choose_data(resolved, data_path, overrides)
    lone_file = Path(data.path).is_file() and not is_own and not isinstance(data.validation, str)
    suite = load_suite(
        data,
        run_seed if seed is None else seed,
        split or ("all" if lone_file else "validation"),
        max_examples,
    )
    if baseline and not suite.training:
        hint = "Name a folder with train and valid files, or --split validation"
        raise ToolkitError("the nearest-question baseline needs training questions", where="--baseline", hint=hint)
    evaluations = evaluate_targets(resolved, suite, device, backend, full_base=full_base)
    if baseline:
        evaluations.append(evaluate_nearest(suite))
    rows = [row for evaluation in evaluations for row in evaluation.rows()]
    place = _place(out, run)
    if place is not None:
        save_rows(place, rows)
    if answers is not None:
        _save_answers(answers, evaluations)
    if as_json:
        _print_json(rows, evaluations, place)
    else:
        _print_tables(rows, evaluations, place)


def resolve_all(targets: Sequence[str]) -> list[Target]:
    """Resolve every target, or raise one ToolkitError that names all that cannot be."""
    resolved: list[Target] = []
    problems: list[Problem] = []
    for text in targets:
        try:
            resolved.append(resolve_target(text, runs_root()))
        except ToolkitError as error:
            problems.extend(error.problems)
    if problems:
        raise ToolkitError.gather(problems)
    return resolved


def choose_data(
    targets: Sequence[Target], data_path: str | None, overrides: Sequence[str]
) -> tuple[DataConfig, int, bool]:
    """Return the data options, the seed, and whether they are those of a run among the targets.

    Without `data_path`, or where it names the run's own data, the first run's options apply, field mapping included.
    """
    wrong = [text for text in overrides if not text.startswith("data.")]
    if wrong:
        problems = [Problem("only data.… options can be set here", f"--set {text}") for text in wrong]
        raise ToolkitError.gather(problems)
    runs = [config for target in targets if (config := _run_config(target)) is not None]
    flags = {"data.path": data_path}
    for config, path in runs:
        if data_path is None or _same_place(data_path, config.data.path):
            loaded = load_config(FinetuneConfig, path, overrides)
            return loaded.data, loaded.train.seed, True
    if data_path is None and not any(text.startswith("data.path=") for text in overrides):
        raise ToolkitError(
            "which data? No run among the targets says", where="--data", hint="For example: --data starter"
        )
    return load_config(FinetuneConfig, None, overrides, flags).data, 0, False


def _run_config(target: Target) -> tuple[FinetuneConfig, Path] | None:
    """Return the options of a fine-tuning run; None for other targets."""
    if target.run_folder is None:
        return None
    run = RunFolder(Path(target.run_folder))
    if not run.config_path.is_file():
        return None
    try:
        return load_config(FinetuneConfig, run.config_path), run.config_path
    except ToolkitError:
        return None  # A pre-training run's options are others.


def _same_place(first: str, second: str) -> bool:
    return first == second or Path(first).expanduser().resolve() == Path(second).expanduser().resolve()


def _only_run(targets: Sequence[Target]) -> RunFolder | None:
    folders = {Path(target.run_folder) for target in targets if target.run_folder is not None}
    return RunFolder(folders.pop()) if len(folders) == 1 else None


def _place(out: Path | None, run: RunFolder | None) -> Path | None:
    if out is not None:
        return out if out.suffix == ".json" else out / "evaluation.json"
    return None if run is None else run.evaluation_path


def evaluate_targets(
    targets: Sequence[Target], suite: Suite, device: str, backend: str = "auto", *, full_base: bool = False
) -> list[Evaluation]:
    """Open, measure and close one target after the other, with progress on stderr."""
    evaluations = []
    for target, name in zip(targets, _names(targets), strict=True):
        with _progress(name, work_units(suite)) as advance:
            opened = open_target(target, device, backend_choice=backend, full_base=full_base, report=say)
            try:
                context = opened.context
                evaluations.append(
                    evaluate_scorer(name, opened.scorer, opened.tokenizer, suite, context=context, advance=advance)
                )
            finally:
                opened.scorer.close()
    return evaluations


def _names(targets: Sequence[Target]) -> list[str]:
    """Name the columns; two files of one name in two folders are told apart by their paths."""
    labels = [target.label for target in targets]
    paths = [target.gguf_file or target.adapter_folder or target.model_folder for target in targets]
    return [label if labels.count(label) == 1 else str(path) for label, path in zip(labels, paths, strict=True)]


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr where that is a terminal; else nothing but the name."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        click.echo(f"evaluating {name}", err=True)
        yield lambda done: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"evaluating {name}", total=total)
        yield lambda done: progress.advance(task, done)


def overall_comparisons(evaluations: Sequence[Evaluation]) -> list[Comparison]:
    """Compare every later evaluation with the first, over all questions."""
    if not evaluations[0].answers:
        return []
    pairs = [compare(evaluations[0], later) for later in evaluations[1:]]
    return [one for comparisons in pairs for one in comparisons if one.family in (OVERALL, SINGLE_FAMILY)]


def _print_tables(rows: Sequence[EvaluationRow], evaluations: Sequence[Evaluation], place: Path | None) -> None:
    console = console_for_results()
    for table in tables(rows):
        console.print(table)
    for comparison in overall_comparisons(evaluations):
        console.print(format_comparison(comparison), markup=False)
    for line in notes(evaluations, place):
        click.echo(line, err=True)


def notes(evaluations: Sequence[Evaluation], place: Path | None) -> list[str]:
    """Say what the figures leave out, and where they were saved."""
    suite = evaluations[0].suite
    lines = []
    if len(suite.examples) < suite.available:
        lines.append(f"{len(suite.examples):,} of {suite.available:,} examples, drawn by seed (--max-examples)")
    lines += [
        f"{evaluation.target}: {evaluation.truncated:,} examples do not fit its context: perplexity of their beginnings"
        for evaluation in evaluations
        if evaluation.truncated
    ]
    lines += [
        f"{evaluation.target}: {evaluation.dropped:,} examples have no perplexity: their prompts fill its context"
        for evaluation in evaluations
        if evaluation.dropped
    ]
    lines.append(f"saved: {place}" if place else "not saved: no single run among the targets, and no --out")
    return lines


def _print_json(rows: Sequence[EvaluationRow], evaluations: Sequence[Evaluation], place: Path | None) -> None:
    result = {
        "rows": json.loads(rows_as_json(rows)),
        "comparisons": [asdict(comparison) for comparison in overall_comparisons(evaluations)],
        "saved": None if place is None else str(place),
    }
    click.echo(json.dumps(result, indent=2))


def _save_answers(path: Path, evaluations: Sequence[Evaluation]) -> None:
    lines = [
        json.dumps(
            {
                "target": evaluation.target,
                "where": question.where,
                "family": question.family,
                "question": question.text,
                "reference": question.reference,
                **asdict(answer),
            },
            ensure_ascii=False,
        )
        for evaluation in evaluations
        for question, answer in zip(evaluation.suite.questions, evaluation.answers, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "\n".join(lines) + "\n")
