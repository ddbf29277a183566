"""What a run leaves: adapter/ in PEFT's format, or model/, a complete Hugging Face folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from toolkit.adapter_files import write_adapter
from toolkit.atomic_files import atomic_folder, write_atomic
from toolkit.checkpoints import Checkpoint
from toolkit.config import FinetuneConfig
from toolkit.errors import JobFailed, Problem
from toolkit.jobs.job import Job
from toolkit.models import ModelFacts, companion_names
from toolkit.runs import RunFolder
from toolkit.tensor_files import SINGLE_NAME, StoredTensor, write_tensors


def write_result(job: Job, run: RunFolder, checkpoint: Checkpoint) -> Path:
    """Write the weights of a checkpoint as the run's adapter/ or model/ and return that folder."""
    weights = checkpoint.state.weights
    if isinstance(job.config, FinetuneConfig) and job.config.method != "full":
        write_adapter(run.adapter, weights, job.config.lora, job.base_model)
        return run.adapter
    write_model(run.model, job.facts, weights, dtype="bfloat16" if job.kind == "pretrain" else None)
    return run.model


def write_model(folder: Path, base: ModelFacts, weights: Mapping[str, StoredTensor], dtype: str | None = None) -> None:
    """Write a complete model folder: the base's configuration and tokenizer, `weights` in the base's precision.

    dtype: `bfloat16` for all tensors; None keeps each tensor's precision in the base.

    Raises:
        JobFailed: the weights are not those of the base, or the disk is full.
    """
    entries = base.tensors.entries
    problems = [Problem(f"the training lost the tensor {name}") for name in entries if name not in weights]
    if problems:
        raise JobFailed.gather(problems)
    stored = {name: _cast(weights[name], dtype or entry.dtype) for name, entry in entries.items()}
    with atomic_folder(folder) as partial:
        for name in companion_names(base.folder):
            shutil.copyfile(base.folder / name, partial / name)
        if dtype is not None:
            config = {key: value for key, value in base.config.items() if key != "dtype"}
            write_atomic(partial / "config.json", json.dumps({**config, "torch_dtype": dtype}, indent=2) + "\n")
        write_tensors(partial / SINGLE_NAME, stored, {"format": "pt"})


def _cast(tensor: StoredTensor, dtype: str) -> StoredTensor:
    if tensor.dtype == dtype:
        return tensor
    if dtype == "bfloat16":
        return tensor.to_bfloat16()
    return StoredTensor(tensor.name, dtype, tensor.to_float32().astype(dtype))
