"""Quantised copies of models. The witnesses are MLX (`mx.quantize`) and mlx-lm, which must load what is written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from tests.conformance.batches import ragged
from toolkit import base_cache, packed_folders
from toolkit.affine import AffineLayout
from toolkit.base_cache import affine_base, bases_folder
from toolkit.config import BaseConfig
from toolkit.errors import JobFailed, ToolkitError
from toolkit.models import read_model
from toolkit.packed_folders import AffinePacker, plan_parts
from toolkit.protocols import ScorerSpec
from toolkit.tensor_files import FolderTensors, StoredTensor, TensorEntry, write_tensors

PLAIN_ROPE = (("rope_parameters", {"rope_type": "default", "rope_theta": 1e6}), ("rope_theta", 1e6))


def prepare(folder: Path, said: list[str] | None = None, **base: int) -> Path:
    lines = [] if said is None else said
    return affine_base(read_model(folder), BaseConfig.model_validate({"layout": "affine", **base}), lines.append)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_linear_layers_of_the_blocks_are_quantised_as_mlx_does_and_all_else_is_as_stored(
    bits, dtype, build_tiny_model
):
    source = build_tiny_model(family="llama", tied=False, dtype=dtype)
    before, after = FolderTensors(source), FolderTensors(prepare(source, bits=bits))
    layers = {name.removesuffix(".scales") for name in after if name.endswith(".scales")}
    assert len(layers) == 14 and all(".layers." in name for name in layers)
    for name, tensor in before.items():
        module = name.removesuffix(".weight")
        if module not in layers:
            assert after[name].dtype == tensor.dtype
            np.testing.assert_array_equal(after[name].array, tensor.array, err_msg=name)
            continue
        weight = mx.array(tensor.to_float32()).astype(getattr(mx, dtype))
        expected = mx.quantize(weight, 64, bits, stream=mx.cpu)
        np.testing.assert_array_equal(after[name].array, np.array(expected[0]), err_msg=name)
        for end, values in zip(("scales", "biases"), expected[1:], strict=True):
            found = after[f"{module}.{end}"]
            assert found.dtype == dtype
            np.testing.assert_array_equal(found.to_float32(), np.array(values.astype(mx.float32)), err_msg=name)


def test_mlx_lm_loads_the_copy_and_answers_as_both_backends_do(build_tiny_model):
    from mlx_lm.utils import load_model

    from toolkit.mlx_backend.session import MlxBackend
    from toolkit.torch_backend.session import TorchBackend

    source = build_tiny_model(changes=PLAIN_ROPE)
    tokens = ragged(3, (40, 40)).tokens
    model, config = load_model(prepare(source))
    assert config["quantization"] == {"group_size": 64, "bits": 4, "mode": "affine"}
    expected = np.array(model(mx.array(tokens)))
    spec = ScorerSpec(source, device="cpu", dtype="float32", base=BaseConfig(bits=4, layout="affine"))
    for backend in (MlxBackend(), TorchBackend()):
        found = np.concatenate(list(backend.open_scorer(spec).logits(tokens)), axis=1)
        np.testing.assert_allclose(found, expected, atol=1e-4, err_msg=backend.name)


def test_a_copy_is_made_once_and_found_again(tiny_qwen2):
    said: list[str] = []
    first = prepare(tiny_qwen2, said)
    times = {path.name: path.stat().st_mtime_ns for path in first.iterdir()}
    assert prepare(tiny_qwen2, said) == first
    assert {path.name: path.stat().st_mtime_ns for path in first.iterdir()} == times
    assert len(said) == 1 and said[0].startswith("quantising ") and " MB in " in said[0]
    assert len({prepare(tiny_qwen2), prepare(tiny_qwen2, bits=8), prepare(tiny_qwen2, group_size=32)}) == 3


def test_a_model_that_changed_gets_another_copy(tiny_qwen2, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_qwen2, model)
    first = prepare(model)
    tensors = dict(FolderTensors(model).items())
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = StoredTensor(name, "float32", tensors[name].array * np.float32(2))
    write_tensors(model / "model.safetensors", tensors, {"format": "pt"})
    second = prepare(model)
    assert second != first
    scales = [FolderTensors(folder)["model.layers.0.mlp.up_proj.scales"].array for folder in (first, second)]
    np.testing.assert_array_equal(scales[1], 2 * scales[0])


@pytest.mark.parametrize("fault", ["cut short", "file lost", "record lost", "config lost"])
def test_a_damaged_copy_is_made_again(fault, tiny_qwen2):
    folder = prepare(tiny_qwen2)
    good = {path.name: path.read_bytes() for path in folder.iterdir()}
    if fault == "cut short":
        (folder / "model.safetensors").write_bytes(good["model.safetensors"][:-100])
    else:
        lost = {"file lost": "model.safetensors", "record lost": "base.json", "config lost": "config.json"}[fault]
        (folder / lost).unlink()
    said: list[str] = []
    assert prepare(tiny_qwen2, said) == folder
    assert "damaged; making it again" in said[0]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == good


def test_a_killed_maker_leaves_nothing_that_counts(tiny_qwen2):
    code = (
        "import os, signal, sys; from pathlib import Path; from toolkit import packed_folders\n"
        "from toolkit.base_cache import affine_base; from toolkit.config import BaseConfig\n"
        "from toolkit.models import read_model\n"
        "def kill(entry, multiple=1):\n"
        "    if 'layers.1' in entry.name: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    yield from real(entry, multiple)\n"
        "real = packed_folders.pieces; packed_folders.pieces = kill\n"
        f"affine_base(read_model(Path({str(tiny_qwen2)!r})), BaseConfig(layout='affine'), print)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == -signal.SIGKILL
    left = [path.name for path in bases_folder().iterdir() if path.is_dir()]
    assert len(left) == 1 and left[0].endswith(".partial")
    folder = prepare(tiny_qwen2)
    assert [path for path in bases_folder().iterdir() if path.is_dir()] == [folder]


def test_a_disk_without_room_is_refused_before_anything_is_written_with_what_is_needed(tiny_qwen2, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(JobFailed, match=r"disk is full: the quantised copy needs 0 MB, 0 MB are free.*TOOLKIT_HOME"):
        prepare(tiny_qwen2)
    assert not [path for path in bases_folder().iterdir() if path.is_dir()]


def test_a_disk_that_fills_up_on_the_way_leaves_nothing_and_says_how_much_is_needed(tiny_qwen2, monkeypatch):
    real = packed_folders.pieces

    def full(entry: TensorEntry, multiple: int = 1):
        if "layers.1" in entry.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(entry, multiple)

    monkeypatch.setattr(packed_folders, "pieces", full)
    with pytest.raises(JobFailed, match=r"disk is full, nothing was written: the quantised copy needs \d+ MB"):
        prepare(tiny_qwen2)
    assert not [path for path in bases_folder().iterdir() if path.is_dir()]


def test_a_copy_in_small_pieces_and_many_shards_is_the_same(tiny_qwen2, monkeypatch):
    whole = dict(FolderTensors(prepare(tiny_qwen2)).items())
    shutil.rmtree(bases_folder())
    monkeypatch.setattr(packed_folders, "PIECE_WEIGHTS", 1000)
    monkeypatch.setattr(packed_folders, "SHARD_BYTES", 30_000)
    folder = prepare(tiny_qwen2)
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2
    pieces = FolderTensors(folder)
    assert pieces.keys() == whole.keys()
    for name, tensor in whole.items():
        np.testing.assert_array_equal(pieces[name].array, tensor.array, err_msg=name)


def test_quantising_holds_a_few_pieces_in_memory_and_never_the_matrix(tmp_path, monkeypatch):
    monkeypatch.setattr(packed_folders, "PIECE_WEIGHTS", 1 << 14)
    weight = np.ones((8192, 256), np.float32)
    name = "model.layers.0.mlp.up_proj.weight"
    write_tensors(tmp_path / "model.safetensors", {name: StoredTensor(name, "float32", weight)})
    entry = FolderTensors(tmp_path).entries[name]
    tracemalloc.start()
    try:
        AffinePacker(AffineLayout(4, 64)).pack(entry, lambda name, first, rows: None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * 4 * (1 << 14) < weight.nbytes / 10


def test_layers_that_do_not_divide_into_groups_stay_as_they_are_and_that_is_said(build_tiny_model):
    source = build_tiny_model(hidden_size=96)  # 96 columns are no multiple of 64; the feed-forward's 192 are
    said: list[str] = []
    folder = prepare(source, said)
    packed = {name for name in FolderTensors(folder) if name.endswith(".scales")}
    assert packed == {f"model.layers.{i}.mlp.down_proj.scales" for i in range(2)}
    assert "12 layers do not fit and stay as they are" in said[0]


def test_a_model_of_which_no_layer_fits_is_refused(build_tiny_model):
    source = build_tiny_model(hidden_size=96)
    with pytest.raises(ToolkitError, match=r"no linear layer of this model can be quantised so.*group_size=32"):
        prepare(source, group_size=128)


def test_a_weight_that_is_not_a_number_is_named(tiny_qwen2, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_qwen2, model)
    tensors = dict(FolderTensors(model).items())
    name = "model.layers.1.mlp.up_proj.weight"
    broken = tensors[name].array.copy()
    broken[3, 3] = np.nan
    tensors[name] = StoredTensor(name, "float32", broken)
    write_tensors(model / "model.safetensors", tensors, {"format": "pt"})
    with pytest.raises(ToolkitError, match=f"{name} holds NaN"):
        prepare(model)
    assert not [path for path in bases_folder().iterdir() if path.is_dir()]


def test_a_second_process_waits_for_the_first(tiny_qwen2, monkeypatch):
    from filelock import FileLock

    facts = read_model(tiny_qwen2)
    digest = base_cache.content_hash(facts, lambda _: None)
    place = bases_folder() / f"affine-4bit-g64-{digest[:16]}"
    lock = FileLock(place.with_name(f".{place.name}.lock"))
    lock.acquire()
    said: list[str] = []

    def report(line: str) -> None:
        said.append(line)
        lock.release(force=True)

    affine_base(facts, BaseConfig(layout="affine"), report)
    assert said[0].startswith("another process is making") and said[1].startswith("quantising")


def test_the_plan_knows_the_size_of_what_is_written(tiny_qwen2):
    facts = read_model(tiny_qwen2)
    planned = packed_folders.planned_bytes(plan_parts(facts, AffinePacker(AffineLayout(4, 64))))
    written = (prepare(tiny_qwen2) / "model.safetensors").stat().st_size
    assert 0 < written - planned < 20_000  # the header


def test_a_record_says_what_a_copy_is(tiny_qwen2):
    record = json.loads((prepare(tiny_qwen2) / "base.json").read_text())
    assert record["layout"] == "affine-4bit-g64" and record["sha256"] == read_model(tiny_qwen2).sha256()
