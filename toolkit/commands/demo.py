"""`toolkit demo` (`make finetune`): fine-tune the bundled model, export it, and show what each of the two did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import click

from toolkit.backends import open_target, resolve_target
from toolkit.commands.chat import Conversation, say
from toolkit.commands.evaluate import evaluate_targets
from toolkit.commands.evaluation_table import console_for_results, format_comparison, tables
from toolkit.commands.export import export_target
from toolkit.commands.finetune import DEMONSTRATION_RECIPE, run_finetune
from toolkit.config import BackendChoice, FinetuneConfig
from toolkit.config_files import load_config
from toolkit.errors import JobFailed, Problem
from toolkit.evaluate.evaluation import NEAREST, Evaluation, compare, evaluate_nearest
from toolkit.evaluate.exports import read_entries
from toolkit.evaluate.questions import OVERALL, SINGLE_FAMILY
from toolkit.evaluate.report import Report, write_report
from toolkit.evaluate.results import save_rows
from toolkit.evaluate.suites import Suite, load_suite
from toolkit.protocols import Sampling
from toolkit.quantize.companions import VERIFICATION_NAME
from toolkit.recipes import recipe
from toolkit.runs import RunFolder, runs_root

QUANT = "Q4_K_M"
BEFORE, AFTER, QUANTISED = "before", "after", f"{QUANT} in llama.cpp"
ARITHMETIC = "arithmetic"
SAMPLES = 3
SAMPLE_TOKENS = 96
# What the demonstration promises, in points of exact match.
LEAST_RISE, LEAST_LEAD, MOST_LOSS = 50, 30, 5


@dataclass(frozen=True)
class Promise:
    """One claim about the figures, in points: `figure` against what was promised."""

    claim: str
    figure: float
    kept: bool


@click.command("demo", short_help="Fine-tune, export and compare the bundled model.")
@click.option(
    "--backend",
    type=click.Choice(get_args(BackendChoice)),
    default="auto",
    show_default=True,
    help="Framework to train with.",
)
@click.option("--name", help="Name of the run. [default: counted up, so that nothing is ever overwritten]")
def demo(backend: str, name: str | None) -> None:
    """Teach the bundled model the bundled data, export it to Q4_K_M, and measure what that did.

    Prints exact match and perplexity on held-out questions before, after, and after Q4_K_M in llama.cpp, beside a
    baseline that answers with the nearest training question's answer. Exit code 1 when a promised margin is missed.
    """
    config = load_config(FinetuneConfig, flags={"backend": backend}, base=recipe(DEMONSTRATION_RECIPE))
    _stage(1, f"fine-tuning {config.model} on {config.data.path} ({_method(config)})")
    run = run_finetune(config, name=name)
    _stage(2, f"exporting to GGUF {QUANT}: the model as it was, and as it is now")
    gguf_before = export_target(config.model, QUANT, run.export / BEFORE)
    gguf_after = export_target(str(run.path), QUANT)
    _stage(3, "measuring on held-out questions")
    config = load_config(FinetuneConfig, run.config_path)
    suite = load_suite(config.data, config.train.seed, "validation")
    evaluations = measure(suite, {BEFORE: config.model, AFTER: str(run.path), QUANTISED: str(gguf_after)}, backend)
    save_rows(run.evaluation_path, [row for evaluation in evaluations.values() for row in evaluation.rows()])
    samples = choose_samples(suite)
    write_report(run.path / "report.html", describe(run, config, evaluations, samples))
    show_tables(evaluations)
    ask_samples(suite, samples, {BEFORE: gguf_before, AFTER: gguf_after})
    show_outcome(check_promises(evaluations), run, gguf_after)


def measure(suite: Suite, targets: Mapping[str, str], backend: str = "auto") -> dict[str, Evaluation]:
    """Evaluate the targets, and the nearest-question baseline, by heading."""
    resolved = [resolve_target(text, runs_root()) for text in targets.values()]
    evaluations = dict(zip(targets, evaluate_targets(resolved, suite, "auto", backend), strict=True))
    return {**evaluations, NEAREST: evaluate_nearest(suite)}


def choose_samples(suite: Suite) -> list[int]:
    """Pick the first question of each family, then the second ones: by place, never by how they came out."""
    by_family: dict[str, list[int]] = {}
    for index, question in enumerate(suite.questions):
        by_family.setdefault(question.family, []).append(index)
    ranked = sorted((rank, family, index) for family, found in by_family.items() for rank, index in enumerate(found))
    return [index for _, _, index in ranked[:SAMPLES]]


def check_promises(evaluations: Mapping[str, Evaluation]) -> list[Promise]:
    """Compare the figures with what the demonstration promises."""
    rise = _points(evaluations[AFTER]) - _points(evaluations[BEFORE])
    lead = _points(evaluations[AFTER], ARITHMETIC) - _points(evaluations[NEAREST], ARITHMETIC)
    loss = _points(evaluations[AFTER]) - _points(evaluations[QUANTISED])
    return [
        Promise(f"exact match rises by at least {LEAST_RISE} points", rise, rise >= LEAST_RISE),
        Promise(f"{ARITHMETIC} beats the nearest question by at least {LEAST_LEAD} points", lead, lead >= LEAST_LEAD),
        Promise(f"{QUANT} loses at most {MOST_LOSS} points", loss, loss <= MOST_LOSS),
    ]


def _points(evaluation: Evaluation, *families: str) -> float:
    """Return exact match in percent, overall or in one family; 0 where nothing was asked."""
    wanted = families or (OVERALL, SINGLE_FAMILY)
    rows = [row for row in evaluation.rows() if row.metric == "exact_match" and row.family in wanted]
    # Rounded, so that 95 − 45 is 50 and not a little less.
    return round(100 * rows[0].value, 6) if rows else 0.0


def show_tables(evaluations: Mapping[str, Evaluation]) -> None:
    """Print both tables and what changed, example by example."""
    console = console_for_results()
    headings = {evaluation.target: heading for heading, evaluation in evaluations.items()}
    for table in tables([row for evaluation in evaluations.values() for row in evaluation.rows()], headings):
        console.print()
        console.print(table)
    console.print()
    for first, second in ((BEFORE, AFTER), (NEAREST, AFTER), (AFTER, QUANTISED)):
        for comparison in compare(evaluations[first], evaluations[second]):
            if comparison.family in (OVERALL, SINGLE_FAMILY, ARITHMETIC):
                console.print(format_comparison(comparison, first, second), markup=False)


def ask_samples(suite: Suite, samples: Sequence[int], files: Mapping[str, Path]) -> None:
    """Ask llama.cpp the sample questions, with the exported model as it was before and as it is after."""
    opened = {heading: open_target(resolve_target(str(path), runs_root())) for heading, path in files.items()}
    try:
        for index in samples:
            question = suite.questions[index]
            click.secho(f"\n{question.messages[-1].content}", bold=True)
            for heading, target in opened.items():
                click.echo(f"  {heading + ':':<8}", nl=False)
                conversation = Conversation(target, Sampling(SAMPLE_TOKENS, stop_ids=tuple(target.tokenizer.stop_ids)))
                conversation.messages = list(question.messages[:-1])
                say(conversation, question.messages[-1].content)
            click.echo(f"  {'right:':<8}{question.reference}")
    finally:
        for target in opened.values():
            target.scorer.close()


def show_outcome(promises: Sequence[Promise], run: RunFolder, gguf: Path) -> None:
    """Print promises and next steps. Raises JobFailed naming each promise that was not kept."""
    click.echo()
    for promise in promises:
        click.echo(f"{'kept  ' if promise.kept else 'MISSED'}  {promise.claim}: {promise.figure:.1f}")
    click.echo("\nnext:")
    click.echo(f"  open {run.path / 'report.html'}")
    click.echo(f"  toolkit chat {gguf}")
    click.echo("  toolkit finetune --model FOLDER_OR_HUB_NAME --data YOUR.jsonl")
    missed = [
        Problem(f"promised: {promise.claim}; measured: {promise.figure:.1f}", str(run.path))
        for promise in promises
        if not promise.kept
    ]
    if missed:
        raise JobFailed.gather(missed)


def describe(
    run: RunFolder, config: FinetuneConfig, evaluations: Mapping[str, Evaluation], samples: Sequence[int]
) -> Report:
    """Put together what the report page says."""
    manifest = run.manifest()
    backend, versions = manifest.get("backend", {}), manifest.get("versions", {})
    subtitle = (
        f"{config.model}, {_method(config)} on {config.data.path} · {manifest.get('total_steps', '?')} steps on "
        f"{backend.get('device_name') or backend.get('device', '?')} · {str(manifest.get('finished', ''))[:10]}"
    )
    versions = ", ".join(f"{package} {version}" for package, version in versions.items())
    footer = f"{versions} · to repeat this run: toolkit finetune --config {run.config_path}"
    exports = read_entries(run.export / VERIFICATION_NAME)
    return Report(run.name, subtitle, run.metrics(), evaluations, samples, footer, exports)


def _method(config: FinetuneConfig) -> str:
    return "every weight trained" if config.method == "full" else f"LoRA of rank {config.lora.rank}"


def _stage(number: int, text: str) -> None:
    click.secho(f"\n[{number}/3] {text}", bold=True, err=True)
