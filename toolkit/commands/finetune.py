"""`toolkit finetune`: teach a model your data."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from toolkit.commands.options import config_command, config_options
from toolkit.commands.progress import memory
from toolkit.commands.training import announce, exit_if_stopped, follow_run, load_trainer, show_result
from toolkit.config import FinetuneConfig, PretrainConfig, TrainConfig
from toolkit.config_files import load_config
from toolkit.errors import ToolkitError
from toolkit.jobs.finetune import prepare_finetune
from toolkit.jobs.job import Job
from toolkit.jobs.plan import Plan, make_plan
from toolkit.jobs.resume import check_inputs, find_checkpoint, load_resumed_config
from toolkit.recipes import recipe
from toolkit.runs import RunFolder, check_new_name, create_run, runs_root

DEMONSTRATION_RECIPE = "nano-demo.yaml"
FLAGS = {"model": "model", "data": "data.path", "method": "method", "adapter": "adapter", "backend": "backend"}


@click.command("finetune", cls=config_command(FinetuneConfig), short_help="Teach a model your data.")
@config_options(FinetuneConfig, FLAGS)
@click.option("--name", help="Name of the run [default: <model>-<data>-001, counted up].")
@click.option("--resume", metavar="RUN", help="Go on with a run: its name, its folder, or one of its checkpoints.")
@click.option(
    "--dry-run", is_flag=True, help="Show the plan and one example with its trained tokens marked; train nothing."
)
@click.option("--overwrite", is_flag=True, help="Replace the run of this --name.")
def finetune(
    config_path: Path | None,
    overrides: tuple[str, ...],
    name: str | None,
    resume: str | None,
    dry_run: bool,
    overwrite: bool,
    **flags: str | None,
) -> None:
    """Teach a model your data: LoRA adapters, or every weight with --method full.

    Without --config, --model and --data it trains the bundled model on the bundled data.
    """
    given = {FLAGS[flag]: value for flag, value in flags.items()}
    if resume is not None:
        _refuse_with_resume(config_path=config_path, name=name, overwrite=overwrite, dry_run=dry_run)
        run = resume_finetune(resume, overrides, given)
    else:
        config = _load(config_path, overrides, given)
        if dry_run:
            check_new_name(name, overwrite=overwrite)
            job = prepare_finetune(config)
            announce(job)
            _show_plan(job, make_plan(job))
            return
        run = run_finetune(config, name=name, overwrite=overwrite)
    shown = run.name if run.path.resolve().parent == runs_root().resolve() else str(run.path)
    show_result(run, [f"toolkit chat {shown}", f"toolkit export {shown} --quant Q4_K_M"])


def run_finetune(config: FinetuneConfig, *, name: str | None = None, overwrite: bool = False) -> RunFolder:
    """Fine-tune from the start, showing progress on stderr. Exits with 130 when interrupted.

    Raises:
        ToolkitError: something in the request is wrong (nothing was written), or the job failed.
    """
    check_new_name(name, overwrite=overwrite)
    job = prepare_finetune(config)
    announce(job)
    job, trainer = load_trainer(job)
    run = create_run(name, job.facts.label, job.data_label, overwrite=overwrite)
    outcome = follow_run(job, trainer, run)
    exit_if_stopped(outcome, "finetune")
    return run


def resume_finetune(text: str, overrides: Sequence[str], flags: Mapping[str, str | None]) -> RunFolder:
    """Go on with the run that `text` names. Raises ToolkitError when it cannot go on exactly."""
    run, checkpoint = find_checkpoint(text, "finetune")
    job = prepare_finetune(load_resumed_config(FinetuneConfig, run, overrides, flags), resuming=True)
    check_inputs(job, run, checkpoint)
    announce(job, checkpoint)
    job, trainer = load_trainer(job, checkpoint)
    outcome = follow_run(job, trainer, run, checkpoint)
    exit_if_stopped(outcome, "finetune")
    return run


def _load(config_path: Path | None, overrides: Sequence[str], flags: Mapping[str, str | None]) -> FinetuneConfig:
    bare = config_path is None and all(flags[key] is None for key in ("model", "data.path", "adapter"))
    base = recipe(DEMONSTRATION_RECIPE) if bare else None
    return load_config(FinetuneConfig, config_path, overrides, flags, base=base)


def _refuse_with_resume(**options: object) -> None:
    given = [f"--{name.removesuffix('_path').replace('_', '-')}" for name, value in options.items() if value]
    if given:
        hint = "Only train.max_steps, train.epochs, backend and train.device of a resumed run may change, by --set"
        raise ToolkitError(f"{', '.join(given)} cannot be combined with --resume", hint=hint)


def _show_plan(job: Job, plan: Plan) -> None:
    config, figures = job.config, job.figures
    train = config.train
    middle, most, nearly_all, longest = plan.length_percentiles
    checkpointing = _checkpointing(train) if train.gradient_checkpointing else ""
    rows_are = "packed rows" if job.training.is_packed else "examples"
    rows = [
        ("model", f"{job.facts.name} ({job.facts.architecture}, {job.facts.parameter_count:,} parameters)"),
        ("method", f"{_method(config)}, {plan.trainable:,} trainable of {plan.total:,}"),
        *([("adapter", f"goes on from {job.start.adapter.folder}")] if job.start else []),
        ("device", f"{plan.device}, {plan.dtype} ({job.reason})"),
        ("data", f"{figures.train_examples:,} train, {figures.validation_examples:,} validation"),
        ("lengths", f"50 % ≤ {middle}, 90 % ≤ {most}, 99 % ≤ {nearly_all}, longest {longest} tokens"),
        ("truncated", f"{figures.truncated:,}, left out {len(job.dropped):,}"),
        ("padding", _padding(plan)),
        ("steps", f"{job.total_steps:,} ({plan.updates_per_epoch:,} an epoch), warmup {plan.warmup_steps:,}"),
        ("batch", f"{train.batch_size} × {train.accumulation} {rows_are} an update{checkpointing}"),
        ("tokens", f"{plan.tokens:,} over the whole run"),
        ("learning rate", f"{train.learning_rate:g}, {train.schedule}"),
        ("evaluate / save", f"every {train.eval_every} / {train.save_every} steps"),
        ("memory", f"about {memory(plan.memory_bytes)} (a guess: weights, optimizer, activations)"),
    ]
    for label, text in rows:
        click.echo(f"{label + ':':<17}{text}")
    click.echo("\nOne example, trained tokens marked:\n")
    click.echo(_marked(plan.example))


def _checkpointing(train: TrainConfig) -> str:
    every = "" if train.checkpoint_layers == 1 else f" (1 block in {train.checkpoint_layers})"
    return f", gradient checkpointing{every}"


def _padding(plan: Plan) -> str:
    if plan.unpacked_padding_share is None:
        return f"{plan.padding_share:.1%} of a batch"
    return f"{plan.padding_share:.1%} of a batch, packed ({plan.unpacked_padding_share:.1%} without packing)"


def _method(config: FinetuneConfig | PretrainConfig) -> str:
    if not isinstance(config, FinetuneConfig) or config.method != "qlora":
        return config.method if isinstance(config, FinetuneConfig) else "full"
    return f"qlora, {config.base.layout}, {config.base.bits} bits"


def _marked(pieces: Sequence[tuple[str, bool]]) -> str:
    if sys.stdout.isatty():
        return "".join(click.style(text, fg="green", bold=True) if trained else text for text, trained in pieces)
    return "".join(f"«{text}»" if trained else text for text, trained in pieces)
