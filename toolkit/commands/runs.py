"""`toolkit runs`: list and show what was trained."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import click

from toolkit.checkpoints import list_checkpoints
from toolkit.commands.progress import memory
from toolkit.commands.tables import cell, table
from toolkit.errors import ToolkitError
from toolkit.jobs.record import rollbacks
from toolkit.runs import RunFolder, find_run, list_runs, runs_root


@click.group("runs", short_help="List and show runs.")
def runs() -> None:
    """List and show runs (in `runs/`, or where TOOLKIT_RUNS_DIR says)."""


@runs.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(as_json: bool) -> None:
    """List all runs, oldest first."""
    rows = [_summary(run) for run in list_runs()]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif not rows:
        click.echo(f"no runs in {runs_root()} yet", err=True)
    else:
        head = ("run", "status", "method", "model", "data", "steps", "val loss", "started")
        keys = ("name", "status", "method", "model", "data", "steps", "best_val_loss", "started")
        click.echo(table([head, *([cell(row[key]) for key in keys] for row in rows)]))


@runs.command("show")
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show_command(run: str, as_json: bool) -> None:
    """Show one run: what it was, how it went, what it left."""
    folder = find_run(run)
    details = _details(folder)
    if as_json:
        click.echo(json.dumps(details, indent=2))
        return
    for key, value in details.items():
        if key == "losses" and value:
            rows = [[cell(row[name]) for name in ("step", "loss", "val_loss")] for row in value]
            click.echo(
                "losses:\n" + table([("  step", "loss", "val loss"), *(["  " + row[0], *row[1:]] for row in rows)])
            )
        elif value not in (None, [], {}, ""):
            click.echo(f"{key.replace('_', ' ') + ':':<20}{_words(key, value)}")


def _summary(run: RunFolder) -> dict[str, Any]:
    manifest: dict[str, Any] = {"status": "damaged manifest.json"}
    with suppress(ToolkitError):
        manifest = run.manifest()
    final = manifest.get("final") or {}
    last = _last_step(run)
    return {
        "name": run.name,
        "status": run.status() if manifest.get("status") == "running" else manifest.get("status"),
        "kind": manifest.get("kind"),
        "method": manifest.get("method"),
        "model": manifest.get("model"),
        "data": manifest.get("data"),
        "steps": f"{last}/{manifest.get('total_steps', '?')}",
        "best_val_loss": final.get("best_val_loss"),
        "started": manifest.get("started"),
        "path": str(run.path),
    }


def _details(run: RunFolder) -> dict[str, Any]:
    manifest = run.manifest()
    backend = manifest.get("backend") or {}
    metrics = run.metrics()
    evaluations = [{"step": row["step"], "val_loss": row["val_loss"]} for row in metrics if "val_loss" in row]
    losses = {row["step"]: row["loss"] for row in metrics if "loss" in row}
    return {
        **_summary(run),
        "finished": manifest.get("finished"),
        "error": manifest.get("error"),
        "device": " ".join(str(backend[key]) for key in ("name", "device", "device_name") if backend.get(key)),
        "parameters": manifest.get("parameters"),
        "data_figures": manifest.get("data_figures"),
        "seed": manifest.get("seed"),
        "parent_run": manifest.get("parent_run"),
        "result": f"{manifest['result']}/ (step {manifest['result_step']})" if manifest.get("result") else None,
        "final": manifest.get("final"),
        "checkpoints": [path.name for path in list_checkpoints(run.checkpoints)],
        "evaluation": run.evaluation(),
        "exports": run.exports(),
        "rollbacks": [f"step {row['step']} to {row['to_step']}: {row['why']}" for row in rollbacks(run)],
        "stopped_early": manifest.get("stopped_early"),
        "losses": [{**row, "loss": losses.get(row["step"])} for row in evaluations],
    }


def _last_step(run: RunFolder) -> int:
    try:
        return max((row.get("step", 0) for row in run.metrics()), default=0)
    except ToolkitError:
        return 0


def _words(key: str, value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "".join("\n  " + ", ".join(f"{name} {cell(item)}" for name, item in row.items()) for row in value)
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    if isinstance(value, dict):
        shown = {name: memory(item) if name.endswith("_bytes") else cell(item) for name, item in value.items()}
        return ", ".join(f"{name.replace('_', ' ')} {item}" for name, item in shown.items() if item != "–")
    return cell(value)
