"""Load a causal language model and split it into decoder and head, so that logits are made only where they are needed.

Shapes: B rows, T positions, H hidden size, V vocabulary entries.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model as load_with_mlx_lm

from toolkit.errors import ToolkitError
from toolkit.mlx_backend.devices import is_out_of_memory, use_device
from toolkit.mlx_backend.packing import check_packing, decode_packed, ignored_window, one_segment_per_row
from toolkit.mlx_backend.quantised import dequantised, is_quantised, weight_shape
from toolkit.protocols import Batch
from toolkit.tensor_files import StoredTensor

_DECODERS = ("model", "transformer", "backbone")


def load_model(folder: Path, storage: mx.Dtype, device: mx.Device) -> nn.Module:
    """Load a Hugging Face folder with its weights in `storage` precision, in `eval()` mode.

    A model that is quantised in MLX's layout stays so; its scales get `storage` precision.

    Raises:
        ToolkitError: the folder does not hold a causal language model, or weights are missing or misshapen.
    """
    use_device(device)
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ToolkitError("no config.json: not a model folder", where=folder)
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        model, _ = load_with_mlx_lm(folder, lazy=True, model_config=rope_settings(config))
        model.set_dtype(storage)
        mx.eval(model.parameters())
    except MemoryError:
        raise
    except Exception as error:  # mlx-lm raises ValueError, KeyError, TypeError, FileNotFoundError, RuntimeError, …
        if is_out_of_memory(error):
            raise
        raise ToolkitError(f"mlx-lm cannot load this model: {first_line(error)}", where=folder) from error
    return model.eval()


def rope_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rotary settings under the names that mlx-lm reads.

    transformers 5 writes `rope_parameters`; most of mlx-lm's models know only `rope_theta` and `rope_scaling` and would
    take their own defaults without a word.
    """
    parameters = config.get("rope_parameters")
    if not isinstance(parameters, Mapping) or "rope_type" not in parameters:
        return {}
    settings: dict[str, Any] = {}
    if "rope_theta" in parameters:
        settings["rope_theta"] = parameters["rope_theta"]
    if parameters["rope_type"] != "default":
        settings["rope_scaling"] = {key: value for key, value in parameters.items() if key != "rope_theta"}
    return settings


def first_line(error: BaseException) -> str:
    """Return the gist of an error's text in one line, or its type's name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3]).rstrip(".") if lines else type(error).__name__


class Parameter:
    """An array that training changes, inside a module or a dictionary: `holder[key]`. `grad` is its gradient so far."""

    def __init__(self, holder: MutableMapping[str, Any], key: str) -> None:
        """Refer to `holder[key]`, whatever array stands there (an MLX module is a dictionary)."""
        self.holder = holder
        self.key = key
        self.grad: mx.array | None = None

    @property
    def value(self) -> mx.array:
        """The array."""
        return self.holder[self.key]

    @value.setter
    def value(self, array: mx.array) -> None:
        self.holder[self.key] = array


def named_parameters(model: nn.Module) -> dict[str, Parameter]:
    """Return every array of the model by its name in the checkpoint."""
    result = {}
    for name, _ in tree_flatten(model.parameters()):
        *path, key = name.split(".")
        holder: Any = model
        for part in path:
            holder = holder[int(part)] if isinstance(holder, list) else holder[part]
        result[name] = Parameter(holder, key)
    return result


class _PassThrough:
    """Stands in for a decoder: hands its input on as the last hidden state; all else is the decoder's."""

    def __init__(self, decoder: nn.Module) -> None:
        self._decoder = decoder

    def __call__(self, inputs: mx.array, *_: Any, **__: Any) -> mx.array:
        return inputs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)


