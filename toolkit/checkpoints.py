"""Checkpoints that are whole or not there, and adapters in PEFT's format.

    checkpoints/step-000100/
      adapter/                 PEFT's two files (lora), or
      model/model.safetensors  the trained weights as the trainer holds them (full)
      optimizer.safetensors    `<name>.exp_avg`, `<name>.exp_avg_sq`, float32
      state.json               seed, update, data position, threads, BLAS, best step so far
      SHA256SUMS               written last; a folder without it is not a checkpoint (`toolkit.checksums`)

The folder is filled under another name, flushed to the disk and renamed, so a kill at any moment leaves the older
checkpoints as they were.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.atomic_files import atomic_folder, delete_folder, remove_partials, write_atomic
from toolkit.checksums import SUMS_NAME, check_sums, write_sums
from toolkit.config import LoraConfig
from toolkit.errors import Problem, ToolkitError
from toolkit.protocols import TrainerState
from toolkit.tensor_files import SINGLE_NAME, StoredTensor, TensorEntry, TensorFile, read_tensors, write_tensors

STATE_NAME = "state.json"
OPTIMIZER_NAME = "optimizer.safetensors"
RANDOM_STATE = "derived"
"""No generator's state is stored, be it Python's, NumPy's or the framework's: order, initial values and dropout are
drawn from the seed and the update alone, so there is none to lose."""
ADAPTER_CONFIG_NAME = "adapter_config.json"
ADAPTER_TENSORS_NAME = "adapter_model.safetensors"
_STEP_FOLDER = re.compile(r"step-(\d{6,})")
_ADAPTER_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint. `notes` is state.json."""

    path: Path
    step: int
    notes: Mapping[str, Any]
    state: TrainerState


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter as it lies on disk.

    config:  adapter_config.json
    tensors: `base_model.model.<module>.lora_A.weight` (r, in) and `….lora_B.weight` (out, r)
    """

    folder: Path
    config: Mapping[str, Any]
    tensors: TensorFile

    @property
    def rank(self) -> int:
        """Inner dimension r."""
        return int(self.config["r"])

    @property
    def scale(self) -> float:
        """Factor on B·A: alpha / r (alpha / √r for rsLoRA)."""
        divisor = self.rank**0.5 if self.config.get("use_rslora") else self.rank
        return float(self.config["lora_alpha"]) / divisor

    @property
    def modules(self) -> tuple[str, ...]:
        """Adapted modules by their name in the base model, e.g. `model.layers.0.self_attn.q_proj`."""
        return tuple(dict.fromkeys(match["module"] for match in map(_ADAPTER_KEY.fullmatch, self.tensors) if match))

    def factors(self, module: str) -> tuple[StoredTensor, StoredTensor]:
        """Return A (r, in) and B (out, r) of one module."""
        prefix = f"base_model.model.{module}.lora_"
        return self.tensors[f"{prefix}A.weight"], self.tensors[f"{prefix}B.weight"]


def step_folder_name(step: int) -> str:
    """Name a checkpoint's folder: `step-000100`."""
    return f"step-{step:06d}"


def save_checkpoint(
    root: Path, step: int, state: TrainerState, notes: Mapping[str, Any], *, lora: LoraConfig | None, base_model: str
) -> Path:
    """Write `root/step-NNNNNN` atomically and return it. `step` counts updates, the skipped ones included.

    Raises JobFailed on a full disk, with every older checkpoint untouched.
    """
    target = root / step_folder_name(step)
    with atomic_folder(target) as folder:
        if lora is not None:
            write_adapter_files(folder / "adapter", state.weights, lora, base_model)
        else:
            (folder / "model").mkdir()
            write_tensors(folder / "model" / SINGLE_NAME, state.weights, {"format": "pt"})
        write_tensors(folder / OPTIMIZER_NAME, state.moments)
        state_json = {**notes, "update": step, "optimizer_updates": state.updates, "random_state": RANDOM_STATE}
        write_atomic(folder / STATE_NAME, json.dumps(state_json, indent=2) + "\n")
        write_sums(folder)
    return target


