"""`toolkit export`: write a trained model as GGUF or as a model folder, and prove that it behaves as trained."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from toolkit.affine import BITS, GROUP_SIZES, AffineLayout
from toolkit.backends import Target, resolve_target
from toolkit.errors import JobFailed, Problem, ToolkitError
from toolkit.evaluate.exports import gate_line
from toolkit.evaluate.report import refresh_report
from toolkit.quantize.adapter_gguf import export_adapter
from toolkit.quantize.companions import VERIFICATION_NAME
from toolkit.quantize.export import export_files, plan_export
from toolkit.quantize.folder_plan import FolderPlan
from toolkit.quantize.origin import merged_into
from toolkit.quantize.plan import QUANT_TYPES, FilePlan
from toolkit.quantize.requests import EXPORT_FORMATS, ExportFormat, ExportPlan, ExportReport, ExportRequest, Via
from toolkit.quantize.usage import command_lines
from toolkit.quantize.verify import Gate
from toolkit.runs import RunFolder, runs_root

_SHOWN = 8


@click.command()
@click.argument("target")
@click.option(
    "--format",
    "form",
    type=click.Choice(EXPORT_FORMATS),
    default="gguf",
    show_default=True,
    help="A GGUF file, or the merged model as a folder: safetensors, or packed for MLX.",
)
@click.option(
    "--quant",
    metavar="TYPE[,TYPE…]",
    default="Q4_K_M",
    show_default=True,
    help=f"gguf: one file for each of these types: {', '.join(QUANT_TYPES)}.",
)
@click.option(
    "--bits",
    type=click.Choice([str(bits) for bits in BITS]),
    default="4",
    show_default=True,
    help="mlx: bits of a packed weight.",
)
@click.option(
    "--group-size",
    type=click.Choice([str(size) for size in GROUP_SIZES]),
    default="64",
    show_default=True,
    help="mlx: weights that share a scale.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="A folder or, for one type, a .gguf file; for the other formats the model's folder. "
    "[default: a place in the run's export folder]",
)
@click.option("--dry-run", is_flag=True, help="Show types, bits per weight and sizes; write nothing.")
@click.option(
    "--verify/--no-verify", "check", default=True, help="Check the result against the trained model. [default: on]"
)
@click.option("--overwrite", is_flag=True, help="Replace files of those names.")
@click.option("--adapter-only", is_flag=True, help="Write the adapter alone, for llama.cpp's --lora.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads for quantising. [default: all cores]")
@click.option(
    "--via",
    type=click.Choice(["auto", "stream", "llama"]),
    default="auto",
    show_default=True,
    help="gguf: quantise row by row from the weights (stream), or a float32 file by llama.cpp.",
)
@click.pass_context
def export(
    context: click.Context,
    target: str,
    form: ExportFormat,
    quant: str,
    bits: str,
    group_size: str,
    out: Path | None,
    dry_run: bool,
    check: bool,
    overwrite: bool,
    adapter_only: bool,
    threads: int | None,
    via: Via,
) -> None:
    """Write TARGET for llama.cpp, Ollama and LM Studio (GGUF), transformers or MLX, and verify what was written.

    TARGET is a run, an adapter folder, a model folder, a hub name or nano. Adapters are merged. Exit code 1 when a
    file does not behave as the trained model does.
    """
    _refuse_combinations(context, form, adapter_only)
    found = resolve_target(target, runs_root())
    if adapter_only:
        click.echo(str(_export_adapter(found, out, check, overwrite)))
        return
    layout = AffineLayout(int(bits), int(group_size))
    request = ExportRequest(found, quant, out, check, overwrite, threads, via, form, layout)
    if dry_run:
        render_plan(plan_export(request))
        return
    for report in run_export(request):
        click.echo(str(report.path))


# Options that say something about one format alone.
_OF_FORMAT = {"quant": "gguf", "via": "gguf", "bits": "mlx", "group_size": "mlx"}


def _refuse_combinations(context: click.Context, form: ExportFormat, adapter_only: bool) -> None:
    """Raise ToolkitError for every option that was typed and would be of no effect."""
    typed = [name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    problems = []
    for name in typed:
        option = "--" + {"form": "format"}.get(name, name).replace("_", "-")
        wanted = _OF_FORMAT.get(name, form)
        if adapter_only and name in (*_OF_FORMAT, "dry_run"):
            hint = "Leave it out, or export the merged model: leave --adapter-only out"
            problems.append(Problem("has no meaning with --adapter-only", option, hint))
        elif adapter_only and name == "form" and form != "gguf":
            hint = "The adapter's own folder is in PEFT's format already: copy that"
            problems.append(Problem(f"--adapter-only writes GGUF, not {form}", option, hint))
        elif wanted != form and not adapter_only:
            problems.append(Problem(f"belongs to --format {wanted}, not {form}", option, _INSTEAD[name, form]))
    if problems:
        raise ToolkitError.gather(problems)


_INSTEAD = {
    ("quant", "safetensors"): "safetensors keep the base's precision: leave it out",
    ("quant", "mlx"): "Say --bits and --group-size for mlx",
    ("via", "safetensors"): "Leave it out",
    ("via", "mlx"): "Leave it out",
    ("bits", "gguf"): "Say --quant for gguf, or --format mlx",
    ("bits", "safetensors"): "safetensors keep the base's precision: leave it out, or --format mlx",
    ("group_size", "gguf"): "Leave it out, or --format mlx",
    ("group_size", "safetensors"): "Leave it out, or --format mlx",
}


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
    run_folder = request.target.run_folder
    page = refresh_report(RunFolder(run_folder)) if run_folder is not None else None
    problems = [
        Problem(
            f"the export does not behave as the trained model does; gates that failed: {', '.join(report.failed)}",
            str(report.path),
            f"The figures are in {_record(report)}",
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
    if reports[0].merged:
        console.print(f"adapter merged into {reports[0].merged}", highlight=False)
    lines = command_lines(reports[0].path, request.target.label, request.format)
    width = max(len(program) for program, _ in lines)
    for program, command in lines:
        console.print(f"{program + ':':<{width + 1}} {command}", highlight=False, markup=False, soft_wrap=True)
    if page is not None:
        console.print(f"the run's report: {page}", highlight=False, markup=False, soft_wrap=True)
    return reports


def _record(report: ExportReport) -> Path:
    folder = report.path if report.path.is_dir() else report.path.parent
    return folder / VERIFICATION_NAME


def _export_adapter(target: Target, out: Path | None, check: bool, overwrite: bool) -> Path:
    path, gate = export_adapter(target, out, check=check, overwrite=overwrite)
    if gate is not None and not gate.passed:
        raise JobFailed("the adapter on its base does not give the trained model's logits", where=path)
    console = Console(stderr=True)
    if gate is not None:
        console.print(f"adapter on {merged_into(target)} in llama.cpp: passed, {_line(gate)}", highlight=False)
    console.print(f"use it: llama-cli -m BASE.gguf --lora {path}", highlight=False, soft_wrap=True)
    return path


def render_plan(plan: ExportPlan) -> None:
    """Print what each file or folder would hold: kinds, fallbacks, bits, size, then the advice."""
    table = Table()
    for heading in ("file", "size", "bits per weight", "tensors", "fallbacks"):
        table.add_column(heading, justify="right" if heading in ("size", "bits per weight") else "left")
    for file, path in zip(plan.files, plan.paths, strict=True):
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(file.counts().items()))
        table.add_row(
            str(path),
            f"{file.file_bytes / 1e6:,.1f} MB",
            f"{file.bits_per_weight:.2f}",
            kinds,
            _fallen(file),
        )
    console = Console()
    console.print(table, soft_wrap=True)
    for file in plan.files:
        if isinstance(file, FilePlan) and file.fallbacks:
            names = [tensor.name for tensor in file.fallbacks]
            shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
            console.print(f"{file.kind.name} cannot take: {shown}", highlight=False, soft_wrap=True)
    for advice in plan.advice:
        console.print(advice, highlight=False, soft_wrap=True)


def _fallen(file: FilePlan | FolderPlan) -> str:
    if isinstance(file, FolderPlan):
        return f"{len(file.left)} matrices not packed" if file.left else "none"
    if not file.fallbacks:
        return "none"
    return f"{len(file.fallbacks)} of {len(file.matrices)} matrices, {file.fallback_share:.0%} of their weights"


def _table(report: ExportReport) -> Table:
    table = Table(title=f"{report.path.name} against the trained model", title_justify="left")
    for heading in ("gate", "result", "figures"):
        table.add_column(heading)
    for gate in report.gates:
        table.add_row(gate.gate, "passed" if gate.passed else "[bold red]FAILED", escape(_line(gate)))
    return table


def _line(gate: Gate) -> str:
    return gate_line({"figures": gate.figures, "passed": gate.passed})
