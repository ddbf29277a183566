"""Adapters in PEFT's format: reading, checking, merging and writing LoRA, rsLoRA and DoRA.

    adapter_config.json        rank, alpha, variant, target modules
    adapter_model.safetensors  for each adapted module X, under `base_model.model.X`: `.lora_A.weight` (r, in),
                               `.lora_B.weight` (out, r), for DoRA `.lora_magnitude_vector` (out,)

With s = alpha / r (alpha / √r for rsLoRA, Kalajdzievski 2023, arXiv:2312.03732) the adapted weight is W + s·B·A (Hu
et al. 2021, arXiv:2106.09685), for DoRA m · (W + s·B·A) / ‖W + s·B·A‖, row by row (Liu et al. 2024, arXiv:2402.09353).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.atomic_files import atomic_folder, write_atomic
from toolkit.config import LoraConfig
from toolkit.errors import Problem, ToolkitError
from toolkit.tensor_files import StoredTensor, TensorEntry, TensorFile, read_tensors, write_tensors

ADAPTER_CONFIG_NAME = "adapter_config.json"
ADAPTER_TENSORS_NAME = "adapter_model.safetensors"
# Settings that take some of the layers that `target_modules` names out again.
NARROWING = ("layers_to_transform", "exclude_modules")
_PREFIX = "base_model.model."
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_magnitude_vector)")
# Settings of PEFT's that change the arithmetic in ways not written here: refused rather than applied wrongly.
_UNSUPPORTED = (
    "modules_to_save",
    "fan_in_fan_out",
    "lora_bias",
    "target_parameters",
    "trainable_token_indices",
    "layer_replication",
    "alora_invocation_tokens",
    "arrow_config",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "monteclora_config",
    "velora_config",
)
# Ways to start that move part of the base weight into the adapter, so that the adapter fits a changed base alone.
_BASE_CHANGING_STARTS = ("pissa", "olora", "corda", "loftq", "mica", "lora_ga")


@dataclass(frozen=True)
class Adapter:
    """An adapter on disk. `config` is adapter_config.json; `tensors` have the names that the module docstring gives."""

    folder: Path
    config: Mapping[str, Any]
    tensors: TensorFile

    @property
    def is_dora(self) -> bool:
        """Whether the adapted rows are rescaled to learnt magnitudes."""
        return bool(self.config.get("use_dora"))

    @property
    def is_rslora(self) -> bool:
        """Whether B·A is scaled by alpha / √r instead of alpha / r."""
        return bool(self.config.get("use_rslora"))

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """Adapted modules by their name in the base model, e.g. `model.layers.0.self_attn.q_proj`."""
        return _modules(self.tensors)

    @property
    def is_untrained(self) -> bool:
        """Whether every B is zero, as before the first update: applied or merged, such an adapter changes nothing."""
        return all(not self.factors(module)[1].array.any() for module in self.modules)

    def rank(self, module: str) -> int:
        """Return the inner dimension r of a module (`r`, unless `rank_pattern` names the module)."""
        return int(_of_pattern(self.config, "rank_pattern", module, self.config["r"]))

    def scale(self, module: str) -> float:
        """Return the factor on B·A: alpha / r (alpha / √r for rsLoRA)."""
        rank = self.rank(module)
        alpha = float(_of_pattern(self.config, "alpha_pattern", module, self.config["lora_alpha"]))
        return alpha / (rank**0.5 if self.is_rslora else rank)

    def factors(self, module: str) -> tuple[StoredTensor, StoredTensor]:
        """Return A (r, in) and B (out, r) of one module."""
        prefix = f"{_PREFIX}{module}.lora_"
        return self.tensors[f"{prefix}A.weight"], self.tensors[f"{prefix}B.weight"]

    def magnitude(self, module: str) -> StoredTensor | None:
        """Return DoRA's m (out,) of one module, None for the other variants."""
        return self.tensors[f"{_PREFIX}{module}.lora_magnitude_vector"] if self.is_dora else None

    def merged(self, module: str, weight: NDArray[Any], rows: slice | None = None) -> NDArray[np.float32]:
        """Return the weight (out, in) of a module with the adapter applied, in float32 (see the module docstring).

        rows: which rows of the module `weight` holds, so that a large one can be merged block by block; None: all
        """
        rows = slice(None) if rows is None else rows
        down, up = self.factors(module)
        merged = StoredTensor(up.name, up.dtype, up.array[rows]).to_float32() @ down.to_float32()
        merged *= np.float32(self.scale(module))
        merged += weight
        magnitude = self.magnitude(module)
        if magnitude is not None:
            norms = np.sqrt(np.einsum("ij,ij->i", merged, merged, dtype=np.float64))
            norms[norms == 0] = 1.0  # a row of zeros has no direction to give a length to
            merged *= (magnitude.to_float32()[rows] / norms).astype(np.float32)[:, None]
        return merged


def write_adapter(folder: Path, weights: Mapping[str, StoredTensor], lora: LoraConfig, base_model: str) -> None:
    """Write an adapter in PEFT's format, atomically; `PeftModel.from_pretrained(model, folder)` reads it."""
    with atomic_folder(folder) as partial:
        write_adapter_files(partial, weights, lora, base_model)


