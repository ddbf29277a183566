"""The merged model as a folder: transformers, PEFT, mlx-lm and mx.quantize are the witnesses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.quantize.conftest import LLAMA3_ROPE, transformers_logits
from tests.quantize.test_export import files_limited_to
from toolkit.affine import BITS, AffineLayout
from toolkit.backends import Target, open_target
from toolkit.errors import JobFailed, ToolkitError
from toolkit.quantize import folder_export, folder_plan, folder_proof, folder_writer
from toolkit.quantize.export import export_model
from toolkit.quantize.folder_plan import plan_folder
from toolkit.quantize.folder_writer import write_folder
from toolkit.quantize.requests import ExportReport, ExportRequest
from toolkit.quantize.source import open_folder_source
from toolkit.tensor_files import FolderTensors

Build = Callable[..., Path]
GATES = ["structure", "tokenizer", "weights", "behaviour"]


def rows(length: int = 60) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 384, (2, length)).astype(np.int32)


def export(folder: Path, out: Path, form: Any, adapter: Path | None = None, **more: Any) -> ExportReport:
    target = Target("adapter" if adapter else "model", "tiny", folder, adapter)
    return export_model(ExportRequest(target, out=out, format=form, **more))


MERGED = {
    "llama in shards, LoRA": ({"family": "llama", "tied": False}, {}, 1e-4),
    "qwen3, DoRA": ({"family": "qwen3"}, {"use_dora": True, "target_modules": ("q_proj", "down_proj")}, 1e-4),
}


@pytest.mark.parametrize("case", ["llama in shards, LoRA", pytest.param("qwen3, DoRA", marks=pytest.mark.slow)])
def test_a_merged_folder_gives_the_logits_of_pefts_merge_in_transformers(
    build_tiny_model: Build,
    adapter_for: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
):
    shape, options, tolerance = MERGED[case]
    monkeypatch.setattr(folder_plan, "SHARD_BYTES", 200_000)
    folder = build_tiny_model(**shape)
    adapter = adapter_for(folder, **options)
    report = export(folder, tmp_path / "out", "safetensors", adapter)
    assert report.failed == ()
    assert [gate.gate for gate in report.gates] == GATES
    assert len(list(report.path.glob("model-0000*-of-0000*.safetensors"))) > 1
    wanted = transformers_logits(folder, rows(), adapter)
    assert np.abs(transformers_logits(report.path, rows()) - wanted).max() < tolerance
    assert np.abs(transformers_logits(folder, rows()) - wanted).max() > 0.1


def test_weights_keep_the_bases_precision_and_are_merged_before_they_are_rounded(
    build_tiny_model: Build, adapter_for: Callable[..., Path], tmp_path: Path
):
    """The witness is PEFT's merge in float32, rounded by torch."""
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    folder = build_tiny_model(dtype="bfloat16")
    adapter = adapter_for(folder)
    report = export(folder, tmp_path / "out", "safetensors", adapter, check=False)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, adapter).merge_and_unload().state_dict()
    written = load_file(report.path / "model.safetensors")
    assert written.keys() == load_file(folder / "model.safetensors").keys()
    for name, tensor in written.items():
        assert tensor.dtype == torch.bfloat16
        # A number on the edge between two may fall to either side.
        assert (tensor == merged[name].to(torch.bfloat16)).float().mean() > 0.99, name
        assert (tensor - merged[name]).abs().max() <= merged[name].abs().max() * 2**-8, name


MLX_SHAPES = {
    "qwen2": {"hidden_size": 128},
    "llama with llama3 rope": {
        "family": "llama",
        "tied": False,
        "hidden_size": 128,
        "changes": (("rope_parameters", LLAMA3_ROPE),),
    },
    "qwen3": {"family": "qwen3", "hidden_size": 128},
    "mistral": {"family": "mistral", "tied": False, "hidden_size": 128},
}


