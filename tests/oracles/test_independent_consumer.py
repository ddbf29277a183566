"""A program that we did not write, with a llama.cpp that we did not build, reads our file: npm's node-llama-cpp."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from toolkit.backends import Target
from toolkit.gguf_backend.session import GgufScorer
from toolkit.models import NANO_FOLDER
from toolkit.protocols import Sampling
from toolkit.quantize.export import ExportRequest, export_model

pytestmark = pytest.mark.slow

VERSION = "3.22.1"
QUESTIONS = ("What is 12 plus 30?", "What is 7 times 8?", "Grüße, wer bist du?")
ASK = Path(__file__).with_name("ask_node_llama_cpp.mjs")


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with node-llama-cpp and its ready-made binary for this platform, from npm's registry."""
    assert shutil.which("npm"), "this test needs Node.js: apt-get install nodejs npm, or brew install node"
    folder = tmp_path_factory.mktemp("node")
    machine = "x64" if platform.machine() == "x86_64" else "arm64"
    kind = "mac-arm64-metal" if sys.platform == "darwin" else f"linux-{machine}"
    packages = [f"node-llama-cpp@{VERSION}", f"@node-llama-cpp/{kind}@{VERSION}"]
    # The optional packages are the builds for all other platforms and GPUs: 700 MB.
    command = ["npm", "install", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", *packages]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    shutil.copyfile(ASK, folder / ASK.name)
    return folder


@pytest.mark.parametrize("quant", ["F16", "Q8_0", "Q4_K_M"])
def test_node_llama_cpp_gives_the_same_ids_and_the_same_greedy_text(
    node_folder: Path, tmp_path: Path, quant: str
) -> None:
    file = export_model(ExportRequest(Target("model", "nano", NANO_FOLDER), quant, tmp_path, check=False)).path
    scorer = GgufScorer(file, threads=1)
    tokenizer = scorer.tokenizer()
    for question in QUESTIONS:
        prompt = tokenizer.encode_chat([{"role": "user", "content": question}], True)
        sampling = Sampling(48, stop_ids=tuple(tokenizer.stop_ids))
        ours = [item.token for item in scorer.generate([prompt], sampling) if item.token is not None]
        command = ["node", ASK.name, str(file), json.dumps(prompt), "48", question]
        done = subprocess.run(command, cwd=node_folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        theirs: dict[str, Any] = json.loads(done.stdout)
        assert theirs["ids"] == tokenizer.encode(question)
        assert theirs["tokens"][: len(ours)] == ours
        assert set(theirs["tokens"][len(ours) :]) <= set(tokenizer.stop_ids)
        assert theirs["text"] == tokenizer.decode(ours)
    scorer.close()
