"""What the installed llama.cpp was built with."""

from __future__ import annotations

from dataclasses import dataclass

import llama_cpp

import toolkit.gguf_backend.log as log


@dataclass(frozen=True)
class LlamaBuild:
    """A build of llama.cpp.

    version:     of the Python package that carries it
    features:    what its kernels use, e.g. AVX2, NEON, METAL, BLAS
    gpu_offload: whether it can put layers on a GPU
    """

    version: str
    features: tuple[str, ...]
    gpu_offload: bool


def llama_build() -> LlamaBuild:
    """Ask llama.cpp how it was built."""
    with log.complaints():
        text = llama_cpp.llama_print_system_info().decode("utf-8", "replace")
    return LlamaBuild(llama_cpp.__version__, _features(text), bool(llama_cpp.llama_supports_gpu_offload()))


def _features(text: str) -> tuple[str, ...]:
    """Read `CPU : AVX = 1 | AVX2 = 1 | … | Metal : EMBED_LIBRARY = 1 | …` into names that are switched on."""
    found: dict[str, None] = {}
    for part in text.split("|"):
        backend, colon, rest = part.rpartition(" : ")
        if colon and backend.strip() != "CPU":
            found[backend.strip().upper()] = None
        name, equals, value = rest.partition("=")
        if equals and value.strip() not in ("", "0"):
            found[name.strip()] = None
    return tuple(found)
