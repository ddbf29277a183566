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

import mlx.core as mx

from toolkit.errors import JobFailed, ToolkitError

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
_OUT_OF_MEMORY = ("out of memory", "unable to allocate", "attempting to allocate", "insufficient memory")


def devices() -> list[str]:
    """Return the devices that MLX can use here, best first (`mps` is the Apple GPU, through Metal)."""
    if mx.metal.is_available():
        return ["mps", "cpu"]
    return ["cuda", "cpu"] if mx.is_available(mx.gpu) else ["cpu"]


def choose_device(wanted: str) -> mx.Device:
    """Return the wanted device, or the best one for `auto`.

    Raises:
        ToolkitError: the device is not here.
    """
    here = devices()
    if wanted == "auto":
        wanted = here[0]
    if wanted not in here:
        raise ToolkitError(
            f"device {wanted} is not available to MLX here",
            where="train.device",
            hint=f"usable devices: {', '.join(here)}; or leave train.device at auto",
        )
    return mx.Device(mx.cpu if wanted == "cpu" else mx.gpu, 0)


def choose_dtype(wanted: str, device: mx.Device) -> mx.Dtype:
    """Return the precision of the arithmetic: for `auto` bfloat16 on a GPU, else float32."""
    if wanted != "auto":
        return DTYPES[wanted]
    return mx.bfloat16 if device.type == mx.DeviceType.gpu else mx.float32


def device_name(device: mx.Device) -> str:
    """Return the name that the maker of the device gave it."""
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or platform.machine()
    if device.type == mx.DeviceType.gpu:
        return str(mx.device_info(device).get("device_name", "GPU"))
    cpuinfo = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    return match.group(1) if match else platform.machine()


def device_label(device: mx.Device) -> str:
    """Return the name that configs use for a device: cpu, mps or cuda."""
    return "cpu" if device.type == mx.DeviceType.cpu else devices()[0]


def use_device(device: mx.Device) -> None:
    """Run what follows on `device`.

    mlx-lm's models compile their activation functions. On the CPU that starts a C++ compiler for every shape (seconds
    each) and gains nothing, so there compilation is off.
    """
    mx.set_default_device(device)
    if device.type == mx.DeviceType.cpu:
        mx.disable_compile()
    else:
        mx.enable_compile()


def device_memory_bytes(device: mx.Device) -> int | None:
    """Return how much memory of its own the device offers; None where it shares the machine's without a limit."""
    if device.type == mx.DeviceType.cpu:
        return None
    figures = mx.device_info(device)
    size = figures.get("max_recommended_working_set_size") or figures.get("total_memory")
    return int(size) if size else None


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether MLX (or the allocator under it) ran out of memory; each device says it in its own words."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


@contextmanager
def memory_errors(device: mx.Device, hint: str) -> Iterator[None]:
    """Turn running out of memory into a `JobFailed` that says which setting to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise JobFailed(f"out of memory on {device_label(device)}", hint=hint) from error


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
