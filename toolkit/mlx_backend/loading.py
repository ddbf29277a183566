"""Import MLX with a fast BLAS, and mlx-lm without its side effect on the process.

On Linux MLX's wheel brings the reference BLAS, 10 to 30 times slower than OpenBLAS. A library that is loaded globally
before MLX takes the place of the wheel's. It would take the place of torch's own BLAS too (slower, and other bits), so
torch, where it is installed, is imported first. mlx-lm lowers the limit on open files when it is imported.

On macOS the watchdog of the GPU ends a process whose kernel keeps the display waiting (mlx-examples#1076, mlx#3267); a
variable that the driver reads when Metal is loaded relaxes it.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

_OPENBLAS_PLACES = (
    "/usr/lib/*-linux-gnu/openblas-pthread/libblas.so.3",  # Debian, Ubuntu: libopenblas0-pthread
    "/usr/lib64/libopenblasp.so.0",  # Fedora: openblas-threads
    "/usr/lib/libopenblas.so.0",  # Arch: openblas
)


def _relax_metal_watchdog() -> None:
    if sys.platform == "darwin":
        os.environ.setdefault("AGX_RELAX_CDM_CTXSTORE_TIMEOUT", "1")


def _load_openblas() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux") or "mlx.core" in sys.modules:
        return None
    with suppress(ModuleNotFoundError):
        import torch as torch
    for pattern in _OPENBLAS_PLACES:
        for path in sorted(Path("/").glob(pattern.lstrip("/"))):
            with suppress(OSError):
                return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    return None


def _import_mlx_lm() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    import mlx_lm as mlx_lm

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


_relax_metal_watchdog()
_openblas = _load_openblas()
_import_mlx_lm()


def blas_name() -> str:
    """Name the library that computes MLX's float32 products on the CPU."""
    if sys.platform == "darwin":
        return "Accelerate"
    return "OpenBLAS" if _openblas is not None else "reference BLAS"


def blas_threads() -> int:
    """Count the threads of that library."""
    if _openblas is None:
        return 1
    try:
        return int(_openblas.openblas_get_num_threads())
    except AttributeError:
        return 1