class SplitModel:
    """A causal LM seen as `hidden` (the decoder) and `head` (everything after it, scaling and capping included).

    The head is the model's own call with the decoder replaced by a pass-through in a shallow copy, so its parameters
    are shared with the model and no class is patched.

    trainable:  what `losses.backward_nll` differentiates; set by a trainer
    head_names: names in `trainable` whose arrays the head uses
    """

    def __init__(self, model: Any, dtype: mx.Dtype) -> None:
        """Wrap an mlx-lm model (adapters may be inserted); arithmetic is done in `dtype`."""
        self.model = model
        self.dtype = dtype
        self.device = mx.default_device()
        name = next((name for name in _DECODERS if isinstance(model.get(name), nn.Module)), None)
        if name is None:
            raise ToolkitError(f"mlx-lm's {type(model).__module__} keeps its decoder where the toolkit does not look")
        self.decoder: nn.Module = model[name]
        self._head = copy.copy(model)
        self._head.pop(name)
        object.__setattr__(self._head, name, _PassThrough(self.decoder))
        self.trainable: dict[str, Parameter] = {}
        self.window = ignored_window(model)
        self._packing_checked = False
        self._check_head()

    @property
    def head_names(self) -> list[str]:
        """Names of the trainable parameters that the head uses: its own, or the embedding's where they are tied."""
        decoder = next(name for name in _DECODERS if self.model.get(name) is self.decoder)
        own = [name for name in self.trainable if not name.startswith(f"{decoder}.") and ".lora_" not in name]
        tied = [name for name in self.trainable if name.endswith((".embed_tokens.weight", ".wte.weight"))]
        return own or tied

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Within the block the float32 masters stand rounded to the chosen precision, so that products run in it."""
        masters = [] if self.dtype != mx.bfloat16 else [p for n, p in self.trainable.items() if ".lora_" not in n]
        exact = [parameter.value for parameter in masters]
        for parameter in masters:
            parameter.value = parameter.value.astype(self.dtype)
        try:
            yield
        finally:
            for parameter, value in zip(masters, exact, strict=True):
                parameter.value = value

    def hidden(self, batch: Batch) -> mx.array:
        """Return (B, T, H) hidden states; sequences packed into a row do not see each other."""
        return self.decode(self.to_device(batch.tokens), None if one_segment_per_row(batch) else batch.positions)

    def decode(self, tokens: mx.array, positions: np.ndarray | None = None) -> mx.array:
        """Run the decoder over (B, T) tokens; `positions` that restart within a row keep its sequences apart.

        Without positions attention is plainly causal, which lets the kernels skip the mask.

        Raises:
            ToolkitError: this architecture cannot keep sequences apart.
        """
        if positions is None and (self.window is None or tokens.shape[1] <= self.window):
            return self.decoder(tokens)
        if positions is None:
            return decode_packed(self, tokens, np.arange(tokens.shape[1])[None])
        if not self._packing_checked:
            check_packing(self)
            self._packing_checked = True
        return decode_packed(self, tokens, positions)

    def head(self, hidden: mx.array) -> mx.array:
        """Return (n, V) logits for (n, H) hidden states, in the dtype the model computes them in."""
        return self._head(hidden[None])[0]

    def to_device(self, array: np.ndarray) -> mx.array:
        """Copy a NumPy array to the model's device."""
        return mx.array(np.ascontiguousarray(array))

    def _check_head(self) -> None:
        tokens = mx.array([[0, 1]])
        whole = self.model(tokens)[0].astype(mx.float32)
        split = self.head(self.decode(tokens)[0]).astype(mx.float32)
        self.vocab_size: int = whole.shape[-1]
        if not mx.allclose(whole, split, atol=1e-4, rtol=1e-4):
            raise ToolkitError(
                f"{type(self.model).__module__} does more between decoder and logits than the toolkit can follow"
            )


def stored(name: str, tensor: mx.array) -> StoredTensor:
    """Copy an array to the host under `name`; bfloat16 leaves as raw uint16 bits."""
    dtype = str(tensor.dtype).removeprefix("mlx.core.")
    if tensor.dtype == mx.bfloat16:
        return StoredTensor(name, dtype, np.array(tensor.view(mx.uint16)))
    return StoredTensor(name, dtype, np.array(tensor))


def from_stored(tensor: StoredTensor) -> mx.array:
    """Return an array with the stored values (a copy: files may be mapped read-only)."""
    array: Any = np.array(tensor.array, copy=True)
    if tensor.dtype == "bfloat16":
        return mx.array(array.view(np.uint16)).view(mx.bfloat16)
    return mx.array(array)


def named_weights(model: nn.Module) -> Iterator[StoredTensor]:
    """Yield the model's tensors by Hugging Face name, lazily; adapters are not merged, tied weights come once."""
    for name, layer in model.named_modules():
        clean = name.replace(".base_layer", "")
        if is_quantised(layer):
            yield stored(f"{clean}.weight", dequantised(layer))
        for key, value in layer.items():
            if isinstance(value, mx.array) and _is_own_weight(layer, key):
                yield stored(f"{clean}.{key}" if clean else key, value)


def _is_own_weight(layer: nn.Module, key: str) -> bool:
    if is_quantised(layer):
        return key == "bias"
    return not key.startswith(("_", "lora_"))


def parameter_count(model: nn.Module) -> int:
    """Count the parameters, adapters included; tied weights count once, packed ones as many as they stand for."""
    return sum(_own_parameter_count(layer) for _, layer in model.named_modules())


def _own_parameter_count(layer: nn.Module) -> int:
    """Count a module's own parameters; packed ones as many as they stand for."""
    own = {key: value for key, value in layer.items() if isinstance(value, mx.array) and not key.startswith("_")}
    if is_quantised(layer):
        return math.prod(weight_shape(layer)) + (own["bias"].size if "bias" in own else 0)
    return sum(value.size for value in own.values())
