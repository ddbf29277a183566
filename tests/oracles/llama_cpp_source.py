"""llama.cpp's own converter and vocabularies, out of llama-cpp-python's source distribution.

They come from the package registry when they are asked for and are never kept: a witness, not a part of the project.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
_WANTED = ("conversion/", "convert_hf_to_gguf.py", "gguf-py/gguf/", "models/ggml-vocab-", "models/templates/")

# The converter knows pre-tokenizers by a hash over the ids of one text, so a vocabulary trained on the spot is unknown
# to it. It is told the name; everything else is its own work. Arguments: its folder, the name, then its own.
CONVERTER = """
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
sys.path.insert(1, sys.path[0] + "/gguf-py")
pre = sys.argv.pop(1)
import conversion.base
conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
sys.argv[0] = sys.path[0] + "/convert_hf_to_gguf.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def fetch_llama_cpp_source(folder: Path) -> Path:
    """Fetch the source of the very llama-cpp-python that is installed; return llama.cpp's folder in it."""
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
