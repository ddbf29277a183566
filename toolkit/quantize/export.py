"""From a trained model to a proved GGUF file: open, write float32, quantise, verify, take the name."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType as Kind
from gguf import LlamaFileType

from toolkit.atomic_files import remove_partials, write_atomic, write_failed
from toolkit.backends import Target, open_target
from toolkit.config import FinetuneConfig
from toolkit.config_files import load_config
from toolkit.datasets.formats import load_splits
from toolkit.datasets.schema import Message
from toolkit.errors import JobFailed, ToolkitError
from toolkit.protocols import Scorer
from toolkit.quantize import verify
from toolkit.quantize.llama_quantizer import quantise
from toolkit.quantize.modelfile import modelfile_text
from toolkit.quantize.plan import PlannedTensor, QuantType, plan_tensors, planned_bytes, quant_type
from toolkit.quantize.source import Source, open_source
from toolkit.quantize.stream import write_gguf
from toolkit.quantize.verify import Gate
from toolkit.runs import RunFolder

VERIFICATION_NAME = "verification.json"
MODELFILE_NAME = "Modelfile"
_SAMPLES = 8
# Room for the quantised file, whatever llama.cpp falls back to: at most Q8_0's bits out of float32's.
_QUANTISED_SHARE = 8.6 / 32


@dataclass(frozen=True)
class ExportRequest:
    """What to export.

    out:       a .gguf file or a folder; default: the run's export/ folder, else ./export
    check:     verify the result against the trained model
    overwrite: replace a file of that name
    """

    target: Target
    quant: str = "Q4_K_M"
    out: Path | None = None
    check: bool = True
    overwrite: bool = False
    threads: int | None = None


@dataclass(frozen=True)
class ExportReport:
    """What came of it. A file that failed a gate lies at `path` under a name that says so (`….failed.gguf`)."""

    path: Path
    byte_count: int
    gates: Sequence[Gate]
    seconds: float

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the gates that failed."""
        return tuple(gate.gate for gate in self.gates if not gate.passed)


def export_model(
    request: ExportRequest,
    notify: Callable[[str], None] = lambda _: None,
    open_reference: Callable[[], Scorer] | None = None,
) -> ExportReport:
    """Export a model and verify the file.

    notify:         told what is going on, once a stage
    open_reference: opens the trained model for comparison; default: by `backends.open_target`, in float32 on the CPU

    Raises:
        ToolkitError: the target, type or place cannot be used.
        JobFailed: the disk is full or llama.cpp gave up; nothing half-written is left.
    """
    started = time.monotonic()
    target = request.target
    if target.model_folder is None:
        raise ToolkitError("this is a GGUF file already", where=target.label)
    kind = quant_type(request.quant)
    path = output_path(request, kind)
    notify("reading the model")
    source = open_source(target.label, target.model_folder, target.adapter_folder)
    direct = Kind.F32 if kind.direct is None else kind.direct
    tensors = plan_tensors(source, direct)
    _check_space(path, planned_bytes(tensors), kind)
    conversations = training_conversations(target.run_folder)
    open_reference = open_reference or (lambda: open_target(target, device="cpu", dtype="float32").scorer)
    with _staging(path) as folder:
        written = folder / "written.gguf"
        notify(f"writing {direct.name}")
        file_type = LlamaFileType.ALL_F32 if kind.direct is None else kind.file_type
        write_gguf(written, source, tensors, file_type, _notes(target))
        final = written
        if kind.direct is None:
            notify(f"quantising to {kind.name}")
            final = folder / "quantised.gguf"
            quantise(written, final, kind, request.threads)
        gates: list[Gate] = []
        if request.check:
            gates = _verify(source, tensors, kind, written, final, conversations, open_reference, notify)
        passed = all(gate.passed for gate in gates)
        path = path if passed else path.with_suffix(".failed.gguf")
        os.replace(final, path)
    _write_companions(path, source, gates, passed)
    return ExportReport(path, path.stat().st_size, tuple(gates), time.monotonic() - started)


