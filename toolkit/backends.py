"""Which backend trains here and why; what a user means by a target, and how to open it.

The only module that names all backends. Each is imported where it is needed, so that asking costs nothing.
"""

from __future__ import annotations

import difflib
import json
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from toolkit.adapter_files import ADAPTER_CONFIG_NAME
from toolkit.base_cache import base_label, kept_copy
from toolkit.config import BaseConfig, FinetuneConfig
from toolkit.config_files import load_config
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.errors import ToolkitError
from toolkit.models import find_model, is_adapter, read_model
from toolkit.protocols import Backend, Scorer, ScorerSpec
from toolkit.runs import RunFolder, find_run, is_run, list_runs

if TYPE_CHECKING:
    from toolkit.gguf_backend.tokenizer import GgufTokenizer

BACKENDS = ("mlx", "torch")
PACKAGES = {"mlx": ("mlx", "mlx_lm"), "torch": ("torch", "transformers", "safetensors")}
INSTALL = {
    "mlx": "pip install mlx mlx-lm (on Linux: 'mlx[cpu]' mlx-lm)",
    "torch": "pip install torch transformers peft",
}

TargetKind = Literal["run", "adapter", "model", "gguf"]


@dataclass(frozen=True)
class Target:
    """What the user named, as files.

    label:          how to call it in tables
    model_folder:   the base model (None for a .gguf)
    adapter_folder: the adapter on top of it, if any
    gguf_file:      the file, for kind `gguf`
    run_folder:     the run that it belongs to, if any
    base:           the quantised base that the adapter was trained on, for a run of method qlora
    """

    kind: TargetKind
    label: str
    model_folder: Path | None = None
    adapter_folder: Path | None = None
    gguf_file: Path | None = None
    run_folder: Path | None = None
    base: BaseConfig | None = None


@dataclass(frozen=True)
class OpenTarget:
    """A model that can be asked, with the tokenizer that it speaks. `context`: its longest sequence, in tokens."""

    scorer: Scorer
    tokenizer: Tokenizer | GgufTokenizer
    label: str
    context: int


