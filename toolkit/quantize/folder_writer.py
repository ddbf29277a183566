"""Write a merged model as a Hugging Face folder, block of rows by block of rows, on a few threads, in order.

Merging happens in float32; what is not packed is rounded to the precision of the base. Only the blocks in flight are in
memory, however large the model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.affine import quantise
from toolkit.atomic_files import write_atomic
from toolkit.errors import JobFailed
from toolkit.gguf_backend.model import usable_threads
from toolkit.models import companion_names
from toolkit.packed_folders import in_dtype
from toolkit.quantize.architectures.decoder import HEAD
from toolkit.quantize.architectures.rope import older_spelling
from toolkit.quantize.folder_plan import FolderPlan
from toolkit.quantize.source import FolderSource
from toolkit.quantize.stream import BLOCK_WEIGHTS, Progress, in_order
from toolkit.quantize.vocabulary import stored_template
from toolkit.tensor_files import INDEX_NAME, StoredTensor, tensor_writer

TEMPLATES_FOLDER = "additional_chat_templates"
_METADATA = {"safetensors": {"format": "pt"}, "mlx": {"format": "mlx"}}


@dataclass(frozen=True)
class _Block:
    """Rows `start` to `stop` (exclusive) of a tensor; `last` when nothing of it follows."""

    name: str
    start: int
    stop: int
    last: bool


def write_folder(
    folder: Path,
    source: FolderSource,
    plan: FolderPlan,
    threads: int | None = None,
    progress: Progress = lambda done, total: None,
) -> None:
    """Fill an empty folder with the planned model: configuration, tokenizer, weights in shards, index.

    threads:  default: the physical cores that this process may use
    progress: told bytes written and bytes in all, after every tensor

    Raises:
        JobFailed: the disk is full, or a weight is not a number or too large for its precision.
    """
    _write_companions(folder, source, plan)
    threads = threads or usable_threads()
    files = plan.files()
    done = 0

    def make(block: _Block) -> dict[str, NDArray[Any]]:
        return rows_of(source, plan, block.name, block.start, block.stop)

    for file, names in files.items():
        specs = {part: spec for name in names for part, spec in plan.parts[name].items()}
        writer = tensor_writer(folder / file, specs, _METADATA[plan.format])
        with ThreadPoolExecutor(threads) as pool, writer as put:
            for block, parts in in_order(pool, make, _blocks(source, names), threads + 2):
                for part, rows in parts.items():
                    put(part, block.start, rows)
                if block.last:
                    done += sum(spec.byte_count for spec in plan.parts[block.name].values())
                    progress(done, plan.weights_bytes)
    if len(files) > 1:
        index = {part: file for file, names in files.items() for name in names for part in plan.parts[name]}
        text = json.dumps({"metadata": {"total_size": plan.weights_bytes}, "weight_map": index}, indent=2)
        write_atomic(folder / INDEX_NAME, text + "\n")


def rows_of(source: FolderSource, plan: FolderPlan, name: str, start: int, stop: int) -> dict[str, NDArray[np.generic]]:
    """Make rows of a tensor as the folder holds them: the tensor itself, or its words, scales and biases, by name.

    Raises JobFailed when a number is none, or too large for its precision.
    """
    if not plan.is_packed(name):
        stored = source.tensors.rows(name, start, stop) if source.tensors.shape(name) else source.tensors.load(name)
        dtype = plan.parts[name][name].dtype
        array = stored.array if stored.dtype == dtype else in_dtype(stored.to_float32(), dtype)
        _check(source, name, StoredTensor(name, dtype, array))
        return {name: array}
    as_stored = source.tensors.packed_rows(name, plan.layout, start, stop)
    if as_stored is not None:
        return as_stored
    words, scales, biases = quantise(source.tensors.rows(name, start, stop).to_float32(), plan.layout)
    module = name.removesuffix(".weight")
    dtype = plan.parts[name][f"{module}.scales"].dtype
    groups = {f"{module}.{end}": in_dtype(values, dtype) for end, values in (("scales", scales), ("biases", biases))}
    for part, array in groups.items():
        _check(source, name, StoredTensor(part, dtype, array))
    return {name: words, **groups}


def _check(source: FolderSource, name: str, tensor: StoredTensor) -> None:
    if tensor.dtype in ("float32", "float16", "bfloat16") and not np.isfinite(tensor.to_float32()).all():
        raise JobFailed(
            f"{name} holds numbers that {tensor.dtype} cannot hold (NaN, infinite or too large)",
            where=source.folder,
            hint="Such a model cannot answer: look at its training",
        )


def _blocks(source: FolderSource, names: tuple[str, ...]) -> Iterator[_Block]:
    for name in names:
        shape = source.tensors.shape(name)
        rows = shape[0] if shape else 1
        step = max(1, BLOCK_WEIGHTS // max(1, int(np.prod(shape[1:]))))
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            yield _Block(name, start, stop, stop == rows)


def _write_companions(folder: Path, source: FolderSource, plan: FolderPlan) -> None:
    """Copy what belongs to a complete model beside its weights; fill in what the loader of ours had to make up."""
    names = companion_names(source.folder)
    for name in names:
        shutil.copyfile(source.folder / name, folder / name)
    if (source.folder / TEMPLATES_FOLDER).is_dir():
        shutil.copytree(source.folder / TEMPLATES_FOLDER, folder / TEMPLATES_FOLDER)
    write_atomic(folder / "config.json", json.dumps(folder_config(source, plan), indent=2, ensure_ascii=False) + "\n")
    tokenizer = source.tokenizer
    if "tokenizer.json" not in names:  # SentencePiece alone: spelt out for those who lack its package
        write_atomic(folder / "tokenizer.json", tokenizer.definition)
        path = folder / "tokenizer_config.json"
        held = json.loads(path.read_text("utf-8")) if path.is_file() else {"tokenizer_class": "PreTrainedTokenizerFast"}
        settings = {**tokenizer.special_tokens, **held}
        write_atomic(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    template = stored_template(tokenizer)
    if tokenizer.template_source == "fallback" and template is not None:
        write_atomic(folder / "chat_template.jinja", template)


def folder_config(source: FolderSource, plan: FolderPlan) -> Mapping[str, Any]:
    """Return config.json: the base's, with what it says of packing replaced by the truth."""
    config = {key: value for key, value in source.config.items() if key not in ("quantization", "quantization_config")}
    if HEAD in source.tensors.merged_names:
        config["tie_word_embeddings"] = False
    if plan.format == "mlx":
        packing = {"group_size": plan.layout.group_size, "bits": plan.layout.bits, "mode": "affine"}
        # mlx-lm reads the first, and writes both. Of rotary positions it knows the older spelling alone.
        config |= {"quantization": packing, "quantization_config": packing, **older_spelling(source.config)}
    return config
