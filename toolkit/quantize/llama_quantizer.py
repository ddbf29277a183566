"""llama.cpp's own quantiser, called through llama-cpp-python: it chooses the kinds, and it is the witness."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path
from typing import Any

import llama_cpp
from gguf import GGMLQuantizationType as Kind

from toolkit.errors import JobFailed
from toolkit.gguf_backend.log import complaints, transcript
from toolkit.gguf_backend.model import usable_threads
from toolkit.quantize.plan import QuantType

# One tensor of a dry run: `[   2/  21] blk.0.attn_k.weight - [ 64, 32, 1, 1], type = f32, size = 0.01 MiB` and, where
# it changes, `-> 0.00 MiB (q5_0)`.
_DECISION = re.compile(
    r"\[ *\d+/ *\d+\] +(?P<name>\S+) +- +\[[^\]]*\], +type = +(?P<old>\w+), +size = +[\d.]+ MiB"
    r"(?: -> +[\d.]+ MiB \((?P<new>\w+)\))?"
)


def choose_kinds(sparse: Path, kind: QuantType) -> dict[str, Kind]:
    """Ask llama.cpp which kind it would give each tensor of a file, of which it reads the header alone.

    Raises:
        JobFailed: llama.cpp refused the file, in its words, or said nothing that this module understands.
    """
    params = _params(kind, 1)
    params.dry_run = True
    with transcript() as said, complaints() as heard:
        code = llama_cpp.llama_model_quantize(os.fsencode(sparse), b"", ctypes.pointer(params))
    if code != 0:
        raise JobFailed(f"llama.cpp cannot plan {kind.name}: {heard.words()}")
    return {match["name"]: Kind[(match["new"] or match["old"]).upper()] for match in _DECISION.finditer("".join(said))}


def quantise(source: Path, target: Path, kind: QuantType, threads: int | None = None) -> None:
    """Quantise the GGUF file `source` into `target`.

    llama.cpp leaves a header behind when it fails: `target` must be a name that nobody takes for a result.

    Raises:
        JobFailed: llama.cpp gave up (most often a full disk); in its words.
    """
    params = _params(kind, threads or usable_threads())
    with complaints() as heard:
        code = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.pointer(params))
    if code != 0:
        hint = "Is the disk full? Free some space and try again" if "iostream" in heard.words() else ""
        raise JobFailed(f"llama.cpp could not quantise to {kind.name}: {heard.words()}", where=target, hint=hint)


def _params(kind: QuantType, threads: int) -> Any:
    params: Any = llama_cpp.llama_model_quantize_default_params()
    params.ftype = int(kind.file_type)
    params.nthread = threads
    return params
