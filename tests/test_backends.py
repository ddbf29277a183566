from __future__ import annotations

import builtins
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from toolkit import backends
from toolkit.adapter_files import write_adapter
from toolkit.backends import Target, choose_backend, open_target, resolve_target
from toolkit.config import LoraConfig
from toolkit.errors import ToolkitError
from toolkit.protocols import Backend, Sampling, TrainerSpec
from toolkit.torch_backend.session import TorchBackend


@pytest.fixture
def adapter(tiny_qwen2, tmp_path) -> Path:
    lora = LoraConfig(rank=2)
    trainer = TorchBackend().open_trainer(TrainerSpec(tiny_qwen2, device="cpu", lora=lora, seed=1))
    write_adapter(tmp_path / "adapter", trainer.state().weights, lora, str(tiny_qwen2))
    return tmp_path / "adapter"


@pytest.fixture
def root(tmp_path) -> Path:
    """A runs folder with one finished run of each method, and one that has not come so far."""
    for name in ("adapted", "whole", "unfinished"):
        folder = tmp_path / "all-runs" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("model: nano\n")
    return tmp_path / "all-runs"


def test_auto_takes_torch_and_says_why(monkeypatch):
    monkeypatch.setattr(backends, "_is_apple_silicon", lambda: False)
    backend, reason = choose_backend("auto", "cpu")
    assert isinstance(backend, Backend) and backend.name == "torch"
    assert reason == "torch on cpu: asked for by train.device"


@pytest.mark.parametrize(
    ("here", "chosen", "reason"),
    [
        (["cpu"], "cpu", "no CUDA device, no Apple GPU"),
        (["mps", "cpu"], "mps", "no CUDA device, an Apple GPU is here"),
        (["cuda", "cpu"], "cuda", "a CUDA device is here"),
    ],
)
def test_the_reason_names_the_devices_that_are_not_here(here, chosen, reason, monkeypatch):
    monkeypatch.setattr(backends, "_is_apple_silicon", lambda: False)
    assert backends._reason(chosen, "auto", here) == reason


def test_an_unknown_backend_is_refused_with_the_nearest_name():
    with pytest.raises(ToolkitError, match=r"backend: unknown backend: troch\. did you mean torch\?"):
        choose_backend("troch")


@pytest.mark.parametrize(
    ("apple", "installed", "device", "chosen", "reason"),
    [
        (True, True, "auto", "mlx", r"mlx on \w+: Apple silicon"),
        (True, True, "cpu", "mlx", "mlx on cpu: Apple silicon, and the device asked for by train.device"),
        (True, False, "auto", "torch", r"torch on \w+: .*MLX would be faster.*pip install mlx mlx-lm"),
        (False, True, "cpu", "torch", "torch on cpu: asked for by train.device"),
    ],
)
def test_auto_takes_mlx_on_apple_silicon_and_torch_elsewhere(apple, installed, device, chosen, reason, monkeypatch):
    monkeypatch.setattr(backends, "_is_apple_silicon", lambda: apple)
    monkeypatch.setattr(backends, "_is_installed", lambda package: installed)
    backend, line = choose_backend("auto", device)
    assert backend.name == chosen
    assert re.match(reason, line), line


def test_mlx_is_taken_anywhere_when_asked_for():
    backend, reason = choose_backend("mlx", "cpu")
    assert isinstance(backend, Backend) and backend.name == "mlx"
    assert reason == "mlx on cpu: asked for by backend"


def test_mlx_that_cannot_be_loaded_is_refused_with_the_command_that_installs_it(monkeypatch):
    real_import = builtins.__import__

    def without_mlx(name, *args, **kwargs):
        if name == "toolkit.mlx_backend.session":
            raise ImportError("libmlx.so: cannot open shared object file", name="mlx.core")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_mlx)
    with pytest.raises(ToolkitError, match=r"mlx is not installed: libmlx\.so.*pip install mlx mlx-lm"):
        choose_backend("mlx")


