"""What is exported: a model folder, with or without an adapter, opened lazily."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from toolkit.adapter_files import Adapter, read_adapter
from toolkit.affine import open_tensors
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.errors import ToolkitError
from toolkit.nf4_files import is_nf4_folder
from toolkit.quantize.architectures import SUPPORTED, architecture_of
from toolkit.quantize.architectures.decoder import Decoder
from toolkit.quantize.merge import MergedTensors
from toolkit.quantize.vocabulary import Vocabulary, read_vocabulary
from toolkit.tensor_files import FolderTensors


class Speaking(Protocol):
    """What can be asked for probes: a model of either kind of source."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer as trained with."""
        ...

    @property
    def vocabulary_rows(self) -> int:
        """Height of the embedding."""
        ...


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

    @property
    def vocabulary_rows(self) -> int:
        """Height of the embedding."""
        return self.decoder.vocabulary_rows

    def shortened(self, layers: int) -> Source:
        """Return the model's beginning: the first `layers` layers, then norm and head."""
        decoder = copy(self.decoder)
        decoder.layers = layers
        return replace(self, decoder=decoder, tensors=self.tensors.only(decoder.required_shapes()))


@dataclass(frozen=True)
class FolderSource:
    """What an export to a model folder reads: as `Source`, without what GGUF alone wants to know.

    decoder: None for an architecture that the reference does not know (it is copied and merged all the same)
    """

    label: str
    folder: Path
    config: Mapping[str, Any]
    decoder: Decoder | None
    tensors: MergedTensors
    tokenizer: Tokenizer

    @property
    def vocabulary_rows(self) -> int:
        """Height of the embedding (that of the tokenizer, where config.json does not say)."""
        return int(self.config.get("vocab_size") or self.tokenizer.vocab_size)


def open_source(label: str, model_folder: Path, adapter_folder: Path | None) -> Source:
    """Open a model for export. Raises ToolkitError naming what is missing or not supported, before any work is done."""
    config = read_config(model_folder)
    _refuse_foreign_layouts(config, model_folder)
    stored = open_tensors(model_folder, config)
    decoder = architecture_of(config, stored.entries, where=model_folder)
    adapter = _read_trained(model_folder, adapter_folder, stored)
    tensors = MergedTensors(stored, adapter, decoder.required_shapes())
    tokenizer = Tokenizer.load(model_folder)
    vocabulary = read_vocabulary(model_folder, tokenizer, rows=decoder.vocabulary_rows)
    return Source(label, model_folder, config, decoder, tensors, tokenizer, vocabulary)


def open_folder_source(
    label: str, model_folder: Path, adapter_folder: Path | None, *, known_only: bool = False
) -> FolderSource:
    """Open a model of any architecture that has weights, merged as `open_source` does.

    known_only: take the architectures alone of which it is known which tensors they consist of

    Raises ToolkitError naming what is missing, or a way of quantising that cannot be read.
    """
    config = read_config(model_folder)
    _refuse_foreign_layouts(config, model_folder)
    stored = open_tensors(model_folder, config)
    architecture = (config.get("architectures") or ["none named"])[0]
    decoder = None
    if known_only or architecture in SUPPORTED:
        decoder = architecture_of(config, stored.entries, where=model_folder)
    adapter = _read_trained(model_folder, adapter_folder, stored)
    # transformers takes a stored head even where config.json ties it; MLX does not.
    required = {name: entry.shape for name, entry in stored.entries.items()}
    if known_only and decoder is not None:
        required = decoder.required_shapes()
    return FolderSource(
        label, model_folder, config, decoder, MergedTensors(stored, adapter, required), Tokenizer.load(model_folder)
    )


def _read_trained(model_folder: Path, adapter_folder: Path | None, stored: FolderTensors) -> Adapter | None:
    adapter = None if adapter_folder is None else read_adapter(adapter_folder, stored.entries)
    if adapter is not None and adapter.is_untrained:
        hint = f"To export that, name it: toolkit export {model_folder}"
        what = "this adapter has learnt nothing (every lora_B is zero), so the export would be its base model"
        raise ToolkitError(what, where=adapter_folder, hint=hint)
    return adapter


def _refuse_foreign_layouts(config: Mapping[str, Any], folder: Path) -> None:
    entry = config.get("quantization_config")
    if is_nf4_folder(config) or "quantization" in config:
        return
    if isinstance(entry, Mapping) and "quant_method" in entry:
        hint = "Take the full-precision model, or one in MLX's affine layout or in NF4"
        raise ToolkitError(f"quantised by {entry['quant_method']}, which cannot be read", where=folder, hint=hint)


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
