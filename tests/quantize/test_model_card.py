"""What an export says of itself: the card beside it, and the keys inside a GGUF file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.small_runs import settings, toolkit, write_questions
from toolkit import __version__
from toolkit.backends import Target
from toolkit.gguf_backend.weights import metadata_value, open_gguf
from toolkit.models import NANO_FOLDER
from toolkit.quantize.companions import summaries
from toolkit.quantize.export import export_model
from toolkit.quantize.model_card import card_text
from toolkit.quantize.origin import Origin, licence_of, model_name, origin_of
from toolkit.quantize.places import MARK
from toolkit.quantize.requests import ExportRequest
from toolkit.quantize.usage import ollama_name
from toolkit.runs import RunFolder, find_run

Build = Callable[..., Path]


def front_of(card: str) -> dict[str, object]:
    return yaml.safe_load(card.split("---\n")[1])


def test_a_runs_export_names_base_licence_data_and_training_in_the_file_and_on_the_card(
    build_tiny_model: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    model = Path(shutil.copytree(build_tiny_model(), tmp_path / "small"))
    (model / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# small\n", "utf-8")
    data = write_questions(tmp_path / "sums.jsonl")
    short = settings(train__max_steps=2, train__batch_size=4, train__device="cpu", backend="torch")
    result = toolkit("finetune", "--name", "mine", "--model", model, "--data", data, *short)
    assert result.exit_code == 0, result.stderr
    result = toolkit("export", "mine", "--quant", "F16")
    assert result.exit_code == 0, result.stderr
    run = find_run("mine")
    file = open_gguf(run.export / "mine-F16.gguf")
    for key, value in {
        "name": "mine",
        "license": "cc-by-4.0",
        "base_model.count": 1,
        "base_model.0.name": "small",
        "dataset.count": 1,
        "dataset.0.name": "sums.jsonl",
        "exported_by": f"local-training-toolkit {__version__}",
        "description": "small, fine-tuned with LoRA",
    }.items():
        assert metadata_value(file, f"general.{key}") == value
    card = (run.export / "mine.md").read_text("utf-8")
    assert front_of(card)["license"] == "cc-by-4.0"
    for words in (
        "small fine-tuned with LoRA, exported as GGUF for llama.cpp, Ollama, LM Studio. Trained on sums.jsonl.",
        "Its adapter is merged into the full-precision base.",
        "| steps | 2 |",
        "| lora rank | 16 |",
        "| mine-F16.gguf | 6 passed | 16.0",
        "llama-cli -m mine-F16.gguf -cnv",
        "ollama create mine -f Modelfile && ollama run mine",
        "lms import mine-F16.gguf",
    ):
        assert words in card
    # Nobody else is helped by this machine's folders.
    assert str(tmp_path) not in card
    assert "<td>mine-F16.gguf</td>" in (run.path / "report.html").read_text("utf-8")


def test_a_hub_models_own_name_is_told_not_its_caches_folder(tmp_path: Path):
    folder = tmp_path / "models--Qwen--Qwen2.5-0.5B" / "snapshots" / "0a1b2c3d"
    folder.mkdir(parents=True)
    assert model_name(folder) == "Qwen/Qwen2.5-0.5B"
    assert model_name(NANO_FOLDER) == "nano"
    assert model_name(tmp_path) == tmp_path.name
    notes = Origin("mine", base="Qwen/Qwen2.5-0.5B", method="qlora", datasets=("openai/gsm8k", "mine.jsonl")).notes()
    assert notes == {
        "base_model.0.name": "Qwen/Qwen2.5-0.5B",
        "base_model.0.organization": "Qwen",
        "base_model.0.repo_url": "https://huggingface.co/Qwen/Qwen2.5-0.5B",
        "dataset.0.name": "openai/gsm8k",
        "dataset.0.organization": "openai",
        "dataset.0.repo_url": "https://huggingface.co/datasets/openai/gsm8k",
        "dataset.1.name": "mine.jsonl",
        "description": "Qwen/Qwen2.5-0.5B, fine-tuned with QLoRA",
    }
    card = card_text(
        Origin("mine", **{"base": "Qwen/Qwen2.5-0.5B", "datasets": ("a/b", "c")}), "mlx", Path("m"), {}, ()
    )
    assert front_of(card)["base_model"] == "Qwen/Qwen2.5-0.5B"
    assert front_of(card)["datasets"] == ["a/b"]
    assert "Not verified" in card
    assert "A language model trained from scratch, exported" in card_text(
        Origin("mine", method="pretrain"), "gguf", Path("m.gguf"), {}, ()
    )


def test_the_licence_is_the_cards_or_else_that_of_the_licence_file(tmp_path: Path):
    assert licence_of(tmp_path) == ""
    (tmp_path / "LICENSE").write_text("A licence of our own\n", "utf-8")
    assert licence_of(tmp_path) == "other"
    (tmp_path / "LICENSE").write_text("\n    Apache License\n    Version 2.0, January 2004\n", "utf-8")
    assert licence_of(tmp_path) == "apache-2.0"
    (tmp_path / "README.md").write_text("---\nlicense: mit\ntags: [a]\n---\n", "utf-8")
    assert licence_of(tmp_path) == "mit"
    assert licence_of(NANO_FOLDER) == "apache-2.0"
    assert origin_of(Target("model", "nano", NANO_FOLDER)) == Origin("nano", licence="apache-2.0")


def test_a_model_that_was_trained_in_full_has_its_bases_name_and_licence(build_tiny_model: Build, tmp_path: Path):
    base = tmp_path / "somewhere" / "small"
    base.mkdir(parents=True)
    (base / "LICENSE").write_text("MIT License\n", "utf-8")
    run = RunFolder(tmp_path / "mine")
    run.path.mkdir()
    held = {"model": str(base), "model_folder": str(base), "method": "full", "data": "owner/data@main:part", "seed": 3}
    run.update_manifest(held)
    origin = origin_of(Target("run", "mine", build_tiny_model(), run_folder=run.path))
    assert (origin.base, origin.licence, origin.method, origin.merged) == ("small", "mit", "full", "")
    assert origin.datasets == ("owner/data",)
    assert origin.training == {"seed": 3}


def test_a_card_that_somebody_wrote_is_left_alone(build_tiny_model: Build, tmp_path: Path):
    request = ExportRequest(Target("model", "tiny", build_tiny_model()), "F16", tmp_path, check=False, overwrite=True)
    export_model(request)
    card = tmp_path / "tiny.md"
    assert MARK in card.read_text("utf-8")
    card.write_text("my notes", "utf-8")
    export_model(request)
    assert card.read_text("utf-8") == "my notes"


@pytest.mark.slow
def test_a_card_lists_every_file_of_the_model_that_is_there(build_tiny_model: Build, tmp_path: Path):
    target = Target("model", "tiny", build_tiny_model())
    for quant in ("F16", "Q8_0"):
        export_model(ExportRequest(target, quant, tmp_path))
    record = tmp_path / "verification.json"
    gone = json.loads(record.read_text("utf-8"))
    record.write_text(json.dumps([*gone, {**gone[0], "file": "tiny-Q2_K.gguf"}]), "utf-8")
    export_model(ExportRequest(target, "F16", tmp_path, overwrite=True))
    rows = [line for line in (tmp_path / "tiny.md").read_text("utf-8").splitlines() if line.startswith("| tiny")]
    assert [row.split(" | ")[:2] for row in rows] == [["| tiny-Q8_0.gguf", "6 passed"], ["| tiny-F16.gguf", "6 passed"]]


def test_failed_gates_are_summed_up_by_name():
    rows = [{"file": "a", "gate": gate, "passed": gate != "chat", "figures": {"mean_kl": 1}} for gate in ("chat", "x")]
    assert summaries(rows) == {"a": {"gates": 2, "failed": ["chat"]}}


def test_names_are_spelt_as_ollama_allows():
    assert ollama_name("My Model (v2)") == "my-model-v2"
    assert ollama_name("…") == "model"
