"""What goes into a file: which tensors, called what, stored how."""

from __future__ import annotations

from dataclasses import dataclass

import gguf
from gguf import GGMLQuantizationType as Kind
from gguf import LlamaFileType

from toolkit.errors import ToolkitError
from toolkit.gguf_backend.tensor_names import gguf_name
from toolkit.quantize.source import Source


@dataclass(frozen=True)
class QuantType:
    """A type that an export can ask for.

    name:      as people write it
    file_type: llama.cpp's name for the mixture
    direct:    the kind of all matrices where the file is written without llama.cpp's quantiser, else None
    kl_limit:  mean KL divergence from the trained model, in nats, above which a file is broken rather than coarse
    """

    name: str
    file_type: LlamaFileType
    direct: Kind | None
    kl_limit: float


QUANT_TYPES: dict[str, QuantType] = {
    kind.name: kind
    for kind in (
        QuantType("F32", LlamaFileType.ALL_F32, Kind.F32, 1e-4),
        QuantType("F16", LlamaFileType.MOSTLY_F16, Kind.F16, 1e-2),
        QuantType("BF16", LlamaFileType.MOSTLY_BF16, Kind.BF16, 2e-2),
        QuantType("Q8_0", LlamaFileType.MOSTLY_Q8_0, None, 5e-2),
        QuantType("Q4_K_M", LlamaFileType.MOSTLY_Q4_K_M, None, 1.0),
    )
}
# About twice the relative root mean square error that each kind makes on Gaussian weights.
RELATIVE_ERROR_LIMITS: dict[Kind, float] = {
    Kind.F32: 0.0,
    Kind.F16: 1e-3,
    Kind.BF16: 4e-3,
    Kind.Q8_0: 0.02,
    Kind.Q6_K: 0.05,
    Kind.Q5_K: 0.10,
    Kind.Q5_0: 0.12,
    Kind.Q5_1: 0.12,
    Kind.Q4_K: 0.20,
    Kind.Q4_0: 0.25,
    Kind.Q4_1: 0.25,
    Kind.IQ4_NL: 0.25,
}


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the file.

    name:   its GGUF name
    source: its Hugging Face name; None for one that is computed from the config
    shape:  (rows, columns), as NumPy has it
    kind:   how it is stored
    """

    name: str
    source: str | None
    shape: tuple[int, ...]
    kind: Kind

    @property
    def elements(self) -> int:
        """Number of weights."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def byte_count(self) -> int:
        """Size in the file, without padding."""
        block, block_bytes = gguf.GGML_QUANT_SIZES[self.kind]
        return self.elements // block * block_bytes


def quant_type(name: str) -> QuantType:
    """Look a type up, whatever its case. Raises ToolkitError naming the types there are."""
    found = QUANT_TYPES.get(name.upper())
    if found is None:
        raise ToolkitError(f"unknown type {name}", where="--quant", hint=f"Supported: {', '.join(QUANT_TYPES)}")
    return found


def plan_tensors(source: Source, kind: Kind) -> list[PlannedTensor]:
    """List the file's tensors in order: matrices as `kind`, vectors (norms, biases) as float32."""
    planned = [
        PlannedTensor(name, None, array.shape, Kind.F32) for name, array in source.decoder.extra_tensors().items()
    ]
    for name in source.tensors:
        shape = source.tensors.shape(name)
        translated = gguf_name(name)
        if translated is None:
            raise ValueError(f"{name} has no name in GGUF")
        planned.append(PlannedTensor(translated, name, shape, kind if len(shape) > 1 else Kind.F32))
    return planned


def planned_bytes(tensors: list[PlannedTensor]) -> int:
    """Size of all tensors together."""
    return sum(tensor.byte_count for tensor in tensors)
