"""What can only be known by importing: run as `python -m toolkit.machine.probe NAME`, in a process that may crash.

Prints one JSON object on the last line of standard output; an exception goes into it as `error`,
`kind` and `missing`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any


def probe_backend() -> dict[str, Any]:
    """Choose the backend as a job does."""
    from toolkit.backends import choose_backend

    backend, reason = choose_backend("auto")
    description = backend.describe("auto")
    nf4_fault = _nf4_fault() if description.device == "cuda" else None
    return {"reason": reason, "devices": backend.devices(), "nf4_fault": nf4_fault, **asdict(description)}


def _nf4_fault() -> str | None:
    """Say why bitsandbytes cannot be used, or None: it loads a library of its own for each version of CUDA."""
    try:
        import bitsandbytes as bitsandbytes
    except Exception as error:  # it raises whatever its own loading raises
        return f"{type(error).__name__}: {error}"
    return None


def probe_adapters() -> dict[str, Any]:
    """Import what LoRA on PyTorch is made of."""
    import peft

    return {"version": peft.__version__}


def probe_llama_cpp() -> dict[str, Any]:
    """Load llama.cpp and ask how it was built."""
    from toolkit.gguf_backend.build import llama_build

    return asdict(llama_build())


def probe_mlx() -> dict[str, Any]:
    """Load MLX as the backend does."""
    from toolkit.backends import choose_backend

    backend, _ = choose_backend("mlx")
    return {"devices": backend.devices(), **asdict(backend.describe("auto"))}


PROBES: dict[str, Callable[[], dict[str, Any]]] = {
    "backend": probe_backend,
    "adapters": probe_adapters,
    "llama.cpp": probe_llama_cpp,
    "mlx": probe_mlx,
}


def missing_package(error: BaseException | None) -> str:
    """Return the package whose absence led to an error, or nothing."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name.partition(".")[0]
        error = error.__cause__ or error.__context__
    return ""


def main(name: str) -> None:
    """Print what a probe found, or why it could not."""
    # Libraries print what they like while they are imported; the answer goes to the real standard output.
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        found = PROBES[name]()
    except BaseException as error:  # whatever it is, whoever asked wants to know; nothing goes on after it
        found = {"error": str(error) or "no message", "kind": type(error).__name__, "missing": missing_package(error)}
    answer.write(json.dumps(found) + "\n")
    answer.flush()
    # Not a normal exit: libraries that load may still crash while they are taken down, which says nothing about a job.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
