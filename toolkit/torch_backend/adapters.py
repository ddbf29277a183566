"""LoRA, rsLoRA and DoRA through PEFT: insert, draw initial values, load from disk, name as PEFT does on disk.

PEFT takes seconds to import, so it is imported where it is used.
"""

from __future__ import annotations

import difflib
import functools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from toolkit.config import LoraConfig
from toolkit.errors import Problem, ToolkitError
from toolkit.initial_values import draw_kaiming_uniform

if TYPE_CHECKING:
    from peft import PeftModel

_ADAPTER = "default"


def linear_layer_names(model: Any) -> list[str]:
    """Return the last name parts of all linear layers inside the decoder's blocks (`q_proj`, `down_proj`, …)."""
    return sorted(
        {
            name.rpartition(".")[2]
            for blocks in _blocks(model)
            for name, layer in blocks.named_modules()
            if _is_linear(layer)
        }
    )


def insert_adapters(model: Any, lora: LoraConfig, seed: int) -> PeftModel:
    """Freeze `model` and put float32 LoRA layers into it, with values drawn from (seed, parameter name).

    Raises:
        ToolkitError: a target module is not a linear layer of this model.
    """
    import peft

    known = linear_layer_names(model)
    in_blocks = {id(layer) for blocks in _blocks(model) for layer in blocks.modules()}
    places = [name for name, layer in model.named_modules() if id(layer) in in_blocks and _is_linear(layer)]
    wanted = list(lora.target_modules or known)
    problems = []
    for name in wanted:
        if not any(place == name or place.endswith(f".{name}") for place in places):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"linear layers here: {', '.join(known)}"
            problems.append(Problem(f"no linear layer is called {name}", "lora.target_modules", hint))
    if problems:
        raise ToolkitError.gather(problems)
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # PEFT annotates int and divides floats just as well
        lora_dropout=lora.dropout,
        target_modules=wanted,
        use_dora=lora.variant == "dora",
        use_rslora=lora.variant == "rslora",
        bias="none",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT uses names that transformers has deprecated
        adapted = peft.get_peft_model(model, config)
    draw_initial_values(adapted, seed)
    adapted.eval()  # as the base is; PEFT's new layers would drop out until the first change of mode
    return adapted  # type: ignore[return-value]


@torch.no_grad()
def draw_initial_values(adapted: PeftModel, seed: int) -> None:
    """Overwrite PEFT's initial values: A Kaiming-uniform from (seed, name), B zero, DoRA's m the lengths of W's rows.

    PEFT measures those lengths in the base's precision, so that a bfloat16 model would not start as it was.

    Raises:
        ToolkitError: a row of zeros, which has no direction for DoRA to keep.
    """
    from peft.utils.integrations import dequantize_module_weight

    for name, parameter in named_adapter_parameters(adapted):
        if ".lora_A." in name:
            values = draw_kaiming_uniform(seed, name, tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(values))
        elif ".lora_B." in name:
            parameter.zero_()
    for name, layer in _dora_layers(adapted):
        magnitude: nn.Parameter = layer.lora_magnitude_vector[_ADAPTER].weight
        magnitude.copy_(torch.linalg.norm(dequantize_module_weight(layer.get_base_layer()).float(), dim=1))
        if not bool((magnitude > 0).all()):
            what = f"dora cannot adapt {name.removeprefix('base_model.model.')}: rows of its weight are zero"
            raise ToolkitError(what, where="lora.variant", hint="use lora or rslora, or leave it out of the targets")


def named_adapter_parameters(adapted: PeftModel) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield (name in adapter_model.safetensors, parameter) for every trainable parameter."""
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            on_disk = name.replace(f".{_ADAPTER}.", ".")
            yield on_disk.replace(".lora_magnitude_vector.weight", ".lora_magnitude_vector"), parameter


def load_adapters(model: Any, folder: Path, *, trainable: bool) -> PeftModel:
    """Load an adapter folder in PEFT's format onto `model`.

    Raises:
        ToolkitError: the folder is not a LoRA adapter, or its tensors do not fit the model (PEFT only warns).
    """
    import peft
    from safetensors import safe_open

    file = Path(folder) / "adapter_model.safetensors"
    for needed in (Path(folder) / "adapter_config.json", file):
        if not needed.is_file():
            raise ToolkitError(f"not an adapter folder: {needed.name} is missing", where=folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # keys that do not fit: PEFT warns, the check below raises
            adapted = peft.PeftModel.from_pretrained(model, str(folder), adapter_name=_ADAPTER, is_trainable=trainable)
        with safe_open(str(file), framework="pt") as tensors:
            found = set(tensors.keys())
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise ToolkitError(f"PEFT cannot load this adapter: {str(error).splitlines()[0]}", where=folder) from error
    # Left at "auto", PEFT asks the hub whether the base's vocabulary was resized; linear layers alone are adapted here.
    expected = set(peft.get_peft_model_state_dict(adapted, save_embedding_layers=False))
    problems = [Problem(f"the adapter lacks {name}", str(file)) for name in sorted(expected - found)]
    problems += [Problem(f"the model has no place for {name}", str(file)) for name in sorted(found - expected)]
    if problems:
        raise ToolkitError.gather(problems[:10])
    if not trainable:
        _hold_lengths(adapted)
    adapted.eval()  # as the base is; PEFT's new layers would drop out until the first change of mode
    return adapted


def _blocks(model: Any) -> list[nn.ModuleList]:
    return [module for module in model.get_decoder().children() if isinstance(module, nn.ModuleList)]


def _is_linear(layer: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(layer, nn.Linear | Conv1D)


def _dora_layers(adapted: PeftModel) -> Iterator[tuple[str, Any]]:
    for name, layer in adapted.named_modules():
        if _ADAPTER in getattr(layer, "lora_magnitude_vector", {}):
            yield name, layer


@torch.no_grad()
def _hold_lengths(adapted: PeftModel) -> None:
    """Measure the rows of W + s·B·A once, for adapters that do not learn; PEFT does so in every pass."""
    from peft.utils.integrations import dequantize_module_weight

    for _, layer in _dora_layers(adapted):
        dora = layer.lora_magnitude_vector[_ADAPTER]
        update = layer.scaling[_ADAPTER] * (layer.lora_B[_ADAPTER].weight @ layer.lora_A[_ADAPTER].weight)
        norms = torch.linalg.norm(dequantize_module_weight(layer.get_base_layer()).float() + update, dim=1)
        dora.forward = functools.partial(_rescale, dora.weight / norms)


def _rescale(
    factor: Tensor,
    x: Tensor,
    *,
    lora_A: nn.Module,
    lora_B: nn.Module,
    scaling: float,
    base_layer: Any,
    base_result: Tensor,
    **_: Any,
) -> Tensor:
    """Return what DoRA adds to `base_result`, the base layer's output (…, out), given its factors (out,)."""
    product = base_result if base_layer.bias is None else base_result - base_layer.bias
    return (factor - 1) * product + factor * scaling * lora_B(lora_A(x))