@pytest.mark.parametrize(
    ("shape", "bits"),
    [
        ("llama with llama3 rope", 4),
        pytest.param("qwen2", 4, marks=pytest.mark.slow),
        pytest.param("qwen2", 8, marks=pytest.mark.slow),
        pytest.param("qwen3", 4, marks=pytest.mark.slow),
        pytest.param("mistral", 4, marks=pytest.mark.slow),
        pytest.param("llama with llama3 rope", 8, marks=pytest.mark.slow),
    ],
)
def test_an_mlx_folder_opens_in_mlx_lm_with_the_logits_of_its_dequantised_numbers(
    build_tiny_model: Build, adapter_for: Callable[..., Path], tmp_path: Path, shape: str, bits: int
):
    """mlx_lm.load against transformers on what mx.dequantize makes of the folder's own tensors."""
    import toolkit.mlx_backend.loading  # noqa: F401 (MLX with a fast BLAS)

    import mlx.core as mx  # isort: skip
    import mlx_lm

    folder = build_tiny_model(**MLX_SHAPES[shape])
    adapter = adapter_for(folder)
    report = export(folder, tmp_path / "mlx", "mlx", adapter, layout=AffineLayout(bits, 32))
    assert report.failed == ()
    assert [gate.gate for gate in report.gates] == GATES
    plain = dequantised_copy(folder, report.path, tmp_path / "plain", bits)
    with mx.stream(mx.cpu):
        model, tokenizer = mlx_lm.load(str(report.path))[:2]
        logits = np.array(model(mx.array(rows())).astype(mx.float32))
    assert np.abs(logits - transformers_logits(plain, rows())).max() < 2e-3
    assert tokenizer.encode("The dog", add_special_tokens=False)
    on_torch = open_target(Target("model", "tiny", report.path), "cpu", "float32", "torch").scorer
    assert np.abs(np.concatenate(list(on_torch.logits(rows())), axis=1) - logits).max() < 2e-3
    on_torch.close()
    # What was merged is in there: the unmerged base is farther away than the packed merge is from the merge.
    merged = transformers_logits(folder, rows(), adapter)
    assert np.abs(logits - merged).mean() < np.abs(transformers_logits(folder, rows()) - merged).mean()


def dequantised_copy(folder: Path, packed: Path, place: Path, bits: int) -> Path:
    import mlx.core as mx

    stored: dict[str, Any] = dict(mx.load(str(packed / "model.safetensors")).items())
    for name in [name for name in stored if name.endswith(".scales")]:
        module = name.removesuffix(".scales")
        parts = [stored.pop(f"{module}.{end}") for end in ("weight", "scales", "biases")]
        stored[f"{module}.weight"] = mx.dequantize(*parts, group_size=32, bits=bits)
    shutil.copytree(folder, place)
    for file in place.glob("model*.safetensors*"):
        file.unlink()
    mx.save_safetensors(str(place / "model.safetensors"), stored, {"format": "pt"})
    return place


@pytest.mark.parametrize("bits", BITS)
def test_packed_words_are_those_of_mlx(build_tiny_model: Build, tmp_path: Path, bits: int):
    import mlx.core as mx

    folder = build_tiny_model(hidden_size=128, tied=False)
    source = open_folder_source("tiny", folder, None, known_only=True)
    (tmp_path / "out").mkdir()
    write_folder(tmp_path / "out", source, plan_folder(source, "mlx", AffineLayout(bits, 64)))
    written: dict[str, Any] = dict(mx.load(str(tmp_path / "out" / "model.safetensors")).items())
    plain: dict[str, Any] = dict(mx.load(str(folder / "model.safetensors")).items())
    matrices = [name for name, tensor in plain.items() if tensor.ndim == 2]
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= set(matrices)
    for name in matrices:
        words, scales, biases = mx.quantize(plain[name], group_size=64, bits=bits)
        module = name.removesuffix(".weight")
        assert bool((written[name] == words).all()), name
        assert bool((written[f"{module}.scales"] == scales).all())
        assert bool((written[f"{module}.biases"] == biases).all())


