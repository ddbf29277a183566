"""`toolkit export`: write a trained model as GGUF and prove that llama.cpp behaves as it does."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.status import Status
from rich.table import Table

from toolkit.backends import resolve_target
from toolkit.errors import JobFailed
from toolkit.quantize.export import VERIFICATION_NAME, ExportReport, ExportRequest, export_model
from toolkit.quantize.plan import QUANT_TYPES
from toolkit.quantize.verify import Gate
from toolkit.runs import runs_root


@click.command()
@click.argument("target")
@click.option("--quant", metavar="TYPE", default="Q4_K_M", show_default=True, help=f"One of {', '.join(QUANT_TYPES)}.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="A .gguf file or a folder. [default: the run's export folder]"
)
@click.option(
    "--verify/--no-verify", "check", default=True, help="Check the file against the trained model. [default: on]"
)
@click.option("--overwrite", is_flag=True, help="Replace a file of that name.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads for quantising. [default: all cores]")
def export(target: str, quant: str, out: Path | None, check: bool, overwrite: bool, threads: int | None) -> None:
    """Write TARGET as a GGUF file for llama.cpp, Ollama and LM Studio, and verify it.

    TARGET is a run, an adapter folder, a model folder, a hub name or nano. Adapters are merged. Exit code 1 when the
    file does not behave as the trained model does.
    """
    request = ExportRequest(resolve_target(target, runs_root()), quant, out, check, overwrite, threads)
    report = run_export(request)
    click.echo(str(report.path))


def export_target(target_text: str, quant: str, out: Path | None = None, *, overwrite: bool = False) -> Path:
    """Export with progress and the table of gates on stderr; return the file. Raises JobFailed when a gate fails."""
    return run_export(ExportRequest(resolve_target(target_text, runs_root()), quant, out, overwrite=overwrite)).path


def run_export(request: ExportRequest) -> ExportReport:
    """Export, showing on stderr what goes on. Raises JobFailed naming the gates that failed."""
    console = Console(stderr=True)
    with Status("exporting", console=console) as status:
        report = export_model(request, notify=lambda stage: status.update(stage))
    if report.gates:
        console.print(_table(report))
    if report.failed:
        raise JobFailed(
            f"the file does not behave as the trained model does; gates that failed: {', '.join(report.failed)}",
            where=report.path,
            hint=f"The figures are in {report.path.parent / VERIFICATION_NAME}",
        )
    megabytes = report.byte_count / 1e6
    checked = f"{len(report.gates)} gates passed" if report.gates else "not verified"
    console.print(f"{report.path.name}: {megabytes:.1f} MB, {checked}, {report.seconds:.1f} s", highlight=False)
    console.print(f"try it: toolkit chat {report.path}", highlight=False, soft_wrap=True)
    return report


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
        if isinstance(value, (int, float, str)) and not isinstance(value, bool)
    }
    failing = {key: value for key, value in gate.figures.items() if not gate.passed and key not in shown and value}
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in {**shown, **failing}.items())