def write_adapter_files(folder: Path, weights: Mapping[str, StoredTensor], lora: LoraConfig, base_model: str) -> None:
    """Write adapter_model.safetensors and adapter_config.json into `folder`. Raises ToolkitError on a foreign key."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": sorted(lora.target_modules or {module.rpartition(".")[2] for module in _modules(weights)}),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": lora.variant == "dora",
        "use_rslora": lora.variant == "rslora",
    }
    problems = check_adapter_keys({name: tensor.array.shape for name, tensor in weights.items()}, config, folder)
    if problems:
        raise ToolkitError.gather(problems)
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
    problems = check_adapter_keys(shapes, config, tensors.path)
    adapter = Adapter(folder, config, tensors)
    if base is not None and not problems:
        problems = _check_fit(adapter, shapes, base)
    if problems:
        raise ToolkitError.gather(problems)
    return adapter


def check_adapter_keys(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], where: Path) -> list[Problem]:
    """Return a problem for every key that is not PEFT's, has no partner, or a shape that does not fit `config`."""
    problems = [] if shapes else [Problem("the adapter is empty", str(where))]
    dora = bool(config.get("use_dora"))
    for name in shapes:
        match = _KEY.fullmatch(name)
        if match is None:
            what = f"the adapter has a key that PEFT would ignore: {name}"
            problems.append(Problem(what, str(where), f"Expected {_PREFIX}<module>.lora_A.weight"))
        elif match["part"] == "lora_magnitude_vector" and not dora:
            problems.append(
                Problem(f"the adapter has {name}, but adapter_config.json does not say use_dora", str(where))
            )
    for module in _modules(shapes):
        rank = int(_of_pattern(config, "rank_pattern", module, config["r"]))
        problems += _check_module(module, shapes, rank, dora, where)
    return problems


def missing_modules(targets: list[str], modules: tuple[str, ...], base: Mapping[str, TensorEntry]) -> list[str]:
    """Return the linear layers of `base` that `targets` names (by PEFT's suffix rule) but `modules` lacks."""
    linear = [name.removesuffix(".weight") for name, entry in base.items() if len(entry.shape) == 2]
    wanted = [name for name in linear if any(name == target or name.endswith(f".{target}") for target in targets)]
    return [name for name in wanted if name not in set(modules)]


def _modules(names: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(match["module"] for match in map(_KEY.fullmatch, names) if match))


def _of_pattern(config: Mapping[str, Any], key: str, module: str, default: Any) -> Any:
    """Return a module's own value from `rank_pattern` or `alpha_pattern`: the first regular expression that ends it."""
    patterns: Mapping[str, Any] = config.get(key) or {}
    return next((value for name, value in patterns.items() if re.match(rf"(.*\.)?({name})$", module)), default)


def _refuse_unsupported(config: Mapping[str, Any], path: Path) -> None:
    problems = []
    numbers = (config.get("r"), config.get("lora_alpha"))
    if config.get("peft_type") != "LORA" or not all(isinstance(number, int | float) and number for number in numbers):
        problems.append(Problem("only LoRA adapters can be read", str(path)))
    problems += [Problem(f"an adapter with {key} cannot be read", str(path)) for key in _UNSUPPORTED if config.get(key)]
    if config.get("bias", "none") != "none":
        problems.append(Problem("an adapter with trained biases cannot be read", str(path)))
    start = str(config.get("init_lora_weights", True)).lower()
    if start.startswith(_BASE_CHANGING_STARTS):
        hint = "Convert it to plain LoRA with PEFT: save_pretrained(…, path_initial_model_for_weight_conversion=…)"
        problems.append(Problem(f"an adapter that began as {start} fits a changed base alone", str(path), hint))
    if problems:
        raise ToolkitError.gather(problems)


def _check_module(
    module: str, shapes: Mapping[str, tuple[int, ...]], rank: int, dora: bool, where: Path
) -> list[Problem]:
    first, second, magnitude = (
        f"{_PREFIX}{module}.lora_{part}" for part in ("A.weight", "B.weight", "magnitude_vector")
    )
    needed = [first, second, *([magnitude] if dora else [])]
    missing = [name for name in needed if name not in shapes]
    if missing:
        held = next(name for name in (first, second, magnitude) if name in shapes)
        return [Problem(f"the adapter has {held} but not {name}", str(where)) for name in missing]
    problems = []
    for name, place in ((first, 0), (second, 1)):
        if len(shapes[name]) != 2 or shapes[name][place] != rank:
            what = f"{name} has shape {list(shapes[name])}, which is not of rank {rank}"
            problems.append(Problem(what, str(where)))
    if dora and tuple(shapes[magnitude]) != tuple(shapes[second][:1]):
        what = f"{magnitude} has shape {list(shapes[magnitude])}, but {second} has {list(shapes[second])}"
        problems.append(Problem(what, str(where)))
    return problems


def _check_fit(
    adapter: Adapter, shapes: Mapping[str, tuple[int, ...]], base: Mapping[str, TensorEntry]
) -> list[Problem]:
    where = str(adapter.tensors.path)
    problems = []
    for module in adapter.modules:
        weight = base.get(f"{module}.weight")
        prefix = f"{_PREFIX}{module}.lora_"
        fitting = (shapes[f"{prefix}B.weight"][0], shapes[f"{prefix}A.weight"][1])
        if weight is None:
            problems.append(Problem(f"the adapter has {module}, which the model has not", where))
        elif tuple(weight.shape) != fitting:
            what = f"{module} of the adapter fits {list(fitting)}, but the model's weight is {list(weight.shape)}"
            problems.append(Problem(what, where))
    targets = adapter.config.get("target_modules")
    if isinstance(targets, list) and not any(adapter.config.get(key) for key in NARROWING):
        problems += [
            Problem(f"adapter_config.json targets {module}, but the adapter has no weights for it", where)
            for module in missing_modules(targets, adapter.modules, base)
        ]
    return problems
