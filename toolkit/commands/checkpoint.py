"""`toolkit checkpoint`: verify, list and prune the checkpoints of a run."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

import click

from toolkit.commands.progress import memory
from toolkit.commands.tables import cell, table
from toolkit.config import FinetuneConfig, PretrainConfig
from toolkit.config_files import load_config
from toolkit.jobs.checkpoint_list import Entry, describe_faults, list_entries, plan_pruning, prune
from toolkit.jobs.checkpoint_verification import Verification, find_checkpoints, verify_all
from toolkit.runs import RunFolder, find_run


@click.group("checkpoint", short_help="Verify, list and prune checkpoints.")
def checkpoint() -> None:
    """Verify, list and prune the checkpoints of a run."""


@checkpoint.command("verify")
@click.argument("path")
@click.option("--strict", is_flag=True, help="Count warnings (another machine, a model that is not here) as problems.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify_command(path: str, strict: bool, as_json: bool) -> None:
    """Verify a checkpoint's folder, or all checkpoints of a run (its name or folder).

    Compares every byte with SHA256SUMS, the model and its tokenizer with those that the run began with, the names and
    shapes of all tensors with the model's, and looks for values that are not finite and for a state that a run cannot
    go on from. Names the file at fault. Exit code 1 when something is wrong.
    """
    found = []
    for verification in verify_all(find_checkpoints(path), strict=strict):
        found.append(verification)
        if not as_json:
            _show(verification)
    if as_json:
        click.echo(json.dumps([_as_json(verification) for verification in found], indent=2))
    sys.exit(0 if all(verification.good for verification in found) else 1)


@checkpoint.command("list")
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(run: str, as_json: bool) -> None:
    """List a run's checkpoints: size, validation loss, which is the best, and whether its bytes are as written."""
    entries = list_entries(find_run(run))
    if as_json:
        rows: list[dict[str, Any]] = [
            {
                "step": entry.step,
                "path": str(entry.path),
                "size_bytes": entry.size_bytes,
                "val_loss": entry.val_loss,
                "best": entry.is_best,
                "problems": [str(problem) for problem in entry.problems],
            }
            for entry in entries
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    if not entries:
        click.echo("no checkpoint yet", err=True)
        return
    cells = [("step", "size", "val loss", "best", "good")]
    for entry in entries:
        good = "yes" if not entry.problems else f"no ({describe_faults(entry.problems, entry.path)})"
        best = "best" if entry.is_best else ""
        cells.append((cell(entry.step), memory(entry.size_bytes), cell(entry.val_loss), best, good))
    click.echo(table(cells))


@checkpoint.command("prune")
@click.argument("run")
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    help="Good ones to keep, newest first [default: the run's keep_checkpoints].",
)
@click.option("--dry-run", is_flag=True, help="Say what would be deleted; delete nothing.")
def prune_command(run: str, keep: int | None, dry_run: bool) -> None:
    """Delete a run's checkpoints but the best and the newest so many.

    A corrupted checkpoint does not count as one of them and is deleted; when none is good, nothing is.
    """
    folder = find_run(run)
    plan = plan_pruning(folder, _keep_of(folder) if keep is None else keep)
    lines = [_line("keep" if dry_run else "kept", entry) for entry in plan.kept]
    lines += [_line("would delete" if dry_run else "deleted", entry) for entry in plan.deleted]
    if plan.leftovers:
        lines.append(f"{'would delete' if dry_run else 'deleted'} {len(plan.leftovers)} left by killed processes")
    freed = memory(plan.freed_bytes)
    if not dry_run:
        prune(folder, plan)
    for line in lines:
        click.echo(line)
    click.echo(f"{'would free' if dry_run else 'freed'} {freed}")


def _keep_of(run: RunFolder) -> int:
    if run.manifest().get("kind") == "pretrain":
        return load_config(PretrainConfig, run.config_path).train.keep_checkpoints
    return load_config(FinetuneConfig, run.config_path).train.keep_checkpoints


def _line(verb: str, entry: Entry) -> str:
    remarks = ["best"] * entry.is_best
    if entry.problems:
        remarks.append(describe_faults(entry.problems, entry.path))
    remark = f" ({'; '.join(remarks)})" if remarks else ""
    return f"{verb} {entry.path.name}, {memory(entry.size_bytes)}{remark}"


def _show(verification: Verification) -> None:
    path, problems, warnings = verification.path, verification.problems, verification.warnings
    if verification.good:
        looked = f"{verification.files} files, {verification.weights} weights, {verification.moments} moments"
        click.echo(f"{path}: good ({looked})")
    else:
        click.echo(f"{path}: {len(problems)} problem{'s' * (len(problems) > 1)}")
    for problem in problems:
        click.echo(f"  error: {problem}")
    for warning in warnings:
        click.echo(f"  warning: {warning}")


def _as_json(verification: Verification) -> dict[str, Any]:
    return {
        "path": str(verification.path),
        "good": verification.good,
        "problems": [asdict(problem) for problem in verification.problems],
        "warnings": [asdict(warning) for warning in verification.warnings],
        "files": verification.files,
        "weights": verification.weights,
        "moments": verification.moments,
    }
