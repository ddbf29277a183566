"""LoRA layers in PEFT's orientation: insert, draw initial values, load from disk, name as PEFT does on disk.

A (r, in) and B (out, r) are kept as PEFT stores them, so nothing is transposed on the way to the disk.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from toolkit.adapter_files import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_TENSORS_NAME,
    NARROWING,
    missing_modules,
    read_adapter,
)
from toolkit.config import LoraConfig
from toolkit.errors import Problem, ToolkitError
from toolkit.initial_values import draw_kaiming_uniform
from toolkit.mlx_backend.model import Parameter, from_stored
from toolkit.mlx_backend.quantised import dequantised, is_quantised, weight_shape
from toolkit.tensor_files import TensorEntry

_PREFIX = "base_model.model."


class LoraLinear(nn.Module):
    """A linear layer with low-rank adapters beside it: x W' + scale · dropout(x) A' B' (Hu et al. 2021).

    With magnitudes it is DoRA's (Liu et al. 2024): the rows of V = W + scale · B A get the learnt lengths m instead of
    their own, which the backward pass takes for constants (section 4.3). As in PEFT, dropout meets all but x W' itself.

    The dropout mask is a function of a key that the layer holds for a micro-batch. MLX's own dropout draws from global
    state, so that recomputing the layer in the backward pass (gradient checkpointing) would draw another mask.
    """

    def __init__(self, base_layer: nn.Module, rank: int, scale: float, dropout: float, dora: bool = False) -> None:
        """Wrap a linear layer, quantised or not; A and B start at zero, m at the lengths of W's rows, float32."""
        super().__init__()
        outputs, inputs = weight_shape(base_layer)
        self.base_layer = base_layer
        self.scale = scale
        self.dropout = dropout
        self.enabled = True
        self.lora_A = mx.zeros((rank, inputs))
        self.lora_B = mx.zeros((outputs, rank))
        if dora:
            self.lora_magnitude_vector = _row_norms(base_weight(base_layer))

    def draw_dropout_from(self, key: mx.array) -> None:
        """Use `key` for the masks until the next call."""
        self._dropout_key = key  # the underscore keeps it out of the module's parameters

    def __call__(self, x: mx.array) -> mx.array:
        """Return (…, out) for (…, in)."""
        y = self.base_layer(x)
        if not self.enabled:
            return y
        dropping = self.training and self.dropout > 0
        if dropping:
            kept = mx.random.bernoulli(1 - self.dropout, x.shape, key=self._dropout_key)
            x = x * (kept.astype(x.dtype) / (1 - self.dropout)).astype(x.dtype)
        z = self.scale * ((x @ self.lora_A.T) @ self.lora_B.T)
        if "lora_magnitude_vector" in self:
            factor = self.lora_magnitude_vector / self._norms()
            product = (self.base_layer(x) if dropping else y) - self.base_layer.get("bias", 0.0)
            z = (factor - 1) * product + factor * z
        return y + z.astype(y.dtype)

    def _norms(self) -> mx.array:
        """Return the lengths (out,) of the rows of W + scale · B A; outside training they are computed once."""
        held = self.get("_held_norms")
        if not self.training and held is not None and held[0] is self.lora_A and held[1] is self.lora_B:
            return held[2]
        down, up = mx.stop_gradient(self.lora_A), mx.stop_gradient(self.lora_B)
        norms = _row_norms(base_weight(self.base_layer) + self.scale * (up @ down))
        self._held_norms = None if self.training else (self.lora_A, self.lora_B, norms)
        return norms


@dataclass(frozen=True)
class AdaptedModel:
    """A model with adapters in it. `layers`: the adapted layers by their name in the base model."""

    model: nn.Module
    layers: Mapping[str, LoraLinear]

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Switch the adapters off within a `with` block."""
        for layer in self.layers.values():
            layer.enabled = False
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.enabled = True

    def draw_dropout_from(self, seed: int) -> None:
        """Give every layer the key of its masks for the next micro-batch."""
        keys = mx.random.split(mx.random.key(seed), len(self.layers))
        for layer, key in zip(self.layers.values(), keys, strict=True):
            layer.draw_dropout_from(key)


def linear_layer_names(model: Any) -> list[str]:
    """Return the last name parts of all linear layers inside the decoder's blocks (`q_proj`, `down_proj`, …)."""
    names = {name.rpartition(".")[2] for block in model.layers for name, _ in _linear_layers(block)}
    return sorted(names)


def insert_adapters(model: Any, lora: LoraConfig, seed: int) -> AdaptedModel:
    """Freeze `model` and put float32 LoRA layers into it, with values drawn from (seed, parameter name).

    Raises:
        ToolkitError: a target module is not a linear layer of this model.
    """
    known = linear_layer_names(model)
    in_blocks = {id(layer) for block in model.layers for _, layer in _linear_layers(block)}
    places = [name for name, layer in _linear_layers(model) if id(layer) in in_blocks]
    lora = lora.model_copy(update={"target_modules": tuple(lora.target_modules or known)})
    problems = []
    for name in lora.target_modules or ():
        if not any(place == name or place.endswith(f".{name}") for place in places):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"linear layers here: {', '.join(known)}"
            problems.append(Problem(f"no linear layer is called {name}", "lora.target_modules", hint))
    if problems:
        raise ToolkitError.gather(problems)
    chosen = dict.fromkeys(filter(lora.targets, places), (lora.rank, lora.scale))
    adapted = _adapt(model, chosen, lora.dropout, dora=lora.variant == "dora")
    draw_initial_values(adapted, seed)
    return adapted


