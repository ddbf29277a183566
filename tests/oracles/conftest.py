"""llama.cpp's own converter and vocabularies, out of llama-cpp-python's source distribution.

They come from the package registry when these tests run and are never kept: a witness, not a part of the project.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_WANTED = ("conversion/", "convert_hf_to_gguf.py", "gguf-py/gguf/", "models/ggml-vocab-")


@pytest.fixture(scope="session")
def llama_cpp_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fetch the source of the very llama-cpp-python that is installed; return llama.cpp's folder in it."""
    folder = tmp_path_factory.mktemp("llama-cpp-source")
    wanted = f"llama-cpp-python=={version('llama-cpp-python')}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python"]
    # The tests' own environment has no home directory; pip finds its settings there.
    environment = {**os.environ, "HOME": str(Path("~" + os.environ.get("USER", "")).expanduser())}
    environment["PIP_CONSTRAINT"] = str(ROOT / "constraints.txt")
    done = subprocess.run(
        [*command, "--dest", str(folder), wanted], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        prefix = f"{tar.next().name.split('/')[0]}/vendor/llama.cpp/"  # type: ignore[union-attr]
        for member in tar:
            name = member.name.removeprefix(prefix)
            if member.isfile() and name.startswith(_WANTED):
                member.name = name
                tar.extract(member, folder, filter="data")
    archive.unlink()
    assert (folder / "convert_hf_to_gguf.py").is_file()
    return folder
