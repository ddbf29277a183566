"""Our GGUF files against those of llama.cpp's own converter: the same tensors bit for bit, the same behaviour."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.oracles.llama_cpp_source import CONVERTER
from toolkit.backends import Target
from toolkit.quantize.export import ExportRequest, export_model

pytestmark = pytest.mark.slow

# Keys in which we differ on purpose, or that say who wrote the file. Each with the reason.
EXPLAINED = {
    "general.name": "we take the name of the run, they the folder's",
    "general.exported_by": "ours alone: which version of the toolkit wrote the file",
    "attention.key_length": "ours names what llama.cpp derives where it is missing: hidden size / heads",
    "attention.value_length": "likewise",
    "rope.dimension_count": "likewise",
    "vocab_size": "ours names what llama.cpp counts where it is missing",
    "tokenizer.ggml.add_eos_token": "ours says no, which llama.cpp assumes where it is missing",
    "tokenizer.ggml.add_sep_token": "theirs says no, which llama.cpp assumes where it is missing",
    "tokenizer.ggml.eot_token_id": "ours alone: every token that ends a turn is named, so that generation ends there",
    "tokenizer.ggml.bos_token_id": "never added by these tokenizers; ours is the end of sequence, theirs config.json's",
    "tokenizer.ggml.padding_token_id": "ours is the end of sequence where the tokenizer has none",
}


@pytest.fixture(scope="session")
def convert(llama_cpp_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, str, str], Path]:
    """Return `convert(model_folder, pre_tokenizer, type) -> file`, by llama.cpp's converter in its own process."""

    def run(folder: Path, pre: str, kind: str) -> Path:
        out = tmp_path_factory.mktemp("theirs") / f"{kind}.gguf"
        command = [sys.executable, "-c", CONVERTER, str(llama_cpp_source), pre, str(folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
        done = subprocess.run(
            [*command, "--outtype", kind, "--outfile", str(out)],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return out

    return run


def tensors(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def metadata(path: Path) -> dict[str, Any]:
    fields = gguf.GGUFReader(path).fields
    return {key: field.contents() for key, field in fields.items() if not key.startswith("GGUF.")}


CASES = [("qwen2", "qwen2", {}), ("qwen2", "qwen2", {"tied": False}), ("llama", "llama-bpe", {"tied": False})]


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
@pytest.mark.parametrize(("family", "pre", "fields"), CASES, ids=["qwen2-tied", "qwen2", "llama"])
def test_tensors_are_the_converters_bit_for_bit_and_so_is_the_metadata_that_decides_behaviour(
    build_tiny_model: Any, convert: Any, tmp_path: Path, family: str, pre: str, fields: dict[str, Any], kind: str
) -> None:
    folder = build_tiny_model(family=family, **fields)
    theirs = convert(folder, pre, kind)
    request = ExportRequest(Target("model", "tiny", folder), kind.upper(), tmp_path, check=False)
    ours = export_model(request).path
    mine, other = tensors(ours), tensors(theirs)
    assert set(mine) - set(other) == set() == set(other) - set(mine)
    for name, tensor in other.items():
        assert mine[name].tensor_type == tensor.tensor_type, name
        assert list(mine[name].shape) == list(tensor.shape), name
        assert np.array_equal(mine[name].data, tensor.data), name
    known, expected = metadata(ours), metadata(theirs)
    assert known["general.file_type"] == expected["general.file_type"]
    for key, value in expected.items():
        if key.removeprefix(f"{family}.") in EXPLAINED:
            continue
        if isinstance(value, float):
            assert known[key] == pytest.approx(value), key
        else:
            assert known[key] == value, key
    assert known["tokenizer.ggml.add_bos_token"] == (family == "llama")
    unexplained = {key for key in set(known) - set(expected) if key.removeprefix(f"{family}.") not in EXPLAINED}
    assert not unexplained, unexplained