def test_a_backend_that_is_not_installed_is_refused_with_the_command_that_installs_it(monkeypatch):
    real_import = builtins.__import__

    def without_torch(name, *args, **kwargs):
        if name == "toolkit.torch_backend.session":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    with pytest.raises(ToolkitError, match=r"torch is not installed.*pip install torch transformers peft"):
        choose_backend("torch")


def test_a_device_that_is_not_here_is_refused_with_those_that_are():
    with pytest.raises(ToolkitError, match=r"train\.device: device tpu is not available .*usable devices: .*cpu"):
        choose_backend("auto", "tpu")


def test_choosing_and_resolving_load_no_framework_until_a_model_is_opened():
    code = "import sys, toolkit.backends; print([m for m in ('torch', 'llama_cpp', 'peft') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_model_folder_is_a_target(tiny_qwen2, root):
    assert resolve_target(str(tiny_qwen2), root) == Target("model", tiny_qwen2.name, model_folder=tiny_qwen2)


def test_an_adapter_folder_brings_its_base_model(adapter, tiny_qwen2, root):
    expected = Target("adapter", "adapter", model_folder=tiny_qwen2, adapter_folder=adapter)
    assert resolve_target(str(adapter), root) == expected


def test_a_run_is_found_by_name_and_by_path_with_its_adapter_or_model(adapter, tiny_qwen2, root):
    adapter.rename(root / "adapted" / "adapter")
    (root / "whole" / "model").symlink_to(tiny_qwen2, target_is_directory=True)
    by_name = resolve_target("adapted", root)
    assert (by_name.kind, by_name.label) == ("run", "adapted")
    assert by_name.model_folder == tiny_qwen2 and by_name.adapter_folder == root / "adapted" / "adapter"
    assert by_name.run_folder == root / "adapted"
    by_path = resolve_target(str(root / "whole"), Path("elsewhere"))
    assert (by_path.kind, by_path.label, by_path.adapter_folder) == ("run", "whole", None)
    assert by_path.model_folder == root / "whole" / "model"


def test_a_run_without_weights_says_how_to_go_on(root):
    with pytest.raises(ToolkitError, match="no trained weights yet.*toolkit finetune --resume unfinished"):
        resolve_target("unfinished", root)


def test_a_gguf_file_is_a_target_and_belongs_to_the_run_it_lies_in(root, tmp_path):
    file = root / "whole" / "export" / "whole-Q4_K_M.gguf"
    file.parent.mkdir()
    file.write_bytes(b"GGUF")
    found = resolve_target(str(file), root)
    assert (found.kind, found.label, found.gguf_file) == ("gguf", file.name, file)
    assert found.run_folder == root / "whole"
    with pytest.raises(ToolkitError, match="no such file"):
        resolve_target(str(tmp_path / "other.gguf"), root)


def test_an_unknown_target_is_refused_with_the_nearest_run(root):
    with pytest.raises(ToolkitError, match="did you mean adapted?"):
        resolve_target("adaptd", root)
    with pytest.raises(ToolkitError, match="toolkit runs list"):
        resolve_target("zzz", root)


def test_an_adapter_that_does_not_name_its_base_is_refused(adapter, root):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(ToolkitError, match="base_model_name_or_path is missing"):
        resolve_target(str(adapter), root)


def test_an_opened_target_answers_through_its_own_tokenizer(adapter, tiny_qwen2, root):
    opened = open_target(resolve_target(str(adapter), root), "cpu", "float32")
    plain = open_target(resolve_target(str(tiny_qwen2), root), "cpu", "float32")
    prompt = opened.tokenizer.encode("What is 12 plus 30?")
    assert len(list(opened.scorer.generate([prompt], Sampling(max_new_tokens=3)))) == 4
    assert opened.context == 256 and opened.label == "adapter"
    tokens = np.array([prompt], np.int32)
    np.testing.assert_allclose(next(opened.scorer.logits(tokens)), next(plain.scorer.logits(tokens)), atol=1e-5)
    opened.scorer.close()