def test_what_is_packed_already_is_copied_and_can_be_unpacked(build_tiny_model: Build, tmp_path: Path):
    first = export(build_tiny_model(hidden_size=128), tmp_path / "first", "mlx", check=False).path
    again = export(first, tmp_path / "again", "mlx", check=False).path
    assert (first / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    report = export(first, tmp_path / "plain", "safetensors")
    assert report.failed == ()
    config = json.loads((report.path / "config.json").read_text("utf-8"))
    assert "quantization" not in config
    assert "quantization_config" not in config
    import mlx.core as mx

    stored: dict[str, Any] = dict(mx.load(str(first / "model.safetensors")).items())
    name = "model.layers.1.mlp.down_proj"
    wanted = mx.dequantize(*(stored[f"{name}.{end}"] for end in ("weight", "scales", "biases")), group_size=64, bits=4)
    assert (FolderTensors(report.path)[f"{name}.weight"].to_float32() == np.array(wanted)).all()


def test_a_layout_that_fits_no_matrix_is_refused_and_what_stays_unpacked_is_told(
    build_tiny_model: Build, tmp_path: Path
):
    with pytest.raises(ToolkitError, match=r"no matrix .* groups of 128 \(rows of 96, 192\)"):
        export(build_tiny_model(hidden_size=96), tmp_path / "out", "mlx", layout=AffineLayout(4, 128))
    request = ExportRequest(Target("model", "tiny", build_tiny_model(hidden_size=96)), format="mlx")
    plan = folder_export.plan_folder_export(request)
    assert plan.files[0].counts() == {"4-bit": 2, "float32": 24}
    assert isinstance(plan.files[0], folder_plan.FolderPlan)
    assert len(plan.files[0].left) == 13
    assert "groups of 64 do not divide" in plan.advice[0]


def test_threads_and_blocks_make_no_difference_to_a_folder(
    build_tiny_model: Build, adapter_for: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = build_tiny_model(family="llama", tied=False)
    source = open_folder_source("tiny", folder, adapter_for(folder), known_only=True)
    plan = plan_folder(source, "mlx", AffineLayout(4, 32))
    files = set()
    for number, (block, threads) in enumerate(((2**19, 1), (5000, 1), (5000, 4))):
        monkeypatch.setattr(folder_writer, "BLOCK_WEIGHTS", block)
        (tmp_path / str(number)).mkdir()
        write_folder(tmp_path / str(number), source, plan, threads=threads)
        files.add((tmp_path / str(number) / "model.safetensors").read_bytes())
    assert len(files) == 1


@pytest.mark.slow
def test_a_folders_memory_does_not_grow_with_the_model(
    build_tiny_model: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(folder_writer, "BLOCK_WEIGHTS", 8192)

    def peak(layers: int) -> int:
        folder = build_tiny_model(family="llama", hidden_size=256, layers=layers)
        source = open_folder_source("tiny", folder, None)
        place = tmp_path / str(layers)
        place.mkdir()
        plan = plan_folder(source, "safetensors", AffineLayout())
        tracemalloc.start()
        try:
            write_folder(place, source, plan, threads=2)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(8) < peak(1) + 1_000_000  # seven more layers hold 12 MB


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {}


def fault(name: str, gate: str) -> Callable[[Callable[[Path], None]], None]:
    def register(spoil: Callable[[Path], None]) -> None:
        FAULTS[name] = (spoil, gate)

    return register


@fault("a tensor damaged", "weights")
def _damage(folder: Path) -> None:
    entry = FolderTensors(folder).entries["model.layers.1.mlp.down_proj.weight"]
    with entry.path.open("r+b") as file:
        file.seek(entry.offset)
        file.write(np.full(600, 3.0, np.float32).tobytes())


@fault("a file lost", "structure")
def _lose(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


@fault("the chat template changed", "tokenizer")
def _change_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}", "utf-8")


@fault("the rope base changed", "behaviour")
def _change_rope(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["rope_parameters"]["rope_theta"] *= 100
    (folder / "config.json").write_text(json.dumps(config), "utf-8")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if "template" in name else []) for name in FAULTS]
)
def test_a_folder_with_a_fault_is_named_failed_and_so_is_the_gate(
    build_tiny_model: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    spoil, gate = FAULTS[name]
    real = folder_export.write_folder

    def spoiled(folder: Path, *arguments: Any) -> None:
        real(folder, *arguments)
        spoil(folder)

    monkeypatch.setattr(folder_export, "write_folder", spoiled)
    report = export(build_tiny_model(), tmp_path / "out", "safetensors")
    assert report.path.name == "out.failed"
    assert not (tmp_path / "out").exists()
    assert gate in report.failed
    entries = json.loads((report.path / "verification.json").read_text("utf-8"))
    assert gate in [entry["gate"] for entry in entries if not entry["passed"]]


def test_an_adapter_that_was_not_merged_fails_its_gate(
    build_tiny_model: Build, adapter_for: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The weights are read back by the same code, so only the behaviour can tell."""
    from toolkit.quantize.merge import MergedTensors

    monkeypatch.setattr(MergedTensors, "rows", lambda self, name, start, stop: self.stored.rows(name, start, stop))
    folder = build_tiny_model()
    report = export(folder, tmp_path / "out", "safetensors", adapter_for(folder))
    assert report.failed == ("behaviour",)


def test_a_model_too_big_for_memory_is_compared_layer_by_layer(
    build_tiny_model: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from tests.tiny_models import build_lfm2

    folder = build_tiny_model()
    free = folder_proof.psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(folder_proof.psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr(folder_proof, "open_target", None)  # nothing is opened whole
    request = ExportRequest(Target("model", "tiny", folder), out=tmp_path / "out", format="safetensors")
    report = export_model(request, open_reference=lambda: pytest.fail("opened whole"))
    assert report.failed == ()
    assert report.gates[-1].figures["asked"] == "layer by layer"
    with pytest.raises(ToolkitError, match=r"Lfm2ForCausalLM can be verified only where .*--no-verify"):
        export(build_lfm2(tmp_path / "lfm2"), tmp_path / "other", "safetensors")
    assert not (tmp_path / "other").exists()


def test_a_disk_that_fills_up_and_an_interruption_leave_nothing_behind(
    build_tiny_model: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = build_tiny_model()
    for limit in (10, 5_000, 60_000):
        with files_limited_to(limit), pytest.raises(JobFailed, match="cannot write"):
            export(folder, tmp_path / "out", "safetensors", check=False)
        assert list(tmp_path.iterdir()) == []

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(folder_writer, "quantise", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(folder, tmp_path / "out", "mlx", check=False)
    assert list(tmp_path.iterdir()) == []


KILLED_HALF_WAY = """
import os, signal, sys
from pathlib import Path
from toolkit.backends import Target, open_target
from toolkit.quantize import folder_export
from toolkit.quantize.export import export_model
from toolkit.quantize.requests import ExportRequest
def killed(notify, plan):
    return lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done > total / 2 else None
folder_export._progress = killed
export_model(ExportRequest(Target("model", "tiny", Path(sys.argv[1])), out=Path(sys.argv[2]), format="safetensors"))
"""


@pytest.mark.slow
def test_a_killed_export_leaves_no_folder_and_the_next_one_tidies_up(build_tiny_model: Build, tmp_path: Path):
    folder, out = build_tiny_model(), tmp_path / "there" / "out"
    done = subprocess.run([sys.executable, "-c", KILLED_HALF_WAY, folder, out], check=False)
    assert done.returncode == -signal.SIGKILL
    left = os.listdir(out.parent)
    assert len(left) == 1
    assert left[0].startswith(".out.")
    export(folder, out, "safetensors", check=False)
    assert os.listdir(out.parent) == ["out"]


def test_only_what_an_export_wrote_is_replaced_and_only_when_asked(build_tiny_model: Build, tmp_path: Path):
    folder = build_tiny_model()
    out = tmp_path / "out"
    export(folder, out, "safetensors", check=False)
    with pytest.raises(ToolkitError, match="exists already.*--overwrite"):
        export(folder, out, "safetensors", check=False)
    export(folder, out, "mlx", check=False, overwrite=True)
    assert "quantization" in json.loads((out / "config.json").read_text("utf-8"))
    (out / "letter.txt").write_text("precious", "utf-8")
    with pytest.raises(ToolkitError, match="a folder that no export wrote"):
        export(folder, out, "mlx", check=False, overwrite=True)
    assert (out / "letter.txt").read_text("utf-8") == "precious"
    mine = Path(shutil.copytree(folder, tmp_path / "mine"))  # a model that no export wrote
    with pytest.raises(ToolkitError, match="a folder that no export wrote"):
        export(folder, mine, "safetensors", check=False, overwrite=True)
    with pytest.raises(ToolkitError, match="is what is exported"):
        export(mine, tmp_path / "there" / ".." / "mine", "safetensors", check=False, overwrite=True)
    (tmp_path / "empty").mkdir()
    assert export(folder, tmp_path / "empty", "mlx", check=False).path == tmp_path / "empty"


@pytest.mark.slow
def test_an_architecture_that_gguf_does_not_know_is_merged_all_the_same(tmp_path: Path):
    """LFM2's short convolutions have weights of three dimensions; mlx is refused, since nothing could prove it."""
    from tests.tiny_models import build_lfm2

    folder = build_lfm2(tmp_path / "lfm2")
    report = export(folder, tmp_path / "out", "safetensors")
    assert report.failed == ()
    assert np.abs(transformers_logits(report.path, rows()) - transformers_logits(folder, rows())).max() < 1e-5
    with pytest.raises(ToolkitError, match="architecture Lfm2ForCausalLM cannot be exported"):
        export(folder, tmp_path / "mlx", "mlx")


def test_a_weight_that_is_no_number_is_named_and_nothing_is_written(build_tiny_model: Build, tmp_path: Path):
    folder = Path(shutil.copytree(build_tiny_model(), tmp_path / "model"))
    entry = FolderTensors(folder).entries["model.layers.1.mlp.down_proj.weight"]
    with entry.path.open("r+b") as file:
        file.seek(entry.offset)
        file.write(np.array([np.nan], np.float32).tobytes())
    for form in ("safetensors", "mlx"):
        with pytest.raises(JobFailed, match="model.layers.1.mlp.down_proj.weight holds numbers"):
            export(folder, tmp_path / "out" / form, form, check=False)
        assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_the_template_that_was_trained_with_stands_in_the_folder(build_tiny_model: Build, tmp_path: Path):
    """A base without a template is trained with the fallback; transformers must render the same."""
    from transformers import AutoTokenizer

    from toolkit.datasets.tokenizer import Tokenizer

    folder = Path(shutil.copytree(build_tiny_model(family="llama"), tmp_path / "model"))
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    del settings["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    report = export(folder, tmp_path / "out", "safetensors")
    assert report.failed == ()
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    theirs = AutoTokenizer.from_pretrained(report.path).apply_chat_template(messages, tokenize=False)
    assert theirs == Tokenizer.load(folder).render(messages, add_generation_prompt=False)
