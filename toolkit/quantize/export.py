"""From a trained model to proved GGUF files: open, plan, stream, verify, take the name."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from toolkit.backends import Target, open_target
from toolkit.config import FinetuneConfig
from toolkit.config_files import load_config
from toolkit.datasets.formats import load_splits
from toolkit.datasets.schema import Message
from toolkit.errors import ToolkitError
from toolkit.protocols import Scorer
from toolkit.quantize import ggml
from toolkit.quantize.companions import general_notes, write_companions
from toolkit.quantize.llama_quantizer import quantise
from toolkit.quantize.mixture import alternative_kinds, plan_files, recommendations
from toolkit.quantize.places import check_space, output_paths, staging
from toolkit.quantize.plan import QUANT_TYPES, FilePlan, QuantType, quant_types
from toolkit.quantize.prove import Prover
from toolkit.quantize.source import Source, open_source
from toolkit.quantize.stream import write_gguf
from toolkit.quantize.verify import Gate
from toolkit.runs import RunFolder

_SAMPLES = 8

Notify = Callable[[str], None]
Via = Literal["auto", "stream", "llama"]


@dataclass(frozen=True)
class ExportRequest:
    """What to export.

    quant:     one type or several, separated by commas
    out:       a folder or, for one type, a .gguf file; default: the run's export/ folder, else ./export
    check:     verify the result against the trained model
    overwrite: replace files of those names
    threads:   for quantising; default: all cores
    via:       `stream` quantises row by row straight from the weights, `llama` lets llama.cpp quantise a float32 file;
               `auto` is `stream` where the installed llama-cpp-python allows it
    """

    target: Target
    quant: str = "Q4_K_M"
    out: Path | None = None
    check: bool = True
    overwrite: bool = False
    threads: int | None = None
    via: Via = "auto"


@dataclass(frozen=True)
class ExportReport:
    """What came of one file. One that failed a gate lies at `path` under a name that says so (`….failed.gguf`)."""

    path: Path
    byte_count: int
    gates: Sequence[Gate]
    seconds: float
    plan: FilePlan

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the gates that failed."""
        return tuple(gate.gate for gate in self.gates if not gate.passed)


@dataclass(frozen=True)
class ExportPlan:
    """What an export would do: a plan for each file, where it would lie, and what to think of it."""

    files: Sequence[FilePlan]
    paths: Sequence[Path]
    advice: Sequence[str]


def plan_export(request: ExportRequest) -> ExportPlan:
    """Plan without writing anything. Raises ToolkitError for what cannot be exported."""
    kinds = quant_types(request.quant)
    paths = output_paths(request.target, [kind.name for kind in kinds], request.out, overwrite=True)
    source = _open(request.target)
    others = [kind for kind in alternative_kinds() if kind not in kinds]
    plans = plan_files(source, [*kinds, *others], general_notes(request.target))
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
    """Export a model in every type asked for and verify the files.

    notify:         told what is going on
    open_reference: opens the trained model for comparison; default: by `backends.open_target`, in float32 on the CPU

    Raises:
        ToolkitError: the target, a type or a place cannot be used.
        JobFailed: the disk is full or llama.cpp gave up; nothing half-written is left.
    """
    started = time.monotonic()
    target = request.target
    kinds = quant_types(request.quant)
    paths = output_paths(target, [kind.name for kind in kinds], request.out, request.overwrite)
    notify("reading the model")
    source = _open(target)
    notes = general_notes(target)
    whole, *plans = plan_files(source, [QUANT_TYPES["F32"], *kinds], notes)
    via_llama = request.via == "llama" or (request.via == "auto" and not ggml.available())
    finals = sum(plan.file_bytes for plan in plans)
    check_space(paths[0], finals + (whole.file_bytes if via_llama or request.check else 0))
    prover = None
    if request.check:
        reference = open_reference or (
            lambda: open_target(target, device="cpu", dtype="float32", full_base=True).scorer
        )
        prover = Prover(source, whole, training_conversations(target.run_folder), reference, notify)
    reports = []
    for plan, path in zip(plans, paths, strict=True):
        with staging(path) as folder:
            final = folder / "written.gguf"
            if via_llama:
                _by_llama(folder, final, source, whole, plan, notes, request.threads, notify)
            else:
                write_gguf(final, source, plan, notes, request.threads, _progress(notify, plan.kind))
            gates = [] if prover is None else prover.prove(final, plan, folder)
            passed = all(gate.passed for gate in gates)
            path = path if passed else path.with_suffix(".failed.gguf")
            os.replace(final, path)
        write_companions(path, source, gates, passed)
        reports.append(ExportReport(path, path.stat().st_size, tuple(gates), time.monotonic() - started, plan))
        started = time.monotonic()
    return reports


def training_conversations(run_folder: Path | None) -> list[tuple[Message, ...]]:
    """Take a few conversations from a run's data to compare on; none when the data are gone."""
    if run_folder is None:
        return []
    try:
        config = load_config(FinetuneConfig, RunFolder(run_folder).config_path)
        splits = load_splits(config.data, config.train.seed)
    except ToolkitError:
        return []
    half = _SAMPLES // 2
    # The gates compare conversations alone: plain texts have none, and tools are the chat template's affair.
    held_out, train = (
        [example.messages for example in side if example.text is None and not example.uses_tools]
        for side in (splits.validation, splits.train)
    )
    return [*held_out[:half], *train[:half]]


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