def verify_checkpoint(path: Path) -> list[Problem]:
    """Return what is wrong with a checkpoint's files: one problem for each file at fault, none when it is good.

    Every byte is compared with what was written. Whether that made sense (names, shapes, finite values) is what
    `toolkit checkpoint verify` looks at.
    """
    problems, listed = check_sums(path)
    if problems:
        return problems
    missing = [name for name in (STATE_NAME, OPTIMIZER_NAME) if name not in listed]
    return [Problem(f"SHA256SUMS does not list {name}", str(path / SUMS_NAME)) for name in missing]


def list_checkpoints(root: Path) -> list[Path]:
    """Return the checkpoint folders under `root` that have their SHA256SUMS, oldest first (contents not verified)."""
    return [path for path in list_step_folders(root) if (path / SUMS_NAME).is_file()]


def list_step_folders(root: Path) -> list[Path]:
    """Return the folders under `root` that are called like checkpoints, oldest first, whole or not."""
    if not root.is_dir():
        return []
    found = [path for path in root.iterdir() if _STEP_FOLDER.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=checkpoint_step)


def checkpoint_step(path: Path) -> int:
    """Read the step from a checkpoint folder's name. Raises ToolkitError for other folders."""
    match = _STEP_FOLDER.fullmatch(path.name)
    if match is None:
        raise ToolkitError("not a checkpoint folder (those are called step-000100)", where=path)
    return int(match[1])


def newest_good_checkpoint(root: Path) -> Path | None:
    """Return the newest checkpoint under `root` whose every byte is as it was written."""
    return next((path for path in reversed(list_checkpoints(root)) if not verify_checkpoint(path)), None)


def load_checkpoint(path: Path) -> Checkpoint:
    """Verify a checkpoint, then read it. Raises ToolkitError naming every file at fault."""
    step = checkpoint_step(path.resolve())
    problems = verify_checkpoint(path)
    if problems:
        raise ToolkitError.gather(problems)
    notes = json.loads((path / STATE_NAME).read_text("utf-8"))
    weights = path / "adapter" / ADAPTER_TENSORS_NAME
    if not weights.is_file():
        weights = path / "model" / SINGLE_NAME
    state = TrainerState(read_tensors(weights), read_tensors(path / OPTIMIZER_NAME), int(notes["optimizer_updates"]))
    return Checkpoint(path, step, notes, state)


def prune_checkpoints(root: Path, keep: int, best_step: int | None) -> None:
    """Delete all but the newest `keep` checkpoints and the one of `best_step`."""
    for path in list_checkpoints(root)[:-keep]:
        if checkpoint_step(path) != best_step:
            delete_folder(path)


def clean_checkpoints(root: Path, after_step: int) -> None:
    """Before a run goes on from `after_step`: delete later checkpoints and what killed writers left."""
    if not root.is_dir():
        return
    remove_partials(root)
    for path in list(root.iterdir()):
        match = _STEP_FOLDER.fullmatch(path.name)
        if match and (int(match[1]) > after_step or not (path / SUMS_NAME).is_file()):
            delete_folder(path)


def write_adapter(folder: Path, weights: Mapping[str, StoredTensor], lora: LoraConfig, base_model: str) -> None:
    """Write an adapter in PEFT's format, atomically; `PeftModel.from_pretrained(model, folder)` reads it."""
    with atomic_folder(folder) as partial:
        write_adapter_files(partial, weights, lora, base_model)


def write_adapter_files(folder: Path, weights: Mapping[str, StoredTensor], lora: LoraConfig, base_model: str) -> None:
    """Write adapter_model.safetensors and adapter_config.json into `folder`. Raises ToolkitError on a foreign key."""
    folder.mkdir(parents=True, exist_ok=True)
    problems = check_adapter_keys({name: tensor.array.shape for name, tensor in weights.items()}, lora.rank, folder)
    if problems:
        raise ToolkitError.gather(problems)
    modules = {match["module"].rpartition(".")[2] for match in map(_ADAPTER_KEY.fullmatch, weights) if match}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": sorted(modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }
    write_tensors(folder / ADAPTER_TENSORS_NAME, weights, {"format": "pt"})
    write_atomic(folder / ADAPTER_CONFIG_NAME, json.dumps(config, indent=2) + "\n")


