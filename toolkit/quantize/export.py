"""From a trained model to proved GGUF files: open, plan, stream, verify, take the name."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from toolkit.backends import Target, open_target
from toolkit.errors import ToolkitError
from toolkit.protocols import Scorer
from toolkit.quantize import ggml
from toolkit.quantize.companions import with_merge, write_companions
from toolkit.quantize.folder_export import export_folder_model, plan_folder_export
from toolkit.quantize.llama_quantizer import quantise
from toolkit.quantize.mixture import alternative_kinds, plan_files, recommendations
from toolkit.quantize.origin import origin_of
from toolkit.quantize.places import check_space, output_paths, staging
from toolkit.quantize.plan import QUANT_TYPES, FilePlan, QuantType, quant_types
from toolkit.quantize.prove import Prover
from toolkit.quantize.requests import ExportPlan, ExportReport, ExportRequest, Notify
from toolkit.quantize.samples import Samples, read_samples
from toolkit.quantize.source import Source, open_source
from toolkit.quantize.stream import write_gguf

__all__ = ["ExportPlan", "ExportReport", "ExportRequest", "export_files", "export_model", "plan_export"]


def plan_export(request: ExportRequest) -> ExportPlan:
    """Plan without writing anything. Raises ToolkitError for what cannot be exported."""
    if request.format != "gguf":
        return plan_folder_export(request)
    kinds = quant_types(request.quant)
    paths = output_paths(request.target, [kind.name for kind in kinds], request.out, overwrite=True)
    source = _open(request.target)
    others = [kind for kind in alternative_kinds() if kind not in kinds]
    plans = plan_files(source, [*kinds, *others], origin_of(request.target).notes())
    mine = plans[: len(kinds)]
    alternatives = [plan for plan in plans if plan.kind in alternative_kinds()]
    return ExportPlan(mine, paths, recommendations(mine, alternatives))


def export_model(
    request: ExportRequest, notify: Notify = lambda _: None, open_reference: Callable[[], Scorer] | None = None
) -> ExportReport:
    """Export one type; see `export_files`."""
    (report,) = export_files(request, notify, open_reference)
    return report


def export_files(
    request: ExportRequest, notify: Notify = lambda _: None, open_reference: Callable[[], Scorer] | None = None
) -> list[ExportReport]:
    """Export a model in every type asked for, or as a model folder, and verify what was written.

    notify:         told what is going on
    open_reference: opens the trained model for comparison; default: by `backends.open_target`, in float32 on the CPU

    Raises:
        ToolkitError: the target, a type or a place cannot be used.
        JobFailed: the disk is full or llama.cpp gave up; nothing half-written is left.
    """
    target = request.target
    reference = open_reference or (lambda: open_target(target, device="cpu", dtype="float32", full_base=True).scorer)
    samples = read_samples(target.run_folder) if request.check else Samples()
    if request.format != "gguf":
        return [export_folder_model(request, samples, reference, notify)]
    started = time.monotonic()
    kinds = quant_types(request.quant)
    paths = output_paths(target, [kind.name for kind in kinds], request.out, request.overwrite)
    notify("reading the model")
    source, origin = _open(target), origin_of(target)
    notes = origin.notes()
    whole, *plans = plan_files(source, [QUANT_TYPES["F32"], *kinds], notes)
    via_llama = request.via == "llama" or (request.via == "auto" and not ggml.available())
    finals = sum(plan.file_bytes for plan in plans)
    check_space(paths[0], finals + (whole.file_bytes if via_llama or request.check else 0))
    prover = Prover(source, whole, samples, reference, notify) if request.check else None
    reports: list[ExportReport] = []
    for plan, path in zip(plans, paths, strict=True):
        with staging(path) as folder:
            final = folder / "written.gguf"
            if via_llama:
                _by_llama(folder, final, source, whole, plan, notes, request.threads, notify)
            else:
                write_gguf(final, source, plan, notes, request.threads, _progress(notify, plan.kind))
            gates = [] if prover is None else with_merge(prover.prove(final, plan, folder), origin.merged)
            passed = all(gate.passed for gate in gates)
            path = path if passed else path.with_suffix(".failed.gguf")
            os.replace(final, path)
        first = next((report.path for report in reports if not report.failed), None)
        write_companions(path, source, gates, origin, first)
        seconds = time.monotonic() - started
        reports.append(ExportReport(path, path.stat().st_size, tuple(gates), seconds, plan, origin.merged))
        started = time.monotonic()
    return reports


def _open(target: Target) -> Source:
    if target.model_folder is None:
        raise ToolkitError("this is a GGUF file already", where=target.label)
    return open_source(target.label, target.model_folder, target.adapter_folder)


def _by_llama(
    folder: Path,
    final: Path,
    source: Source,
    whole: FilePlan,
    plan: FilePlan,
    notes: dict[str, str],
    threads: int | None,
    notify: Notify,
) -> None:
    """Write float32 and let llama.cpp make the rest of it."""
    floats = folder / "float32.gguf"
    write_gguf(floats, source, whole, notes, threads, _progress(notify, whole.kind))
    notify(f"quantising to {plan.kind.name} by llama.cpp")
    quantise(floats, final, plan.kind, threads)
    floats.unlink()


def _progress(notify: Notify, kind: QuantType) -> Callable[[int, int], None]:
    return lambda done, total: notify(f"writing {kind.name}: {done / total:.0%} of {total / 1e6:,.0f} MB")
