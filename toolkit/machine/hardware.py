"""Processor, memory, disk, limits and compiler, read from the system itself."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from toolkit.machine.findings import Finding, gigabytes
from toolkit.memory_plan import QUANTISED_BITS, largest_fitting

LEAST_MEMORY = 2 * 2**30
LEAST_DISK = 1 * 2**30
ROOMY_DISK = 20 * 2**30
LEAST_OPEN_FILES = 1024
# A system needs some memory for itself; what is left may be trained with.
USABLE_SHARE = 0.75
COMPILER_SECONDS = 10


def total_memory() -> int:
    """Return the bytes of memory that this process may use: the machine's, or its container's if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total


def available_memory() -> int | None:
    """Return the bytes that are free or can be freed at once, or None where the system does not say."""
    try:
        import psutil

        return min(int(psutil.virtual_memory().available), total_memory())
    except Exception:  # missing, or broken in any way: the doctor goes on
        return None


def check_memory(device_bytes: int | None, device: str) -> Finding:
    """Say how much memory there is, and which model sizes LoRA can be trained on with it."""
    total, available = total_memory(), available_memory()
    budget = device_bytes if device_bytes else total * USABLE_SHARE
    half = 2.0 if device != "cpu" else 4.0
    plain = largest_fitting(budget, weight_bytes=half)
    quantised = largest_fitting(budget, weight_bytes=QUANTISED_BITS[4] / 8)
    figures = {
        "total_bytes": total,
        "available_bytes": available,
        "device_bytes": device_bytes,
        "largest_lora": plain,
        "largest_4_bit": quantised,
    }
    text = f"{gigabytes(total)} in all" + (f", {gigabytes(available)} available" if available is not None else "")
    if device_bytes:
        text += f", {gigabytes(device_bytes)} on {device}"
    fits = [f"{size} with {what}" for size, what in ((plain, "LoRA"), (quantised, "a 4-bit base")) if size]
    text += f"; by arithmetic this trains up to {' or '.join(fits)}" if fits else ""
    if (available if available is not None else total) < LEAST_MEMORY:
        mend = "Close other programs (the bundled demonstration wants about 2 GiB), then: toolkit doctor"
        return Finding("memory", "warning", text, mend, figures)
    return Finding("memory", "ok", text, figures=figures)


def check_processor() -> Finding:
    """Name the processor and count its cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    text = f"{platform.system()} {platform.machine()}, {cores} cores"
    return Finding("processor", "ok", text, figures={"cores": cores, "machine": platform.machine()})


def check_folder(name: str, folder: Path, variable: str, *, needed: bool) -> Finding:
    """Try to write where the toolkit will write, and say how much room there is.

    Raises nothing: a folder that cannot be written is a finding, `failed` where the main job needs it.
    """
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    bad = "failed" if needed else "warning"
    move = f"export {variable}=/a/folder/with/room"
    free = None
    try:
        free = shutil.disk_usage(existing).free
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"x")
    except OSError as error:
        text = f"{folder}: cannot write in {existing} ({error.strerror or error})"
        return Finding(name, bad, text, f"{move} (or: chmod u+w {existing})", {"path": str(folder), "free_bytes": free})
    figures = {"path": str(folder), "free_bytes": free}
    text = f"{gigabytes(free)} free for {folder}"
    if free < LEAST_DISK:
        return Finding(name, bad, text, f"Free some space, or: {move}", figures)
    if free < ROOMY_DISK:
        text += " (a 7B model takes 15 GB to download, and as much again to export)"
        return Finding(name, "warning", text, f"Free some space, or: {move}", figures)
    return Finding(name, "ok", text, figures=figures)


def check_open_files() -> Finding:
    """Compare the limit on open files with what sharded models and parallel readers use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    figures = {"soft": soft, "hard": hard}
    if soft != resource.RLIM_INFINITY and soft < LEAST_OPEN_FILES:
        return Finding("open files", "warning", f"at most {soft} at a time", "ulimit -n 4096", figures)
    shown = "no limit" if soft == resource.RLIM_INFINITY else f"up to {soft:,} at a time"
    return Finding("open files", "ok", shown, figures=figures)


def compiler_that_works(names: Sequence[str] = ()) -> str | None:
    """Return the first C++ compiler that compiles something; macOS has a `c++` on PATH even where none is behind it."""
    for name in names or (os.environ.get("CXX", "").split()[:1] or ["c++", "g++", "clang++"]):
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(
                [name, "-x", "c++", "-", "-o", os.devnull],
                input=b"int main() { return 0; }\n",
                capture_output=True,
                timeout=COMPILER_SECONDS,
                check=False,
            )
            if done.returncode == 0:
                return name
    return None


def check_compiler() -> Finding:
    """Look for the compiler that llama-cpp-python is built with; without one, only what is built already works."""
    name = compiler_that_works()
    if name is not None:
        return Finding("compiler", "ok", f"{name} compiles C++", figures={"command": name})
    summary = "no working C++ compiler: llama-cpp-python cannot be built or updated"
    return Finding("compiler", "warning", summary, _compiler_install(), {"command": None})


def _compiler_install() -> str:
    if sys.platform == "darwin":
        return "xcode-select --install"
    if shutil.which("apt-get"):
        return "sudo apt-get install -y build-essential"
    if shutil.which("dnf"):
        return "sudo dnf install -y gcc-c++"
    return "install a C++ compiler with your system's package manager"
