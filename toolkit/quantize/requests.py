"""What an export is asked for, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from toolkit.affine import AffineLayout
from toolkit.backends import Target
from toolkit.quantize.folder_plan import FolderPlan
from toolkit.quantize.plan import FilePlan
from toolkit.quantize.verify import Gate

Notify = Callable[[str], None]
Via = Literal["auto", "stream", "llama"]
ExportFormat = Literal["gguf", "safetensors", "mlx"]
EXPORT_FORMATS: tuple[str, ...] = get_args(ExportFormat)


@dataclass(frozen=True)
class ExportRequest:
    """What to export.

    quant:     for gguf: one type or several, separated by commas
    out:       for gguf a folder or, for one type, a .gguf file; for the others the model's folder; default: a place in
               the run's export/ folder, else in ./export
    check:     verify the result against the trained model
    overwrite: replace files of those names
    threads:   for quantising; default: all cores
    via:       `stream` quantises row by row straight from the weights, `llama` lets llama.cpp quantise a float32 file;
               `auto` is `stream` where the installed llama-cpp-python allows it
    format:    a GGUF file, or a model folder: the merged model in the precision of its base (safetensors), or packed
               in MLX's affine layout (mlx)
    layout:    for mlx: bits and group size
    """

    target: Target
    quant: str = "Q4_K_M"
    out: Path | None = None
    check: bool = True
    overwrite: bool = False
    threads: int | None = None
    via: Via = "auto"
    format: ExportFormat = "gguf"
    layout: AffineLayout = AffineLayout()


@dataclass(frozen=True)
class ExportReport:
    """What came of one file or folder.

    One that failed a gate lies at `path` under a name that says so (`….failed.gguf`, `….failed`). `merged` says what
    an adapter was merged into, if there was one.
    """

    path: Path
    byte_count: int
    gates: Sequence[Gate]
    seconds: float
    plan: FilePlan | FolderPlan
    merged: str = ""

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the gates that failed."""
        return tuple(gate.gate for gate in self.gates if not gate.passed)


@dataclass(frozen=True)
class ExportPlan:
    """What an export would do: a plan for each file or folder, where it would lie, and what to think of it."""

    files: Sequence[FilePlan | FolderPlan]
    paths: Sequence[Path]
    advice: Sequence[str]