def output_path(request: ExportRequest, kind: QuantType) -> Path:
    """Choose the file's name. Raises ToolkitError when it exists and is not to be replaced."""
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", request.target.label).strip("-.") or "model"
    name = f"{label}-{kind.name}.gguf"
    run = request.target.run_folder
    folder = request.out or (RunFolder(run).export if run is not None else Path("export"))
    path = folder if folder.suffix == ".gguf" else folder / name
    if path.is_dir():
        raise ToolkitError("is a folder", where=path, hint="Name a .gguf file or another folder with --out")
    if path.exists() and not request.overwrite:
        raise ToolkitError(
            "exists already", where=path, hint="Choose another place with --out, or replace it: --overwrite"
        )
    return path


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


def _verify(
    source: Source,
    tensors: Sequence[PlannedTensor],
    kind: QuantType,
    written: Path,
    final: Path,
    conversations: Sequence[Sequence[Message]],
    open_reference: Callable[[], Scorer],
    notify: Callable[[str], None],
) -> list[Gate]:
    """Run the gates in order; a file that cannot be loaded is not asked further."""
    notify("verifying: structure, tokenizer, chat")
    gates = [verify.verify_structure(final, tensors, kind)]
    if not gates[0].passed:
        return gates
    gates += verify.verify_text(source, final, conversations)
    notify("verifying: asking the trained model")
    rows = verify.probe_rows(source, conversations, source.config.get("max_position_embeddings", 2048))
    reference = verify.with_reference(open_reference, rows)
    notify("verifying: logits and weights")
    if kind.direct in (None, Kind.F32):
        gates.append(verify.verify_conversion(written, reference, rows))
    gates.append(verify.verify_weights(source, final))
    gates.append(verify.verify_behaviour(final, kind, reference, rows))
    return gates


@contextmanager
def _staging(path: Path) -> Iterator[Path]:
    """Yield a folder beside `path` for unfinished files; it is gone afterwards, whatever happens."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_partials(path.parent, path.name)
        partial.mkdir()
        yield partial
    except OSError as error:
        # NumPy's writer reports a short write without an error number.
        if error.errno is None:
            hint = "Is the disk full? Free some space and try again"
            raise JobFailed(f"cannot be written whole ({error}); nothing was left", where=path, hint=hint) from error
        raise write_failed(error, path) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_space(path: Path, written_bytes: int, kind: QuantType) -> None:
    """Raise JobFailed when the disk cannot hold the files of an export, before any work is done."""
    needed = written_bytes if kind.direct is not None else int(written_bytes * (1 + _QUANTISED_SHARE))
    existing = next(folder for folder in path.absolute().parents if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise JobFailed(
            f"the disk is full: the export needs {needed / 1e6:,.0f} MB (for a while), {free / 1e6:,.0f} MB are free",
            where=path,
            hint="Free some space, or choose another disk with --out",
        )


def _notes(target: Target) -> dict[str, str]:
    """Say where the model comes from, for the file's `general.` keys."""
    notes = {}
    if target.adapter_folder is not None and target.model_folder is not None:
        notes["base_model.0.name"] = target.model_folder.name
    readme = None if target.model_folder is None else target.model_folder / "README.md"
    if readme is not None and readme.is_file():
        # Model cards begin with YAML between dashes: https://huggingface.co/docs/hub/model-cards
        card = re.match(r"---\n(.*?)\n---", readme.read_text("utf-8", errors="replace"), re.DOTALL)
        licence = card and re.search(r"^license:\s*(\S+)\s*$", card[1], re.MULTILINE)
        if licence:
            notes["license"] = licence[1].strip("'\"")
    return notes


def _write_companions(path: Path, source: Source, gates: Sequence[Gate], passed: bool) -> None:
    """Write verification.json (entries of other files in the folder are kept) and, for a good file, the Modelfile."""
    if gates:
        record = path.parent / VERIFICATION_NAME
        entries = [entry for entry in _read_entries(record) if entry.get("file") != path.name]
        entries += [
            {"file": path.name, "gate": gate.gate, "passed": gate.passed, "figures": dict(gate.figures)}
            for gate in gates
        ]
        write_atomic(record, json.dumps(entries, indent=2, ensure_ascii=False) + "\n")
    if passed:
        write_atomic(path.parent / MODELFILE_NAME, modelfile_text(path.name, source.tokenizer))


def _read_entries(record: Path) -> list[Mapping[str, Any]]:
    try:
        entries = json.loads(record.read_text("utf-8"))
    except (OSError, ValueError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
