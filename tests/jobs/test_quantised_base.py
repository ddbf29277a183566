"""Which base a run gets: decided from the config, the model and the backend, or refused in words."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path

import pytest
import torch

from toolkit.base_cache import affine_base
from toolkit.config import BaseConfig, FinetuneConfig
from toolkit.errors import ToolkitError
from toolkit.jobs.quantised_base import frozen_bytes, resolve_base
from toolkit.mlx_backend.session import MlxBackend
from toolkit.models import read_model
from toolkit.tensor_files import FolderTensors
from toolkit.torch_backend import quantised
from toolkit.torch_backend.session import TorchBackend

BACKENDS = {"torch": TorchBackend(), "mlx": MlxBackend()}


def resolved(folder: Path, backend: str = "torch", **fields: object) -> BaseConfig:
    config = FinetuneConfig.model_validate({"method": "qlora", "train": {"device": "cpu"}, **fields})
    return resolve_base(config, read_model(folder), BACKENDS[backend]).base


@pytest.fixture
def packed(tiny_qwen2: Path, tmp_path: Path) -> Path:
    """A model folder in MLX's layout, 8 bits in groups of 32."""
    folder = tmp_path / "packed"
    base = BaseConfig(bits=8, group_size=32, layout="affine")
    shutil.copytree(affine_base(read_model(tiny_qwen2), base, lambda _: None), folder)
    return folder


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_full_precision_model_gets_4_bits_in_groups_of_64_by_default(backend, tiny_qwen2):
    assert resolved(tiny_qwen2, backend) == BaseConfig(bits=4, layout="affine", group_size=64)


@pytest.mark.parametrize(
    ("device", "bits", "layout"),
    [("cuda", None, "nf4"), ("cuda", 4, "nf4"), ("cuda", 8, "affine"), ("mps", None, "affine"), ("cpu", 4, "affine")],
)
def test_auto_is_nf4_for_4_bits_on_cuda_alone(device, bits, layout):
    found = quantised.resolve_base(BaseConfig(bits=bits), torch.device(device))
    assert (found.layout, found.bits) == (layout, bits or 4)


@pytest.mark.parametrize(
    ("base", "device", "message"),
    [
        ({"bits": 8}, "cpu", r"base\.bits: nf4 has 4 bits, not 8"),
        ({"group_size": 32}, "cpu", r"base\.group_size: nf4 shares scales among 64"),
        ({}, "mps", r"base\.layout: nf4 .* does not run on the Apple GPU. Use base\.layout=affine"),
    ],
)
def test_nf4_is_refused_where_it_cannot_be(base, device, message):
    with pytest.raises(ToolkitError, match=message):
        quantised.resolve_base(BaseConfig(layout="nf4", **base), torch.device(device))


def test_nf4_without_bitsandbytes_is_refused_with_the_command_that_installs_it(monkeypatch):
    def missing(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(quantised, "version", missing)
    with pytest.raises(ToolkitError, match=r"not installed.*pip install bitsandbytes.*base\.layout=affine"):
        quantised.resolve_base(BaseConfig(layout="nf4"), torch.device("cpu"))


def test_nf4_on_mlx_is_refused(tiny_qwen2):
    with pytest.raises(ToolkitError, match=r"base\.layout: nf4 is bitsandbytes' layout; MLX cannot read it"):
        resolved(tiny_qwen2, "mlx", base={"layout": "nf4"})


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_base_for_another_method_is_refused(method, tiny_qwen2):
    with pytest.raises(ToolkitError, match=f"base applies to method qlora, not {method}.*--method qlora"):
        resolved(tiny_qwen2, method=method, base={"bits": 4})
    assert resolved(tiny_qwen2, method=method) == BaseConfig()


def test_a_model_that_is_quantised_already_is_taken_as_it_is(packed):
    for base in ({}, {"bits": 8}, {"layout": "affine", "group_size": 32}):
        assert resolved(packed, base=base) == BaseConfig(bits=8, layout="affine", group_size=32)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"base": {"bits": 4}}, r"base\.bits: .*packed is quantised already, with 8, not 4"),
        ({"base": {"group_size": 64}}, r"base\.group_size: .*with 32, not 64"),
        ({"base": {"layout": "nf4"}}, r"base\.layout: .*quantised in layout affine already"),
        ({"method": "full"}, "a quantised model cannot be trained in full"),
    ],
)
def test_a_quantised_model_is_not_quantised_otherwise(fields, message, packed):
    with pytest.raises(ToolkitError, match=message):
        resolved(packed, **fields)


def test_other_bits_are_for_lora(packed):
    config = json.loads((packed / "config.json").read_text())
    config["quantization"]["bits"] = 6
    (packed / "config.json").write_text(json.dumps(config))
    with pytest.raises(ToolkitError, match=r"quantised to 6 bits, qlora takes 4 or 8. Use --method lora"):
        resolved(packed)


def test_a_model_that_another_tool_packed_is_refused(tiny_qwen2, tmp_path):
    folder = tmp_path / "packed"
    shutil.copytree(tiny_qwen2, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    for method in ("lora", "qlora"):
        with pytest.raises(ToolkitError, match="quantised already, by gptq. Give the full-precision model"):
            resolved(folder, method=method)


@pytest.mark.parametrize(("bits", "group_size"), [(4, 64), (8, 32)])
def test_the_planned_size_of_the_base_is_that_of_its_file(bits, group_size, tiny_qwen2):
    base = BaseConfig(bits=bits, group_size=group_size, layout="affine")
    facts = read_model(tiny_qwen2)
    folder = affine_base(facts, base, lambda _: None)
    tensors = FolderTensors(folder)
    stored = sum(tensor.array.nbytes for tensor in tensors.values())
    config = FinetuneConfig(method="qlora", base=base)
    assert frozen_bytes(config, facts, 4, "mlx") == pytest.approx(stored, rel=1e-3)
    largest = max(entry.parameter_count for entry in facts.block_matrices.values()) * 4
    assert frozen_bytes(config, facts, 4, "torch") == pytest.approx(stored + largest, rel=1e-3)
    # A folder that is packed already takes what it takes, whatever the method is called.
    for method in ("lora", "qlora"):
        same = frozen_bytes(FinetuneConfig(method=method, base=base), read_model(folder), 4, "mlx")
        assert same == pytest.approx(stored, rel=1e-3)
    assert frozen_bytes(FinetuneConfig(), facts, 4, "torch") == facts.parameter_count * 4
    assert frozen_bytes(FinetuneConfig(method="full"), facts, 4, "torch") == 0
