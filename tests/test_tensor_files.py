from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from toolkit.errors import ToolkitError
from toolkit.tensor_files import FolderTensors, StoredTensor, read_tensors, write_tensors


def test_what_is_written_here_is_what_the_safetensors_package_reads(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    numbers = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    tensors = {
        "matrix": StoredTensor("matrix", "float32", numbers),
        "half": StoredTensor("half", "float16", numbers[0].astype(np.float16)),
        "brain": StoredTensor("brain", "float32", numbers[1]).to_bfloat16(),
        "count": StoredTensor("count", "int64", np.array(7)),
        "nothing": StoredTensor("nothing", "float32", np.zeros((0, 4), np.float32)),
    }
    write_tensors(tmp_path / "a.safetensors", tensors, {"format": "pt"})
    read = load_file(tmp_path / "a.safetensors")
    assert torch.equal(read["matrix"], torch.from_numpy(numbers))
    assert torch.equal(read["half"], torch.from_numpy(numbers[0]).half())
    assert torch.equal(read["brain"], torch.from_numpy(numbers[1]).bfloat16())
    assert read["count"].item() == 7
    assert read["nothing"].shape == (0, 4)
    assert read_tensors(tmp_path / "a.safetensors").metadata == {"format": "pt"}


def test_what_the_safetensors_package_writes_is_read_here_bit_for_bit(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    tensors = {
        "b": torch.randn(7).bfloat16(),
        "a": torch.randn(2, 3),
        "flag": torch.tensor([True]),
        "s": torch.tensor(2),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    read = read_tensors(tmp_path / "a.safetensors")
    assert read["b"].dtype == "bfloat16"
    np.testing.assert_array_equal(read["b"].to_float32(), tensors["b"].float().numpy())
    np.testing.assert_array_equal(read["a"].array, tensors["a"].numpy())
    assert read["flag"].array.tolist() == [True]
    assert read["s"].array.shape == () and int(read["s"].array) == 2


def test_rounding_to_bfloat16_is_that_of_torch_for_every_kind_of_number() -> None:
    import torch

    bits = np.random.default_rng(1).integers(0, 2**32, 20_000, dtype=np.uint32)
    ties = (np.arange(0x3F80, 0x3F90, dtype=np.uint32) << 16) | 0x8000
    special = np.array([0, 0x80000000, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 0x7F800001, 0xFFFFFFFF], np.uint32)
    numbers = np.concatenate([bits, ties, special]).view(np.float32)
    ours = StoredTensor("x", "float32", numbers).to_bfloat16()
    theirs = torch.from_numpy(numbers).bfloat16().view(torch.uint16).numpy()
    is_nan = np.isnan(numbers)
    np.testing.assert_array_equal(ours.array[~is_nan], theirs[~is_nan])
    assert np.isnan(ours.to_float32()[is_nan]).all()


def test_reading_maps_the_file_instead_of_loading_it(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors", {"x": StoredTensor("x", "float32", np.zeros(4, np.float32))})
    array = read_tensors(tmp_path / "a.safetensors")["x"].array
    assert not array.flags.writeable
    base: object = array
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)


def test_a_sharded_folder_reads_like_a_single_file(tiny_llama: Path, tmp_path: Path) -> None:
    tensors = FolderTensors(tiny_llama)
    assert len(tensors.files) > 1
    write_tensors(tmp_path / "model.safetensors", dict(tensors))
    single = FolderTensors(tmp_path)
    assert set(single) == set(tensors)
    assert single.parameter_count == tensors.parameter_count
    for name in tensors:
        np.testing.assert_array_equal(single[name].array, tensors[name].array)


def test_every_missing_shard_and_tensor_is_named_at_once(tmp_path: Path) -> None:
    write_tensors(tmp_path / "one.safetensors", {"x": StoredTensor("x", "float32", np.zeros(1, np.float32))})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": {"x": "one.safetensors", "y": "two.safetensors", "z": "three.safetensors"}})
    )
    with pytest.raises(ToolkitError) as caught:
        FolderTensors(tmp_path)
    assert [Path(problem.where).name for problem in caught.value.problems] == ["three.safetensors", "two.safetensors"]
    index.write_text(json.dumps({"weight_map": {"x": "one.safetensors", "y": "one.safetensors"}}))
    with pytest.raises(ToolkitError, match="the index says that y is here, but it is not"):
        FolderTensors(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:4], "not a safetensors file"),
        (lambda data: data[:-3], "cut short: x reaches beyond the end"),
        (lambda data: b"\xff" * 8 + data[8:], "not a safetensors file"),
        (lambda data: data.replace(b'"F32"', b'"F99"'), "not a safetensors file"),
        (lambda data: data.replace(b"[3]", b"[4]"), "not a safetensors file"),
        (lambda data: b"", "not a safetensors file"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, damage, message: str) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": StoredTensor("x", "float32", np.ones(3, np.float32))})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ToolkitError, match=message) as caught:
        read_tensors(path)
    assert caught.value.problems[0].where == str(path)


def test_an_array_of_another_width_than_its_dtype_is_a_mistake_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot hold bfloat16"):
        write_tensors(tmp_path / "a", {"x": StoredTensor("x", "bfloat16", np.ones(3, np.float32))})
