"""Layers that keep their weights in MLX's affine layout and dequantise them where they are used.

MLX multiplies packed weights itself; torch has no such product, so a layer's weight exists in full only while that
layer runs, forward and again backward. What autograd keeps for the backward pass is the packed tensors.

Shapes: out rows, in columns, G groups to a row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from toolkit.affine import AffineLayout, AffineTensors, Quantization, read_quantization
from toolkit.errors import Problem, ToolkitError

METHOD = "toolkit-affine"
_PLANES = 8


def dequantise(octets: Tensor, scales: Tensor, biases: Tensor, layout: AffineLayout, dtype: torch.dtype) -> Tensor:
    """Return (rows, in) weights `scale * q + bias` in `dtype`, from (rows, in · bits / 8) uint8."""
    groups = _unpack(octets, layout.bits).view(len(octets), -1, layout.group_size).to(dtype)
    scales, biases = scales.to(dtype).unsqueeze(-1), biases.to(dtype).unsqueeze(-1)
    # In one step, rounded once, and in place: a second full weight would double the peak.
    return torch.addcmul(biases, groups, scales, out=groups).view(len(octets), -1)


def _unpack(octets: Tensor, bits: int) -> Tensor:
    """Return the whole numbers in a stream of bits, lowest first: uint8 (rows, in)."""
    if bits == 8:
        return octets
    if bits == 4:
        return torch.stack((octets & 15, octets >> 4), dim=-1).flatten(1)
    # Eight numbers take as many bytes as they have bits: put those together, cut the numbers out.
    parts = octets.view(len(octets), -1, bits).to(torch.int64)
    places = torch.arange(bits, device=octets.device)
    words = (parts << (8 * places)).sum(dim=-1, keepdim=True)
    numbers = (words >> (bits * torch.arange(_PLANES, device=octets.device))) & ((1 << bits) - 1)
    return numbers.to(torch.uint8).flatten(1)


class _Product(torch.autograd.Function):
    """x W' with W dequantised on the fly; the gradient goes to x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, octets: Tensor, scales: Tensor, biases: Tensor, layout: AffineLayout) -> Tensor:
        ctx.save_for_backward(octets, scales, biases)
        ctx.layout = layout
        return F.linear(x, dequantise(octets, scales, biases, layout, x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        octets, scales, biases = ctx.saved_tensors
        return gradient @ dequantise(octets, scales, biases, ctx.layout, gradient.dtype), None, None, None, None


def _product(x: Tensor, packed: AffineLinear | AffineEmbedding) -> Tensor:
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        x = x.to(torch.get_autocast_dtype(kind))
    return _Product.apply(x, packed.weight, packed.scales, packed.biases, packed.layout)  # type: ignore[return-value]


class AffineLinear(nn.Linear):
    """A frozen linear layer with a packed weight. PEFT puts LoRA and DoRA beside it as beside any linear layer.

    weight:         (out, in · bits / 8) uint8 (uint32 words until `settle`)
    scales, biases: (out, G), biases being the groups'
    bias:           (out,) or None, the layer's own
    W_q:            PEFT takes a layer that has this name for one of HQQ's and asks `dequantize()` for its weight
    """

    weight: Tensor  # type: ignore[assignment]
    scales: Tensor
    biases: Tensor

    def __init__(self, linear: nn.Linear, layout: AffineLayout) -> None:
        """Take the place of `linear`, empty: the files fill it."""
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.layout = linear.in_features, linear.out_features, layout
        _register(self, self.out_features, self.in_features, layout, linear.weight)
        self.bias = linear.bias

    @property
    def W_q(self) -> Tensor:  # noqa: N802
        """The packed weight, under HQQ's name."""
        return self.weight

    def dequantize(self) -> Tensor:
        """Return the weight, (out, in), in the precision of the scales."""
        return dequantise(self.weight, self.scales, self.biases, self.layout, self.scales.dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Return (…, out) for (…, in)."""
        y = _product(input, self)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class AffineEmbedding(nn.Embedding):
    """A frozen embedding with packed rows; only the rows that are asked for are dequantised."""

    weight: Tensor  # type: ignore[assignment]
    scales: Tensor
    biases: Tensor

    def __init__(self, embedding: nn.Embedding, layout: AffineLayout) -> None:
        """Take the place of `embedding`, empty: the files fill it."""
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = embedding.num_embeddings, embedding.embedding_dim
        self.padding_idx, self.layout = embedding.padding_idx, layout
        _register(self, self.num_embeddings, self.embedding_dim, layout, embedding.weight)

    def dequantize(self) -> Tensor:
        """Return the weight, (rows, width), in the precision of the scales."""
        return dequantise(self.weight, self.scales, self.biases, self.layout, self.scales.dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Return (…, width) for (…) token ids."""
        rows = input.flatten()
        parts = (part.index_select(0, rows) for part in (self.weight, self.scales, self.biases))
        return dequantise(*parts, self.layout, self.scales.dtype).view(*input.shape, -1)  # type: ignore[call-arg]


class TiedAffineHead(nn.Module):
    """The output layer of a model whose packed embedding is its head too."""

    def __init__(self, embedding: AffineEmbedding) -> None:
        """Multiply with the weight of `embedding`, which stays the owner."""
        super().__init__()
        self._embedding = [embedding]  # in a list, so that it is no child and its tensors are not listed twice

    def forward(self, input: Tensor) -> Tensor:
        """Return (…, V) logits for (…, H)."""
        return _product(input, self._embedding[0])


def _register(module: nn.Module, rows: int, columns: int, layout: AffineLayout, like: Tensor) -> None:
    words = torch.empty(rows, layout.packed_columns(columns), dtype=torch.uint32, device=like.device)
    module.register_buffer("weight", words)
    for name in ("scales", "biases"):
        shape = (rows, columns // layout.group_size)
        module.register_buffer(name, torch.empty(shape, dtype=like.dtype, device=like.device))


@register_quantization_config(METHOD)
class AffineConfig(QuantizationConfigMixin):
    """Says to transformers that a folder is in MLX's layout."""

    def __init__(self, folder: str = "", quantization: Quantization | None = None, **_: Any) -> None:
        """Remember the folder, whose files say which layers are packed."""
        self.quant_method = METHOD  # type: ignore[assignment]
        self.folder = folder
        self.quantization = quantization


@register_quantizer(METHOD)
class AffineQuantizer(HfQuantizer):
    """Puts packed layers into the empty model before transformers fills it from the files."""

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> Any:
        config: Any = self.quantization_config
        if config.quantization is None:
            raise ValueError("an AffineConfig needs the layers' layouts")
        tensors = AffineTensors(Path(config.folder), config.quantization)
        problems = []
        for name, entry in tensors.entries.items():
            layout, module = tensors.layout_of(name), name.removesuffix(".weight")
            if layout is None:
                continue
            try:
                place = model.get_submodule(module)
            except AttributeError:
                place = None
            if not isinstance(place, nn.Linear | nn.Embedding):
                problems.append(Problem(f"transformers has no linear layer or embedding {module}", config.folder))
            elif tuple(entry.shape) != tuple(place.weight.shape):
                what = f"{name} is {list(entry.shape)}, but the config wants {list(place.weight.shape)}"
                problems.append(Problem(what, config.folder))
            else:
                packed = AffineLinear if isinstance(place, nn.Linear) else AffineEmbedding
                model.set_submodule(module, packed(place, layout))  # type: ignore[arg-type]
        if problems:
            raise ToolkitError.gather(problems[:10])
        _tie_head(model)
        return model

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        for module in model.modules():
            if isinstance(module, AffineLinear | AffineEmbedding):
                module.weight = module.weight.view(torch.uint8)
        self.remove_quantization_config(model)
        return model

    def is_serializable(self) -> bool:  # type: ignore[override]
        """Say that transformers cannot save such a model."""
        return False

    @property
    def is_trainable(self) -> bool:  # type: ignore[override]
        """Say that adapters can be trained on it."""
        return True


def _tie_head(model: Any) -> None:
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(embedding, AffineEmbedding) and head is not None and model.all_tied_weights_keys:
        model.set_output_embeddings(TiedAffineHead(embedding))
        model.all_tied_weights_keys = {}  # nothing is left for transformers to tie


def loading_config(folder: Path) -> Any:
    """Return a folder's configuration; that of a packed one makes transformers call the `AffineQuantizer`.

    Raises:
        ToolkitError: the folder is in a layout of MLX's that cannot be read.
    """
    config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True)
    quantization = read_quantization(config.to_dict(), folder)
    if quantization is not None:
        config.quantization_config = {"quant_method": METHOD, "folder": str(folder), "quantization": quantization}
    return config
