"""`toolkit pretrain`: train a small model and its tokenizer from scratch."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from toolkit.atomic_files import atomic_folder
from toolkit.commands.options import config_command, config_options
from toolkit.commands.progress import say
from toolkit.commands.training import announce, exit_if_stopped, follow_run, load_trainer, show_result
from toolkit.config import PretrainConfig
from toolkit.config_files import load_config
from toolkit.errors import ToolkitError
from toolkit.jobs.pretrain import check_shape, prepare_pretraining
from toolkit.jobs.resume import check_inputs, find_checkpoint, load_resumed_config
from toolkit.recipes import recipe
from toolkit.runs import check_new_name, create_run

BUNDLED_RECIPE = "nano-pretrain.yaml"
FLAGS = {"corpus": "corpus", "backend": "backend"}


@click.command("pretrain", cls=config_command(PretrainConfig), short_help="Train a small model from scratch.")
@config_options(PretrainConfig, FLAGS)
@click.option("--name", help="Name of the run [default: pretrain-<corpus>-001, counted up].")
@click.option("--out", type=click.Path(path_type=Path), help="Also write the finished model to this folder.")
@click.option("--resume", metavar="RUN", help="Go on with a run: its name, its folder, or one of its checkpoints.")
@click.option("--overwrite", is_flag=True, help="Replace the run of this --name, and the folder of --out.")
def pretrain(
    config_path: Path | None,
    overrides: tuple[str, ...],
    name: str | None,
    out: Path | None,
    resume: str | None,
    overwrite: bool,
    **flags: str | None,
) -> None:
    """Train a tokenizer and a small Qwen2-shaped model from scratch on a text corpus.

    Without --config and --corpus it trains the bundled model again, on the text that the toolkit generates.
    """
    if out is not None and out.exists() and not overwrite:
        raise ToolkitError("this folder exists", where=f"--out {out}", hint="Choose another, or give --overwrite")
    if resume is not None:
        if config_path is not None or name is not None:
            raise ToolkitError("--config and --name cannot be combined with --resume")
        run, checkpoint = find_checkpoint(resume, "pretrain")
        config = load_resumed_config(PretrainConfig, run, overrides, flags)
    else:
        bare = config_path is None and flags["corpus"] is None
        base = recipe(BUNDLED_RECIPE) if bare else None
        config = load_config(PretrainConfig, config_path, overrides, flags, base=base)
        check_shape(config)
        check_new_name(name, overwrite=overwrite)
        run, checkpoint = create_run(name, "pretrain", Path(config.corpus).stem, overwrite=overwrite), None
    try:
        job = prepare_pretraining(config, run.path / "initial", say)
        if checkpoint is not None:
            check_inputs(job, run, checkpoint)
        announce(job, checkpoint)
        job, trainer = load_trainer(job, checkpoint)
    except BaseException as error:
        if checkpoint is None:
            run.update_manifest({"name": run.name, "kind": "pretrain", "status": "failed", "error": str(error)})
        raise
    outcome = follow_run(job, trainer, run, checkpoint)
    exit_if_stopped(outcome, "pretrain")
    folder = run.model
    if out is not None:
        with atomic_folder(out) as partial:
            shutil.copytree(run.model, partial, dirs_exist_ok=True)
        folder = out
    show_result(run, [f"toolkit finetune --model {folder} --data DATA.jsonl", f"toolkit chat {folder}"])
