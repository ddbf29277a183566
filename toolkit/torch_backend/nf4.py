"""bitsandbytes' NF4: copies of models in it, written piece by piece in the format that transformers reads.

A weight is one of 16 values times the largest magnitude of its block of 64 (Dettmers et al. 2023, arXiv:2305.14314);
those magnitudes are 8-bit numbers themselves, with one float32 for 256 of them ("double quantisation").

Shapes: out rows, in columns, N = out · in weights, B = ⌈N / 64⌉ blocks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from toolkit.base_cache import NF4_LABEL
from toolkit.errors import ToolkitError
from toolkit.models import ModelFacts
from toolkit.packed_folders import Put, pieces
from toolkit.tensor_files import StoredTensor, TensorEntry, TensorSpec

LABEL = NF4_LABEL
BLOCK, NESTED_BLOCK = 64, 256
_STATE_BYTES = 256
"""Room for the JSON beside a weight, filled up with spaces: its length depends on the digits of a float."""


@dataclass(frozen=True)
class Nf4Packer:
    """Packs as transformers does with `BitsAndBytesConfig(load_in_4bit=True, …"nf4", …double_quant=True)`."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """Say that torch reads these files."""
        return {"format": "pt"}

    def config(self, facts: ModelFacts, packed: Sequence[str]) -> Mapping[str, Any]:
        """Return transformers' `quantization_config`, which names the layers that are left alone."""
        kept = [name for name, entry in facts.tensors.entries.items() if len(entry.shape) == 2 and name not in packed]
        skipped = sorted({"lm_head", *(name.removesuffix(".weight") for name in kept)})
        entry = {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "load_in_8bit": False,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_quant_storage": "uint8",
            "bnb_4bit_compute_dtype": facts.dtype,
            "llm_int8_skip_modules": skipped,
        }
        return {"quantization_config": entry}

    def fits(self, entry: TensorEntry) -> bool:
        """Take every matrix of an even number of weights."""
        return entry.parameter_count % 2 == 0

    def parts(self, entry: TensorEntry) -> Mapping[str, TensorSpec]:
        """Return the packed weight and what bitsandbytes keeps beside it."""
        blocks = -(-entry.parameter_count // BLOCK)
        return {
            entry.name: TensorSpec("uint8", (entry.parameter_count // 2, 1)),
            f"{entry.name}.absmax": TensorSpec("uint8", (blocks,)),
            f"{entry.name}.quant_map": TensorSpec("float32", (16,)),
            f"{entry.name}.nested_absmax": TensorSpec("float32", (-(-blocks // NESTED_BLOCK),)),
            f"{entry.name}.nested_quant_map": TensorSpec("float32", (256,)),
            f"{entry.name}.quant_state.bitsandbytes__nf4": TensorSpec("uint8", (_STATE_BYTES,)),
        }

    def pack(self, entry: TensorEntry, put: Put) -> None:
        """Quantise block by block; the blocks' magnitudes (a 64th of the numbers) wait for each other in memory."""
        from bitsandbytes import functional

        absmax: list[Tensor] = []
        code: Any = None
        columns = entry.shape[1]
        for first, piece in pieces(entry, BLOCK // math.gcd(BLOCK, columns)):
            packed, state = functional.quantize_4bit(_tensor(piece), blocksize=BLOCK, quant_type="nf4")
            put(entry.name, first * columns // 2, packed.numpy())
            absmax.append(state.absmax)
            code = state.code
        whole = torch.cat(absmax)
        if not torch.isfinite(whole).all():
            raise ToolkitError(f"{entry.name} holds NaN or infinity", where=entry.path)
        offset = whole.mean()
        small, nested_state = functional.quantize_blockwise(whole - offset, blocksize=NESTED_BLOCK)
        nested: Any = nested_state
        notes = {
            "quant_type": "nf4",
            "blocksize": BLOCK,
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "nested_blocksize": NESTED_BLOCK,
            "nested_dtype": "float32",
            "nested_offset": offset.item(),
        }
        put(f"{entry.name}.absmax", 0, small.numpy())
        put(f"{entry.name}.quant_map", 0, code.numpy())
        put(f"{entry.name}.nested_absmax", 0, nested.absmax.numpy())
        put(f"{entry.name}.nested_quant_map", 0, nested.code.numpy())
        put(f"{entry.name}.quant_state.bitsandbytes__nf4", 0, _padded(notes))


def _padded(notes: Mapping[str, Any]) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(notes).encode("utf-8").ljust(_STATE_BYTES), np.uint8)


def _tensor(piece: StoredTensor) -> Tensor:
    if piece.dtype == "bfloat16":
        return torch.from_numpy(piece.array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(piece.array)


def is_nf4(layer: nn.Module) -> bool:
    """Tell whether bitsandbytes packed a layer's weight, without importing it (PEFT has a class of the same name)."""
    kind = type(layer)
    return kind.__name__ == "Linear4bit" and kind.__module__.startswith("bitsandbytes.")


def dequantised_nf4(layer: Any) -> Tensor:
    """Return the weight (out, in) of a packed layer."""
    from bitsandbytes import functional

    return functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)


def settle_nf4(model: nn.Module, storage: torch.dtype) -> None:
    """Bring a model with packed layers to `storage` precision, computing always by the same road.

    transformers leaves the weights that are not packed as stored, and records the precision that the packed ones had;
    their values are the same in each. And on some CPUs bitsandbytes would pack a layer anew when it is first asked, and
    answer with other bits than it trains.
    """
    packed: list[Any] = [layer for layer in model.modules() if is_nf4(layer)]
    for layer in packed:
        layer.weight.quant_state.dtype = storage
        layer.compute_dtype = storage
        layer.support_avx512bf16_for_cpu = False
    for parameter in model.parameters() if packed else ():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(storage)
