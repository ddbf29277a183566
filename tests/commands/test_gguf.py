"""`toolkit gguf`: what stands in a file, and how two files differ."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.small_runs import toolkit
from toolkit.backends import Target
from toolkit.quantize.export import ExportRequest, export_model


def write(path: Path, values: np.ndarray, name: str = "blk.0.attn_q.weight", **metadata: str) -> Path:
    """Write a GGUF file with one tensor by the package `gguf`."""
    writer = gguf.GGUFWriter(path, "qwen2")
    for key, value in metadata.items():
        writer.add_string(f"general.{key}", value)
    writer.add_array("tokenizer.ggml.tokens", [f"t{number}" for number in range(20)])
    writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def exported(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("inspected")
    paths = [
        export_model(ExportRequest(Target("model", "tiny", tiny_llama), quant, folder, check=False)).path
        for quant in ("F32", "Q8_0")
    ]
    return paths[0], paths[1]


def test_inspect_shows_types_true_bits_and_metadata(exported: tuple[Path, Path]) -> None:
    result = toolkit("gguf", "inspect", exported[1], "--tensors")
    assert result.exit_code == 0
    for words in ("Q8_0", "bits per weight", "general.architecture", "llama", "blk.0.attn_q.weight", "entries"):
        assert words in result.stdout


def test_inspect_as_json_agrees_with_the_gguf_package(exported: tuple[Path, Path]) -> None:
    reader = gguf.GGUFReader(exported[1])
    (fact,) = json.loads(toolkit("gguf", "inspect", exported[1], "--json").stdout)
    assert fact["bytes"] == exported[1].stat().st_size
    assert {tensor["name"]: tensor["type"] for tensor in fact["tensors"]} == {
        tensor.name: tensor.tensor_type.name for tensor in reader.tensors
    }
    weights = sum(int(tensor.n_elements) for tensor in reader.tensors)
    assert fact["weights"] == weights
    assert fact["bits_per_weight"] == pytest.approx(
        8 * sum(int(tensor.n_bytes) for tensor in reader.tensors) / weights, abs=1e-4
    )
    assert fact["metadata"]["tokenizer.ggml.tokens"] == reader.get_field("tokenizer.ggml.tokens").contents()


def test_a_file_does_not_differ_from_itself(exported: tuple[Path, Path]) -> None:
    result = toolkit("gguf", "diff", exported[0], exported[0])
    assert (result.exit_code, result.stdout) == (0, "no difference\n")


def test_diff_says_how_far_quantised_values_are_from_the_others(exported: tuple[Path, Path]) -> None:
    result = toolkit("gguf", "diff", *exported)
    assert result.exit_code == 1
    assert "Q8_0" in result.stdout and "apart" in result.stdout


def test_diff_names_every_kind_of_difference(tmp_path: Path) -> None:
    values = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)
    first = write(tmp_path / "a.gguf", values, license="mit")
    scale = float(np.sqrt(np.mean(np.square(values.astype(np.float64)))))
    cases = {
        "license": write(tmp_path / "b.gguf", values, license="bsd"),
        "absent": write(tmp_path / "c.gguf", values),
        "blk.0.attn_k": write(tmp_path / "d.gguf", values, "blk.0.attn_k.weight", license="mit"),
        f"{0.5 / scale:.2g} apart": write(tmp_path / "e.gguf", values + np.float32(0.5), license="mit"),
        "F32 4×16": write(tmp_path / "f.gguf", values.reshape(4, 16), license="mit"),
    }
    for words, second in cases.items():
        result = toolkit("gguf", "diff", first, second)
        assert result.exit_code == 1 and words in result.stdout, words
    unread = toolkit("gguf", "diff", first, cases[f"{0.5 / scale:.2g} apart"], "--no-values")
    assert (unread.exit_code, unread.stdout) == (0, "no difference\n")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"GGUF\x03\x00\x00\x00"])
def test_a_damaged_file_is_named_without_a_traceback(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    result = toolkit("gguf", "inspect", path)
    assert result.exit_code == 2 and "bad.gguf" in result.stderr


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    result = toolkit("gguf", "inspect", tmp_path / "none.gguf")
    assert result.exit_code == 2 and "no such file" in result.stderr
