"""What is exported: a model folder, with or without an adapter, opened lazily."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolkit.adapter_files import read_adapter
from toolkit.affine import open_tensors
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.errors import ToolkitError
from toolkit.quantize.architectures import architecture_of
from toolkit.quantize.architectures.decoder import Decoder
from toolkit.quantize.merge import MergedTensors
from toolkit.quantize.vocabulary import Vocabulary, read_vocabulary


@dataclass(frozen=True)
class Source:
    """Everything an export reads.

    label:        what the model is called in file names and metadata
    decoder:      how its architecture is written in GGUF
    tensors:      the weights under their Hugging Face names, adapter merged, loaded one at a time
    tokenizer:    the tokenizer as trained with; `vocabulary` is what of it goes into the file
    """

    label: str
    folder: Path
    config: Mapping[str, Any]
    decoder: Decoder
    tensors: MergedTensors
    tokenizer: Tokenizer
    vocabulary: Vocabulary

    def shortened(self, layers: int) -> Source:
        """Return the model's beginning: the first `layers` layers, then norm and head."""
        decoder = copy(self.decoder)
        decoder.layers = layers
        return replace(self, decoder=decoder, tensors=self.tensors.only(decoder.required_shapes()))


def open_source(label: str, model_folder: Path, adapter_folder: Path | None) -> Source:
    """Open a model for export. Raises ToolkitError naming what is missing or not supported, before any work is done."""
    config = read_config(model_folder)
    stored = open_tensors(model_folder, config)
    decoder = architecture_of(config, stored.entries, where=model_folder)
    adapter = None if adapter_folder is None else read_adapter(adapter_folder, stored.entries)
    if adapter is not None and adapter.is_untrained:
        hint = f"To export that, name it: toolkit export {model_folder}"
        what = "this adapter has learnt nothing (every lora_B is zero), so the export would be its base model"
        raise ToolkitError(what, where=adapter_folder, hint=hint)
    tensors = MergedTensors(stored, adapter, decoder.required_shapes())
    tokenizer = Tokenizer.load(model_folder)
    vocabulary = read_vocabulary(model_folder, tokenizer, rows=decoder.vocabulary_rows)
    return Source(label, model_folder, config, decoder, tensors, tokenizer, vocabulary)


def read_config(folder: Path) -> Mapping[str, Any]:
    """Read config.json. Raises ToolkitError when it is missing or not JSON."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ToolkitError("no config.json here, so this is not a model", where=folder) from error
    except (OSError, ValueError) as error:
        raise ToolkitError(f"cannot be read as JSON ({error})", where=path) from error
    if not isinstance(config, dict):
        raise ToolkitError("must hold a JSON object", where=path)
    return config
