"""From a trained model to a proved model folder: open, plan, stream, verify, take the name."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from toolkit.atomic_files import flush_tree, replace_folder, write_atomic
from toolkit.errors import ToolkitError
from toolkit.protocols import Scorer
from toolkit.quantize.companions import VERIFICATION_NAME, gate_entries, record_gates, summaries, with_merge
from toolkit.quantize.folder_plan import FolderPlan, plan_folder
from toolkit.quantize.folder_proof import FolderProver
from toolkit.quantize.folder_writer import write_folder
from toolkit.quantize.model_card import card_text, write_card
from toolkit.quantize.origin import Origin, origin_of
from toolkit.quantize.places import CARD_NAME, check_space, export_folder, model_folder_path, staging
from toolkit.quantize.requests import ExportPlan, ExportReport, ExportRequest, Notify
from toolkit.quantize.samples import Samples
from toolkit.quantize.source import FolderSource, open_folder_source
from toolkit.quantize.verify import Gate

_USED_BY = {
    "safetensors": ("transformers", "all that reads its folders"),
    "mlx": ("mlx-lm",),
}


def plan_folder_export(request: ExportRequest) -> ExportPlan:
    """Plan without writing anything. Raises ToolkitError for what cannot be exported."""
    _, plan = _open_and_plan(request)
    path = model_folder_path(request.target, plan.name, request.out, overwrite=True)
    advice = []
    if plan.left:
        shown = ", ".join(plan.left[:3]) + (f" and {len(plan.left) - 3} more" if len(plan.left) > 3 else "")
        groups = plan.layout.group_size
        advice.append(f"groups of {groups} do not divide the rows of {shown}, which stay as they are")
    return ExportPlan([plan], [path], advice)


def export_folder_model(
    request: ExportRequest,
    samples: Samples,
    open_reference: Callable[[], Scorer],
    notify: Notify,
) -> ExportReport:
    """Export a model folder and verify it; see `export.export_files`."""
    started = time.monotonic()
    target = request.target
    notify("reading the model")
    source, plan = _open_and_plan(request)
    path = model_folder_path(target, plan.name, request.out, request.overwrite)
    origin = origin_of(target)
    check_space(path, plan.file_bytes)
    prover = FolderProver(source, plan, samples, open_reference, notify) if request.check else None
    with staging(path) as scratch:
        written = scratch / "model"
        written.mkdir()
        write_folder(written, source, plan, request.threads, _progress(notify, plan))
        gates = [] if prover is None else with_merge(prover.prove(written), origin.merged)
        if any(not gate.passed for gate in gates):
            path = path.with_name(f"{path.name}.failed")
        _write_papers(written, path, plan, gates, origin)
        flush_tree(written)
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        replace_folder(written, path)
    if gates and path.parent.absolute() == export_folder(target).absolute():
        record_gates(path.parent / VERIFICATION_NAME, path.name, gates)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return ExportReport(path, size, tuple(gates), time.monotonic() - started, plan, origin.merged)


def _open_and_plan(request: ExportRequest) -> tuple[FolderSource, FolderPlan]:
    target = request.target
    if request.format == "gguf":
        raise ValueError("a GGUF file is no folder")
    if target.model_folder is None:
        raise ToolkitError("this is a GGUF file already", where=target.label)
    known_only = request.format == "mlx"
    source = open_folder_source(target.label, target.model_folder, target.adapter_folder, known_only=known_only)
    return source, plan_folder(source, request.format, request.layout)


def _write_papers(folder: Path, path: Path, plan: FolderPlan, gates: Sequence[Gate], origin: Origin) -> None:
    """Write verification.json and the model card into the folder that will be called `path`."""
    entries = gate_entries(path.name, gates)
    if entries:
        write_atomic(folder / VERIFICATION_NAME, json.dumps(entries, indent=2, ensure_ascii=False) + "\n")
    usable = Path(path.name)
    write_card(folder / CARD_NAME, card_text(origin, plan.format, usable, summaries(entries), _USED_BY[plan.format]))


def _progress(notify: Notify, plan: FolderPlan) -> Callable[[int, int], None]:
    return lambda done, total: notify(f"writing {plan.name}: {done / total:.0%} of {total / 1e6:,.0f} MB")