def choose_backend(choice: str, device: str = "auto") -> tuple[Backend, str]:
    """Return the backend and the line that says why: `torch on cpu: no CUDA device, no Apple GPU`.

    `auto` takes MLX on Apple silicon, else torch on CUDA, MPS or the CPU, in this order.

    Raises:
        ToolkitError: the backend is unknown or not installed (the hint installs it), or the device is not here.
    """
    if choice not in ("auto", *BACKENDS):
        near = difflib.get_close_matches(choice, ("auto", *BACKENDS), n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose auto or one of: {', '.join(BACKENDS)}"
        raise ToolkitError(f"unknown backend: {choice}", where="backend", hint=hint)
    prefer_mlx = choice == "auto" and _is_apple_silicon() and device != "cuda"
    if choice == "mlx" or (prefer_mlx and _is_installed("mlx")):
        backend = _open("mlx")
        chosen = backend.describe(device).device
        return backend, f"mlx on {chosen}: {_reason_for_mlx(choice, device)}"
    backend = _open("torch")
    chosen = backend.describe(device).device
    reason = _reason(chosen, device, backend.devices())
    if prefer_mlx:
        reason += f" (MLX would be faster; it is not installed: {INSTALL['mlx']})"
    return backend, f"torch on {chosen}: {reason}"


def _open(name: str) -> Backend:
    try:
        if name == "mlx":
            from toolkit.mlx_backend.session import MlxBackend

            return MlxBackend()
        from toolkit.torch_backend.session import TorchBackend

        return TorchBackend()
    except ImportError as error:
        # MLX's wheel for another platform is found but cannot be loaded, an ImportError without a missing package.
        missing = (error.name or "").split(".")[0]
        if missing not in PACKAGES[name]:
            raise
        what = f"there is no package {missing}" if isinstance(error, ModuleNotFoundError) else str(error)
        raise ToolkitError(f"backend {name} is not installed: {what}", where="backend", hint=INSTALL[name]) from error


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _reason_for_mlx(choice: str, device: str) -> str:
    if choice == "mlx":
        return "asked for by backend"
    return "Apple silicon" if device == "auto" else "Apple silicon, and the device asked for by train.device"


def _reason(chosen: str, wanted: str, here: list[str]) -> str:
    if wanted != "auto":
        return "asked for by train.device"
    if chosen == "cuda":
        return "a CUDA device is here"
    if chosen == "mps":
        return "no CUDA device, an Apple GPU is here"
    apple_gpu = "an Apple GPU that torch cannot use" if _is_apple_silicon() else "no Apple GPU"
    return f"no CUDA device, {apple_gpu}" if len(here) == 1 else "the best device here"


def _is_apple_silicon() -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"


def resolve_target(text: str, runs_root: Path) -> Target:
    """Find what the user means: a .gguf, a run (name or path), an adapter, a model folder, a hub name or `nano`.

    Raises:
        ToolkitError: nothing of that name is here, or it is not complete.
    """
    path = Path(text).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ToolkitError("no such file", where=text)
        run = path.resolve().parent.parent  # runs/<name>/export/<file>.gguf
        return Target("gguf", path.name, gguf_file=path, run_folder=run if is_run(run) else None)
    if path.is_dir() and is_adapter(path):
        return _adapter_target(path, path.resolve().name)
    for run in (runs_root / text, path):
        if run.is_dir() and is_run(run):
            return _run_target(run)
    if path.is_dir() or text == "nano" or _could_be_hub_name(text):
        model = find_model(text)
        return Target("model", model.label, model_folder=model.folder)
    return _refuse(text, runs_root)


def _could_be_hub_name(text: str) -> bool:
    return text.count("/") == 1 and not text.startswith((".", "~", "/"))


def _refuse(text: str, runs_root: Path) -> Target:
    names = ["nano", *(run.name for run in list_runs(runs_root))]
    near = difflib.get_close_matches(text, names, n=1)
    hint = f"did you mean {near[0]}?" if near else "list the runs: toolkit runs list"
    raise ToolkitError("no run, adapter, model folder or .gguf file of this name", where=text, hint=hint)


def _run_target(path: Path) -> Target:
    run = find_run(str(path.resolve()), path.parent)
    if is_adapter(run.adapter):
        return replace(_adapter_target(run.adapter, run.name, run.path), kind="run")
    if (run.model / "config.json").is_file():
        return Target("run", run.name, find_model(str(run.model)).folder, run_folder=run.path)
    raise ToolkitError(
        "this run has no trained weights yet (neither adapter/ nor model/)",
        where=path,
        hint=f"go on with it: toolkit finetune --resume {run.name}",
    )


def _adapter_target(folder: Path, label: str, run_folder: Path | None = None) -> Target:
    config_file = folder / ADAPTER_CONFIG_NAME
    try:
        base = json.loads(config_file.read_text("utf-8")).get("base_model_name_or_path")
    except ValueError as error:
        raise ToolkitError(f"invalid JSON: {error}", where=config_file) from error
    if not base:
        raise ToolkitError("base_model_name_or_path is missing, so the base model is unknown", where=config_file)
    made_by = run_folder or run_of_adapter(folder)
    quantised = None if made_by is None else _quantised_base(made_by)
    try:
        model_folder = find_model(base).folder
    except ToolkitError:
        copy = None if made_by is None or quantised is None else _kept_copy(made_by, quantised)
        if copy is None or quantised is None:
            raise
        # The affine copy is a model of its own that says what it is; so is the other, for transformers.
        return Target("adapter", label, copy, folder, run_folder=run_folder, base=None)
    return Target("adapter", label, model_folder, folder, run_folder=run_folder, base=quantised)


def run_of_adapter(adapter: Path) -> Path | None:
    """Return the run that an adapter's folder lies in: runs/<name>/adapter, or checkpoints/step-000100/adapter."""
    return next((path for path in list(adapter.resolve().parents)[:3] if is_run(path)), None)


def _quantised_base(run: Path) -> BaseConfig | None:
    """Return the base that a run's adapter was trained on, where it is a quantised one."""
    path = RunFolder(run).config_path
    if not path.is_file():
        return None
    config = load_config(FinetuneConfig, path)
    return config.base if config.method == "qlora" else None


def _kept_copy(run: Path, base: BaseConfig) -> Path | None:
    """Return the quantised copy that a run was trained on, for when the model itself is gone."""
    digest = RunFolder(run).manifest().get("model_sha256")
    return kept_copy(digest, base_label(base)) if isinstance(digest, str) else None


def open_target(
    target: Target,
    device: str = "auto",
    dtype: str = "auto",
    backend_choice: str = "auto",
    *,
    full_base: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> OpenTarget:
    """Open a target for scoring and generation, through llama.cpp for a .gguf, else through MLX or torch.

    full_base: put the adapter of a qlora run on the full-precision model instead of on the base that it was trained on
    report:    told when that base has to be made first

    Raises:
        ToolkitError: it cannot be loaded, or the backend or device is not here.
        JobFailed: out of memory.
    """
    if target.gguf_file is not None:
        from toolkit.gguf_backend.session import GgufScorer

        scorer = GgufScorer(target.gguf_file)
        return OpenTarget(scorer, scorer.tokenizer(), target.label, scorer.context_length)
    if target.model_folder is None:
        raise ValueError("a target is a .gguf file or has a model folder")
    backend, _ = choose_backend(backend_choice, device)
    tokenizer = Tokenizer.load(target.model_folder)
    base = None if full_base else target.base
    spec = ScorerSpec(target.model_folder, target.adapter_folder, device, dtype, base)
    backend.prepare_base(spec, report)
    scorer = backend.open_scorer(spec)
    return OpenTarget(scorer, tokenizer, target.label, read_model(target.model_folder).context)
