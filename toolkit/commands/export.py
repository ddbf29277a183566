"""`toolkit export`: write a trained model as GGUF and prove that llama.cpp behaves as it does."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.status import Status
from rich.table import Table

from toolkit.backends import Target, resolve_target
from toolkit.errors import JobFailed, Problem
from toolkit.quantize.adapter_gguf import export_adapter
from toolkit.quantize.companions import VERIFICATION_NAME
from toolkit.quantize.export import ExportPlan, ExportReport, ExportRequest, Via, export_files, plan_export
from toolkit.quantize.plan import QUANT_TYPES
from toolkit.quantize.verify import Gate
from toolkit.runs import runs_root

_SHOWN = 8


@click.command()
@click.argument("target")
@click.option(
    "--quant",
    metavar="TYPE[,TYPE…]",
    default="Q4_K_M",
    show_default=True,
    help=f"One file for each of these types: {', '.join(QUANT_TYPES)}.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="A folder or, for one type, a .gguf file. [default: the run's export folder]",
)
@click.option("--dry-run", is_flag=True, help="Show types, bits per weight and sizes; write nothing.")
@click.option(
    "--verify/--no-verify", "check", default=True, help="Check the file against the trained model. [default: on]"
)
@click.option("--overwrite", is_flag=True, help="Replace files of those names.")
@click.option("--adapter-only", is_flag=True, help="Write the adapter alone, for llama.cpp's --lora.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads for quantising. [default: all cores]")
@click.option(
    "--via",
    type=click.Choice(["auto", "stream", "llama"]),
    default="auto",
    show_default=True,
    help="Quantise row by row from the weights (stream), or a float32 file by llama.cpp.",
)
def export(
    target: str,
    quant: str,
    out: Path | None,
    dry_run: bool,
    check: bool,
    overwrite: bool,
    adapter_only: bool,
    threads: int | None,
    via: Via,
) -> None:
    """Write TARGET as GGUF files for llama.cpp, Ollama and LM Studio, and verify them.

    TARGET is a run, an adapter folder, a model folder, a hub name or nano. Adapters are merged. Exit code 1 when a
    file does not behave as the trained model does.
    """
    if adapter_only:
        click.echo(str(_export_adapter(resolve_target(target, runs_root()), out, check, overwrite)))
        return
    request = ExportRequest(resolve_target(target, runs_root()), quant, out, check, overwrite, threads, via)
    if dry_run:
        render_plan(plan_export(request))
        return
    for report in run_export(request):
        click.echo(str(report.path))


def export_target(target_text: str, quant: str, out: Path | None = None, *, overwrite: bool = False) -> Path:
    """Export one type, progress and gates on stderr; return the file. Raises JobFailed when a gate fails."""
    request = ExportRequest(resolve_target(target_text, runs_root()), quant, out, overwrite=overwrite)
    return run_export(request)[0].path


def run_export(request: ExportRequest) -> list[ExportReport]:
    """Export, showing on stderr what goes on. Raises JobFailed naming the gates that failed."""
    console = Console(stderr=True)
    with Status("exporting", console=console) as status:
        reports = export_files(request, notify=lambda stage: status.update(stage))
    for report in reports:
        if report.gates:
            console.print(_table(report))
    problems = [
        Problem(
            f"the file does not behave as the trained model does; gates that failed: {', '.join(report.failed)}",
            str(report.path),
            f"The figures are in {report.path.parent / VERIFICATION_NAME}",
        )
        for report in reports
        if report.failed
    ]
    if problems:
        raise JobFailed.gather(problems)
    for report in reports:
        checked = f"{len(report.gates)} gates passed" if report.gates else "not verified"
        console.print(
            f"{report.path.name}: {report.byte_count / 1e6:.1f} MB, {report.plan.bits_per_weight:.2f} bits per weight, "
            f"{checked}, {report.seconds:.1f} s",
            highlight=False,
        )
    console.print(f"try it: toolkit chat {reports[0].path}", highlight=False, soft_wrap=True)
    return reports


def _export_adapter(target: Target, out: Path | None, check: bool, overwrite: bool) -> Path:
    path, gate = export_adapter(target, out, check=check, overwrite=overwrite)
    if gate is not None and not gate.passed:
        raise JobFailed("the adapter on its base does not give the trained model's logits", where=path)
    console = Console(stderr=True)
    if gate is not None:
        console.print(f"adapter on its base in llama.cpp: passed, {_figures(gate)}", highlight=False)
    console.print(f"use it: llama-cli -m BASE.gguf --lora {path}", highlight=False, soft_wrap=True)
    return path


def render_plan(plan: ExportPlan) -> None:
    """Print what each file would hold: kinds, fallbacks, bits, size, then the advice."""
    table = Table()
    for heading in ("file", "size", "bits per weight", "tensors", "fallbacks"):
        table.add_column(heading, justify="right" if heading in ("size", "bits per weight") else "left")
    for file, path in zip(plan.files, plan.paths, strict=True):
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(file.counts().items()))
        fallen = f"{len(file.fallbacks)} of {len(file.matrices)} matrices, {file.fallback_share:.0%} of their weights"
        table.add_row(
            str(path),
            f"{file.file_bytes / 1e6:,.1f} MB",
            f"{file.bits_per_weight:.2f}",
            kinds,
            fallen if file.fallbacks else "none",
        )
    console = Console()
    console.print(table, soft_wrap=True)
    for file in plan.files:
        if file.fallbacks:
            names = [tensor.name for tensor in file.fallbacks]
            shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
            console.print(f"{file.kind.name} cannot take: {shown}", highlight=False, soft_wrap=True)
    for advice in plan.advice:
        console.print(advice, highlight=False, soft_wrap=True)


def _table(report: ExportReport) -> Table:
    table = Table(title=f"{report.path.name} against the trained model", title_justify="left")
    for heading in ("gate", "result", "figures"):
        table.add_column(heading)
    for gate in report.gates:
        table.add_row(gate.gate, "passed" if gate.passed else "[bold red]FAILED", _figures(gate))
    return table


def _figures(gate: Gate) -> str:
    """Pick the figures worth a line: numbers and short texts; what is empty or zero only where the gate failed."""
    shown = {
        key: value
        for key, value in gate.figures.items()
        if isinstance(value, (int, float, str)) and not isinstance(value, bool) and key != "sha256"
    }
    failing = {key: value for key, value in gate.figures.items() if not gate.passed and key not in shown and value}
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in {**shown, **failing}.items())
