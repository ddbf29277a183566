"""The model architectures that can be written as GGUF, by the name in config.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.errors import ToolkitError
from toolkit.quantize.architectures.decoder import Decoder
from toolkit.quantize.architectures.llama import Llama
from toolkit.quantize.architectures.mistral import Mistral
from toolkit.quantize.architectures.qwen2 import Qwen2
from toolkit.quantize.architectures.qwen3 import Qwen3
from toolkit.tensor_files import TensorEntry

SUPPORTED: dict[str, type[Decoder]] = {kind.hugging_face: kind for kind in (Llama, Mistral, Qwen2, Qwen3)}


def architecture_of(config: Mapping[str, Any], stored: Mapping[str, TensorEntry], where: Path) -> Decoder:
    """Choose a model's writer. Raises ToolkitError for an architecture, option or tensor that has none."""
    names = config.get("architectures") or ["none named"]
    kind = SUPPORTED.get(names[0])
    if kind is None:
        raise ToolkitError(
            f"architecture {names[0]} cannot be exported to GGUF",
            where=where / "config.json",
            hint=f"Supported: {', '.join(sorted(SUPPORTED))}",
        )
    return kind(config, stored, where)
