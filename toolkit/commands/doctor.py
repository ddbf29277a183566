"""`toolkit doctor`: what is wrong with this machine, and what to type to mend it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

import click

from toolkit import __version__
from toolkit.machine.diagnosis import PROBE_SECONDS, can_run, diagnose
from toolkit.machine.findings import Finding

COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}
WORDS = {"ok": "OK", "warning": "warning", "failed": "FAILED"}


@click.command("doctor", short_help="Check this machine; say how to mend it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (docs/doctor.md describes it).")
@click.option(
    "--timeout",
    "seconds",
    type=click.FloatRange(min=0.1),
    default=PROBE_SECONDS,
    show_default=True,
    help="Seconds that PyTorch, llama.cpp and MLX have to load.",
)
def doctor(as_json: bool, seconds: float) -> None:
    """Look at Python, packages, backends, llama.cpp, memory, disks and the bundled model; say how to mend each.

    Nothing is changed. Exit code 1 when the main job (finetune, export, evaluate) could not run here, else 0.
    """
    findings = diagnose(seconds)
    runs = can_run(findings)
    if as_json:
        report = {"version": __version__, "ok": runs, "checks": [asdict(finding) for finding in findings]}
        click.echo(json.dumps(report, indent=2))
    else:
        _show(findings)
    sys.exit(0 if runs else 1)


def _show(findings: Sequence[Finding]) -> None:
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        word = click.style(f"{WORDS[finding.status]:<8}", fg=COLOURS[finding.status], bold=finding.status != "ok")
        click.echo(f"{word} {finding.name:<{width}}  {finding.summary}")
        if finding.mend:
            click.echo(f"{'':<8} {'':<{width}}  → {finding.mend}")
    failed = sum(finding.status == "failed" for finding in findings)
    warnings = sum(finding.status == "warning" for finding in findings)
    verdict = "the main job cannot run" if failed else "the main job can run"
    click.echo(f"{verdict}: {failed} failed, {warnings} {'warning' if warnings == 1 else 'warnings'}")
