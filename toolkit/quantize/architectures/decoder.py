"""What Llama-like decoders have in common when they are written as GGUF; an architecture states where it differs.

Metadata keys follow the GGUF specification (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import gguf
import numpy as np
from numpy.typing import NDArray

from toolkit.errors import Problem, ToolkitError
from toolkit.quantize.architectures import rope
from toolkit.tensor_files import TensorEntry

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
_SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size")


class Decoder(ABC):
    """One model of an architecture: reads its config, names what it consists of, writes its metadata.

    hugging_face: name in config.json's `architectures`
    gguf_name:    value of `general.architecture`
    """

    hugging_face: ClassVar[str]
    gguf_name: ClassVar[str]

    def __init__(self, config: Mapping[str, Any], stored: Mapping[str, TensorEntry], where: Path) -> None:
        """Check a model against what can be written. Raises ToolkitError gathering everything that cannot."""
        self.config = config
        path = str(where / "config.json")
        problems = [
            Problem(f"{key} must be a positive number", path) for key in _SIZES if not _positive(config.get(key))
        ]
        if problems:
            raise ToolkitError.gather(problems)
        self.hidden: int = config["hidden_size"]
        self.layers: int = config["num_hidden_layers"]
        self.heads: int = config["num_attention_heads"]
        self.kv_heads: int = config.get("num_key_value_heads") or self.heads
        self.head_dim: int = config.get("head_dim") or self.hidden // self.heads
        self.vocabulary_rows: int = config["vocab_size"]
        # Some checkpoints store the head although it is tied; the config decides, and without a word the tensors do.
        self.tied: bool = bool(config.get("tie_word_embeddings", HEAD not in stored))
        self.rope = rope.RopeSettings.read(config)
        problems += [Problem(text, path) for text in [*self.rope.problems(), *self.unsupported()]]
        problems += self._tensor_problems(stored, where)
        if problems:
            raise ToolkitError.gather(problems)

    @property
    def context(self) -> int:
        """Longest sequence, in tokens."""
        return self.config.get("max_position_embeddings", 2048)

    def unsupported(self) -> list[str]:
        """Name the config's options that GGUF cannot express for this architecture."""
        activation = self.config.get("hidden_act", "silu")
        return (
            [] if activation in ("silu", "swish") else [f"hidden_act {activation} cannot be exported; supported: silu"]
        )

    def biased(self) -> tuple[str, ...]:
        """Name the linear layers of a block that have a bias."""
        raise NotImplementedError

    def row_unit(self, name: str) -> int:
        """Say how many rows of a tensor must stay together while they are laid out."""
        del name
        return 1

    def arrange(self, name: str, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Lay rows of a tensor out as llama.cpp expects it; their number is a multiple of `row_unit`."""
        del name
        return array

    def required_shapes(self) -> dict[str, tuple[int, ...]]:
        """List the tensors that the model consists of, in the order in which they are written."""
        shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (self.vocabulary_rows, self.hidden)}
        for layer in range(self.layers):
            for part, shape in self._block_shapes().items():
                shapes[f"model.layers.{layer}.{part}.weight"] = shape
                if part in self.biased():
                    shapes[f"model.layers.{layer}.{part}.bias"] = shape[:1]
        shapes["model.norm.weight"] = (self.hidden,)
        if not self.tied:
            shapes[HEAD] = (self.vocabulary_rows, self.hidden)
        return shapes

    def extra_tensors(self) -> dict[str, NDArray[np.float32]]:
        """Compute tensors that GGUF needs and checkpoints lack."""
        return self.rope.extra_tensors(self.head_dim)

    def write_metadata(self, writer: gguf.GGUFWriter) -> None:
        """Add the keys under `<architecture>.` to a file."""
        writer.add_context_length(self.context)
        writer.add_embedding_length(self.hidden)
        writer.add_block_count(self.layers)
        writer.add_feed_forward_length(self.config["intermediate_size"])
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.kv_heads)
        writer.add_key_length(self.head_dim)
        writer.add_value_length(self.head_dim)
        writer.add_layer_norm_rms_eps(self.config.get("rms_norm_eps", 1e-6))
        writer.add_vocab_size(self.vocabulary_rows)
        writer.add_rope_dimension_count(self.head_dim)
        self.rope.write_metadata(writer)

    def _block_shapes(self) -> dict[str, tuple[int, ...]]:
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        inner = self.config["intermediate_size"]
        return {
            "input_layernorm": (self.hidden,),
            "self_attn.q_proj": (queries, self.hidden),
            "self_attn.k_proj": (keys, self.hidden),
            "self_attn.v_proj": (keys, self.hidden),
            "self_attn.o_proj": (self.hidden, queries),
            "post_attention_layernorm": (self.hidden,),
            "mlp.gate_proj": (inner, self.hidden),
            "mlp.up_proj": (inner, self.hidden),
            "mlp.down_proj": (self.hidden, inner),
        }

    def _tensor_problems(self, stored: Mapping[str, TensorEntry], where: Path) -> list[Problem]:
        required = self.required_shapes()
        problems = []
        for name, shape in required.items():
            if name not in stored:
                problems.append(Problem(f"the tensor {name} is missing", str(where)))
            elif stored[name].shape != shape:
                problems.append(
                    Problem(f"{name} has shape {list(stored[name].shape)}, config.json says {list(shape)}", str(where))
                )
        ignored = {HEAD} if self.tied else set()
        # Old checkpoints carry the rotary frequencies, which follow from the config.
        problems += [
            Problem(f"the tensor {name} has no place in a {self.hugging_face}", str(where))
            for name in stored
            if name not in required and name not in ignored and not name.endswith("rotary_emb.inv_freq")
        ]
        return problems


def _positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