def draw_initial_values(adapted: AdaptedModel, seed: int) -> None:
    """Overwrite the initial values: A Kaiming-uniform from (seed, name), B zero, DoRA's m the lengths of W's rows.

    Raises:
        ToolkitError: a row of zeros, which has no direction for DoRA to keep.
    """
    for name, parameter in named_adapter_parameters(adapted):
        if ".lora_A." in name:
            parameter.value = mx.array(draw_kaiming_uniform(seed, name, parameter.value.shape))
        elif ".lora_B." in name:
            parameter.value = mx.zeros_like(parameter.value)
    for module, layer in adapted.layers.items():
        if "lora_magnitude_vector" in layer:
            layer.lora_magnitude_vector = _row_norms(base_weight(layer.base_layer))
            if not mx.all(layer.lora_magnitude_vector > 0):
                what = f"dora cannot adapt {module}: rows of its weight are zero"
                raise ToolkitError(
                    what, where="lora.variant", hint="use lora or rslora, or leave it out of the targets"
                )


def named_adapter_parameters(adapted: AdaptedModel) -> Iterator[tuple[str, Parameter]]:
    """Yield (name in adapter_model.safetensors, parameter) for every trainable parameter."""
    for module, layer in adapted.layers.items():
        for key in ("lora_A", "lora_B"):
            yield f"{_PREFIX}{module}.{key}.weight", Parameter(layer, key)
        if "lora_magnitude_vector" in layer:
            yield f"{_PREFIX}{module}.lora_magnitude_vector", Parameter(layer, "lora_magnitude_vector")


def load_adapters(model: Any, folder: Path, *, trainable: bool) -> AdaptedModel:
    """Load an adapter folder in PEFT's format onto `model`.

    Raises:
        ToolkitError: the folder is not a LoRA adapter, or its tensors do not fit the model (PEFT only warns).
    """
    for needed in (ADAPTER_CONFIG_NAME, ADAPTER_TENSORS_NAME):
        if not (Path(folder) / needed).is_file():
            raise ToolkitError(f"not an adapter folder: {needed} is missing", where=folder)
    adapter = read_adapter(Path(folder))
    places = dict(_linear_layers(model))
    shapes = {name: weight_shape(layer) for name, layer in places.items()}
    file = str(adapter.tensors.path)
    problems = [
        Problem(f"the model has no place for {_PREFIX}{module}.lora_A.weight", file)
        for module in adapter.modules
        if shapes.get(module) != (adapter.factors(module)[1].array.shape[0], adapter.factors(module)[0].array.shape[1])
    ]
    targets = adapter.config.get("target_modules")
    if isinstance(targets, list) and not any(adapter.config.get(key) for key in NARROWING):
        entries = {f"{name}.weight": TensorEntry(name, "float32", shape, 0, folder) for name, shape in shapes.items()}
        for module in missing_modules(targets, adapter.modules, entries):
            problems += [Problem(f"the adapter lacks {_PREFIX}{module}.lora_{side}.weight", file) for side in "AB"]
    if problems:
        raise ToolkitError.gather(problems[:10])
    dropout = float(adapter.config.get("lora_dropout") or 0.0) if trainable else 0.0
    shapes_of = {module: (adapter.rank(module), adapter.scale(module)) for module in adapter.modules}
    adapted = _adapt(model, shapes_of, dropout, dora=adapter.is_dora)
    for name, parameter in named_adapter_parameters(adapted):
        parameter.value = from_stored(adapter.tensors[name]).astype(mx.float32)
    return adapted


def _linear_layers(model: Any) -> Iterator[tuple[str, nn.Module]]:
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear | nn.QuantizedLinear):
            yield name, layer


def _adapt(
    model: Any, ranks_and_scales: Mapping[str, tuple[int, float]], dropout: float, *, dora: bool
) -> AdaptedModel:
    model.freeze()  # before the adapters come, which stay trainable
    layers = {}
    for name, (rank, scale) in sorted(ranks_and_scales.items()):
        path, _, key = name.rpartition(".")
        holder: Any = model
        for part in path.split(".") if path else ():
            holder = holder[int(part)] if isinstance(holder, list) else holder[part]
        layers[name] = LoraLinear(holder[key], rank, scale, dropout, dora)
        holder[key] = layers[name]
    model.eval()
    return AdaptedModel(model, layers)


def base_weight(layer: Any) -> mx.array:
    """Return the weight (out, in) of a linear layer, dequantised where it is packed."""
    return dequantised(layer) if is_quantised(layer) else layer["weight"]


def _row_norms(weight: mx.array) -> mx.array:
    return mx.linalg.norm(weight.astype(mx.float32), axis=1)
