"""Which devices are here, what they are called, and what their running out of memory looks like."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from toolkit.errors import JobFailed, ToolkitError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def devices() -> list[str]:
    """Return the devices that torch can use here, best first."""
    found = ["cuda"] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def choose_device(wanted: str) -> torch.device:
    """Return the wanted device, or the best one for `auto`.

    Raises:
        ToolkitError: the device is not here.
    """
    here = devices()
    if wanted == "auto":
        return torch.device(here[0])
    if wanted not in here:
        raise ToolkitError(
            f"device {wanted} is not available to torch here",
            where="train.device",
            hint=f"usable devices: {', '.join(here)}; or leave train.device at auto",
        )
    return torch.device(wanted)


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """Return the precision of the arithmetic: for `auto` bfloat16 on CUDA where it is native, else float32."""
    if wanted != "auto":
        return DTYPES[wanted]
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float32


def device_name(device: torch.device) -> str:
    """Return the name that the maker of the device gave it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    return match.group(1) if match else platform.machine()


def device_memory_bytes(device: torch.device) -> int | None:
    """Return how much memory of its own the device offers; None where it shares the machine's without a limit."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return torch.mps.recommended_max_memory() if device.type == "mps" else None


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether torch (or the allocator under it) ran out of memory; each device says it in its own words."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


@contextmanager
def memory_errors(device: torch.device, hint: str) -> Iterator[None]:
    """Turn running out of memory into a `JobFailed` that says which setting to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise JobFailed(f"out of memory on {device.type}", hint=hint) from error


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