def read_adapter(folder: Path, base: Mapping[str, TensorEntry] | None = None) -> Adapter:
    """Read an adapter in PEFT's format.

    base: the base model's tensor entries (`ModelFacts.tensors.entries`); with it, every key must fit a linear layer of
    the base and every targeted layer must have its pair. PEFT only warns about a misnamed key and then trains or
    answers with a no-op; here it is an error. Raises ToolkitError with all of them.
    """
    config_path = folder / ADAPTER_CONFIG_NAME
    try:
        config = json.loads(config_path.read_text("utf-8"))
    except OSError as error:
        raise ToolkitError(f"no {ADAPTER_CONFIG_NAME} here, so this is not an adapter", where=folder) from error
    except ValueError as error:
        raise ToolkitError(f"invalid JSON: {error}", where=config_path) from error
    _refuse_unsupported(config, config_path)
    tensors = read_tensors(folder / ADAPTER_TENSORS_NAME)
    shapes = {name: entry.shape for name, entry in tensors.entries.items()}
    problems = check_adapter_keys(shapes, int(config["r"]), tensors.path)
    adapter = Adapter(folder, config, tensors)
    if base is not None and not problems:
        problems = _check_fit(adapter, shapes, base)
    if problems:
        raise ToolkitError.gather(problems)
    return adapter


def _refuse_unsupported(config: Mapping[str, Any], path: Path) -> None:
    problems = []
    if config.get("peft_type") != "LORA" or "r" not in config or "lora_alpha" not in config:
        problems.append(Problem("only LoRA adapters can be read", str(path)))
    unsupported = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "fan_in_fan_out")
    problems += [Problem(f"an adapter with {key} cannot be read", str(path)) for key in unsupported if config.get(key)]
    if config.get("bias", "none") != "none":
        problems.append(Problem("an adapter with trained biases cannot be read", str(path)))
    if problems:
        raise ToolkitError.gather(problems)


def check_adapter_keys(shapes: Mapping[str, tuple[int, ...]], rank: int, where: Path) -> list[Problem]:
    """Return a problem for every key that is not PEFT's, has no partner or another rank than `rank`."""
    problems = [] if shapes else [Problem("the adapter is empty", str(where))]
    for name, shape in shapes.items():
        match = _ADAPTER_KEY.fullmatch(name)
        if match is None:
            what = f"the adapter has a key that PEFT would ignore: {name}"
            problems.append(Problem(what, str(where), "Expected base_model.model.<module>.lora_A.weight"))
            continue
        side = match["side"]
        partner = f"base_model.model.{match['module']}.lora_{'B' if side == 'A' else 'A'}.weight"
        if partner not in shapes:
            problems.append(Problem(f"the adapter has {name} but not {partner}", str(where)))
        if len(shape) != 2 or shape[0 if side == "A" else 1] != rank:
            problems.append(Problem(f"{name} has shape {list(shape)}, which is not of rank {rank}", str(where)))
    return problems


def _check_fit(
    adapter: Adapter, shapes: Mapping[str, tuple[int, ...]], base: Mapping[str, TensorEntry]
) -> list[Problem]:
    where = str(adapter.tensors.path)
    problems = []
    for module in adapter.modules:
        weight = base.get(f"{module}.weight")
        prefix = f"base_model.model.{module}.lora_"
        fitting = (shapes[f"{prefix}B.weight"][0], shapes[f"{prefix}A.weight"][1])
        if weight is None:
            problems.append(Problem(f"the adapter has {module}, which the model has not", where))
        elif tuple(weight.shape) != fitting:
            what = f"{module} of the adapter fits {list(fitting)}, but the model's weight is {list(weight.shape)}"
            problems.append(Problem(what, where))
    targets = adapter.config.get("target_modules")
    if isinstance(targets, list):
        problems += [
            Problem(f"adapter_config.json targets {module}, but the adapter has no weights for it", where)
            for module in missing_modules(targets, adapter.modules, base)
        ]
    return problems


def missing_modules(targets: list[str], modules: tuple[str, ...], base: Mapping[str, TensorEntry]) -> list[str]:
    """Return the linear layers of `base` that `targets` names (by PEFT's suffix rule) but `modules` lacks."""
    linear = [name.removesuffix(".weight") for name, entry in base.items() if len(entry.shape) == 2]
    wanted = [name for name in linear if any(name == target or name.endswith(f".{target}") for target in targets)]
    return [name for name in wanted if name not in set(modules)]
