"""Quantising row by row from the weights: the bits of llama.cpp's quantiser, in little memory, or nothing."""

from __future__ import annotations

import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit.backends import Target
from toolkit.errors import JobFailed
from toolkit.gguf_backend.weights import open_gguf
from toolkit.quantize import stream
from toolkit.quantize.export import ExportRequest, export_files, export_model
from toolkit.quantize.llama_quantizer import quantise
from toolkit.quantize.mixture import plan_files
from toolkit.quantize.plan import QUANT_TYPES
from toolkit.quantize.source import Source, open_source
from toolkit.quantize.stream import write_gguf
from toolkit.tensor_files import StoredTensor, TensorFile, write_tensors

Build = Callable[..., Path]
QUANTISED = [kind for kind in QUANT_TYPES.values() if kind.name != "F32"]


@pytest.fixture(scope="module", params=[64, 256])
def merged(request: pytest.FixtureRequest, build_tiny_model: Build, adapter_for: Callable[..., Path]) -> Source:
    """A sharded bfloat16 Llama with an adapter on everything, opened for export."""
    options = {"tied": False, "dtype": "bfloat16", "max_shard_size": "300KB"}
    # An odd number of tokens: what follows the embedding in the file needs padding.
    folder = build_tiny_model(family="llama", hidden_size=request.param, vocab_size=391, **options)
    return open_source("tiny", folder, adapter_for(folder))


def contents(path: Path) -> dict[str, tuple[int, bytes]]:
    return {tensor.name: (int(tensor.tensor_type), tensor.data.tobytes()) for tensor in open_gguf(path).tensors}


def test_every_type_has_the_bits_of_llama_cpps_quantiser(
    merged: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The witness is llama_model_quantize on a float32 file; blocks are made so small that every tensor has many."""
    whole, *plans = plan_files(merged, list(QUANT_TYPES.values()), {})
    write_gguf(tmp_path / "whole.gguf", merged, whole, {})
    monkeypatch.setattr(stream, "BLOCK_WEIGHTS", 4096)
    assert [plan.kind for plan in plans] == QUANTISED
    for plan in plans:
        write_gguf(tmp_path / "ours.gguf", merged, plan, {}, threads=3)
        quantise(tmp_path / "whole.gguf", tmp_path / "theirs.gguf", plan.kind, threads=2)
        ours, theirs = contents(tmp_path / "ours.gguf"), contents(tmp_path / "theirs.gguf")
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if ours[name] != theirs[name]] == [], plan.kind.name


def test_a_plan_knows_every_kind_and_the_size_to_the_byte(merged: Source, tmp_path: Path):
    for plan in plan_files(merged, list(QUANT_TYPES.values()), {"license": "mit"}):
        path = tmp_path / "file.gguf"
        write_gguf(path, merged, plan, {"license": "mit"})
        assert path.stat().st_size == plan.file_bytes
        kinds = {tensor.name: tensor.tensor_type for tensor in open_gguf(path).tensors}
        assert kinds == {tensor.name: tensor.kind for tensor in plan.tensors}


def test_threads_and_blocks_make_no_difference(merged: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (plan,) = plan_files(merged, [QUANT_TYPES["Q4_K_M"]], {})
    files = set()
    for block, threads in ((2**19, 1), (5000, 1), (5000, 4)):
        monkeypatch.setattr(stream, "BLOCK_WEIGHTS", block)
        write_gguf(tmp_path / "file.gguf", merged, plan, {}, threads=threads)
        files.add((tmp_path / "file.gguf").read_bytes())
    assert len(files) == 1


def test_memory_does_not_grow_with_the_model(build_tiny_model: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stream, "BLOCK_WEIGHTS", 8192)

    def peak(layers: int) -> int:
        source = open_source("tiny", build_tiny_model(family="llama", hidden_size=256, layers=layers), None)
        (plan,) = plan_files(source, [QUANT_TYPES["Q4_K_M"]], {})
        tracemalloc.start()
        try:
            write_gguf(tmp_path / "file.gguf", source, plan, {}, threads=2)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(1), peak(8)
    assert large < small + 1_000_000  # seven more layers hold 12 MB in float32, 1.7 MB quantised


def test_blocks_wait_for_the_disk():
    """A slow disk must not let finished blocks pile up in memory."""
    made: list[Any] = []

    def make(block: Any) -> np.ndarray:
        made.append(block)
        return np.array([block])

    with ThreadPoolExecutor(2) as pool:
        blocks = stream.in_order(pool, make, range(100), 4)
        assert next(blocks)[0] == 0
        time.sleep(0.2)
        assert len(made) <= 4
        assert [int(packed[0]) for _, packed in blocks] == list(range(1, 100))


def test_several_types_come_from_one_call(build_tiny_model: Build, tmp_path: Path):
    request = ExportRequest(Target("model", "tiny", build_tiny_model()), "q8_0, F16,Q8_0", tmp_path)
    reports = export_files(request)
    assert [report.path.name for report in reports] == ["tiny-Q8_0.gguf", "tiny-F16.gguf"]
    assert all(report.gates and not report.failed for report in reports)


def test_both_ways_write_the_same_tensors(build_tiny_model: Build, tmp_path: Path):
    target = Target("model", "tiny", build_tiny_model(hidden_size=256))
    files = [
        export_model(ExportRequest(target, "Q5_K_M", tmp_path / via, check=False, via=via)).path
        for via in ("stream", "llama")
    ]
    assert contents(files[0]) == contents(files[1])


def broken(folder: Path, target: Path, value: float) -> Path:
    """Copy a model folder with one weight changed."""
    import shutil

    shutil.copytree(folder, target)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors: dict[str, Any] = dict(TensorFile(target / "model.safetensors"))
    array = np.array(tensors[name].array)
    array[3, 5] = value
    write_tensors(target / "model.safetensors", {**tensors, name: StoredTensor(name, "float32", array)})
    return target


@pytest.mark.parametrize(("value", "quant"), [(np.nan, "Q8_0"), (np.inf, "F32"), (1e6, "F16")])
def test_weights_that_are_no_numbers_are_named_and_nothing_is_written(
    build_tiny_model: Build, tmp_path: Path, value: float, quant: str
):
    target = Target("model", "tiny", broken(build_tiny_model(), tmp_path / "broken", value))
    with pytest.raises(JobFailed, match=r"layers\.1\.mlp\.up_proj\.weight holds numbers that"):
        export_model(ExportRequest(target, quant, tmp_path / "out", check=False))
    assert list((tmp_path / "out").iterdir()) == []


KILLED_HALF_WAY = """
import os, signal, sys
from pathlib import Path
from toolkit.backends import Target
from toolkit.quantize import export
def killed(notify, kind):
    return lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done > total / 2 else None
export._progress = killed
export.export_model(export.ExportRequest(Target("model", "tiny", Path(sys.argv[1])), "Q8_0", Path(sys.argv[2])))
"""


def test_a_killed_export_leaves_nothing_under_the_final_name_and_the_next_one_tidies_up(
    build_tiny_model: Build, tmp_path: Path
):
    folder = build_tiny_model()
    done = subprocess.run([sys.executable, "-c", KILLED_HALF_WAY, folder, tmp_path / "out"], check=False)
    assert done.returncode == -9
    left = [path.name for path in (tmp_path / "out").iterdir()]
    assert len(left) == 1
    assert left[0].startswith(".tiny-Q8_0.gguf.")
    export_model(ExportRequest(Target("model", "tiny", folder), "Q8_0", tmp_path / "out", check=False))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["Modelfile", "tiny-Q8_0.gguf", "tiny.md"]
