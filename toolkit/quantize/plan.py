"""What goes into a file: which tensors, called what, stored how."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import gguf
from gguf import GGMLQuantizationType as Kind
from gguf import LlamaFileType

from toolkit.errors import Problem, ToolkitError
from toolkit.gguf_backend.tensor_names import gguf_name
from toolkit.quantize.source import Source


@dataclass(frozen=True)
class QuantType:
    """A type that an export can ask for.

    name:      as people write it
    file_type: llama.cpp's name for the mixture
    base:      the kind that most matrices get
    kl_limit:  mean KL divergence from the trained model, in nats, above which a file is broken rather than coarse
    """

    name: str
    file_type: LlamaFileType
    base: Kind
    kl_limit: float

    @property
    def quantised(self) -> bool:
        """Whether weights lose more than the rounding of a float."""
        return self.base not in (Kind.F32, Kind.BF16, Kind.F16)

    @property
    def block(self) -> int:
        """Number of columns that the base kind packs together; other matrices fall back to another kind."""
        return gguf.GGML_QUANT_SIZES[self.base][0]


QUANT_TYPES: dict[str, QuantType] = {
    kind.name: kind
    for kind in (
        QuantType("F32", LlamaFileType.ALL_F32, Kind.F32, 1e-4),
        QuantType("BF16", LlamaFileType.MOSTLY_BF16, Kind.BF16, 2e-2),
        QuantType("F16", LlamaFileType.MOSTLY_F16, Kind.F16, 1e-2),
        QuantType("Q8_0", LlamaFileType.MOSTLY_Q8_0, Kind.Q8_0, 5e-2),
        QuantType("Q6_K", LlamaFileType.MOSTLY_Q6_K, Kind.Q6_K, 0.2),
        QuantType("Q5_K_M", LlamaFileType.MOSTLY_Q5_K_M, Kind.Q5_K, 0.5),
        QuantType("Q5_K_S", LlamaFileType.MOSTLY_Q5_K_S, Kind.Q5_K, 0.5),
        QuantType("Q4_K_M", LlamaFileType.MOSTLY_Q4_K_M, Kind.Q4_K, 1.0),
        QuantType("Q4_K_S", LlamaFileType.MOSTLY_Q4_K_S, Kind.Q4_K, 1.0),
        QuantType("IQ4_NL", LlamaFileType.MOSTLY_IQ4_NL, Kind.IQ4_NL, 1.0),
        QuantType("IQ4_XS", LlamaFileType.MOSTLY_IQ4_XS, Kind.IQ4_XS, 1.0),
        QuantType("Q3_K_L", LlamaFileType.MOSTLY_Q3_K_L, Kind.Q3_K, 2.0),
        QuantType("Q3_K_M", LlamaFileType.MOSTLY_Q3_K_M, Kind.Q3_K, 2.0),
        QuantType("Q3_K_S", LlamaFileType.MOSTLY_Q3_K_S, Kind.Q3_K, 2.0),
        QuantType("Q2_K", LlamaFileType.MOSTLY_Q2_K, Kind.Q2_K, 4.0),
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
    Kind.IQ4_XS: 0.25,
    Kind.Q3_K: 0.40,
    Kind.Q2_K: 0.70,
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


def quant_types(text: str) -> tuple[QuantType, ...]:
    """Read `Q4_K_M,q8_0`, whatever the case. Raises ToolkitError naming every type that there is not."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    hint = f"Supported: {', '.join(QUANT_TYPES)}"
    problems = [Problem(f"unknown type {name}", "--quant", hint) for name in names if name.upper() not in QUANT_TYPES]
    if not names:
        problems = [Problem("no type given", "--quant", hint)]
    if problems:
        raise ToolkitError.gather(problems)
    return tuple(dict.fromkeys(QUANT_TYPES[name.upper()] for name in names))


def list_tensors(source: Source) -> list[PlannedTensor]:
    """List the file's tensors in order, all as float32: what llama.cpp chooses the kinds from."""
    planned = [
        PlannedTensor(name, None, array.shape, Kind.F32) for name, array in source.decoder.extra_tensors().items()
    ]
    for name in source.tensors:
        translated = gguf_name(name)
        if translated is None:
            raise ValueError(f"{name} has no name in GGUF")
        planned.append(PlannedTensor(translated, name, source.tensors.shape(name), Kind.F32))
    return planned


@dataclass(frozen=True)
class FilePlan:
    """What a file will hold, known before a weight is read.

    kind:         the type asked for
    tensors:      in the order of the file, each with the kind that llama.cpp's mixture gives it
    header_bytes: size of everything before the first tensor
    """

    kind: QuantType
    tensors: tuple[PlannedTensor, ...]
    header_bytes: int

    @property
    def file_bytes(self) -> int:
        """Size of the file: header and tensors, each padded."""
        return self.header_bytes + sum(padded(tensor.byte_count) for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """True average over all weights, blocks' scales and unquantised tensors included."""
        weights = sum(tensor.elements for tensor in self.tensors)
        return 8 * sum(tensor.byte_count for tensor in self.tensors) / weights

    @property
    def fallbacks(self) -> tuple[PlannedTensor, ...]:
        """Matrices whose rows the base kind cannot cut into whole blocks, so that they got a kind of more bits."""
        if self.kind.block == 1:
            return ()
        return tuple(tensor for tensor in self.matrices if tensor.shape[-1] % self.kind.block)

    @property
    def matrices(self) -> tuple[PlannedTensor, ...]:
        """The tensors that are quantised at all."""
        return tuple(tensor for tensor in self.tensors if len(tensor.shape) > 1)

    @property
    def fallback_share(self) -> float:
        """Share of the matrices' weights that fell back."""
        fallen = sum(tensor.elements for tensor in self.fallbacks)
        return fallen / max(1, sum(tensor.elements for tensor in self.matrices))

    def counts(self) -> dict[str, int]:
        """Number of tensors of each kind."""
        return dict(Counter(tensor.kind.name for tensor in self.tensors))


def padded(size: int) -> int:
    """Round up to GGUF's alignment."""
    return -(-size // gguf.GGUF_DEFAULT_ALIGNMENT) * gguf.GGUF_DEFAULT_ALIGNMENT
