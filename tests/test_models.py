from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from toolkit.errors import JobFailed, ToolkitError
from toolkit.models import find_model, read_model
from toolkit.tensor_files import read_tensors


def complaints(name: str) -> list[str]:
    with pytest.raises(ToolkitError) as caught:
        find_model(name)
    return [str(problem) for problem in caught.value.problems]


def test_a_folder_tells_its_facts_without_a_framework(tiny_qwen2: Path) -> None:
    facts = find_model(str(tiny_qwen2))
    assert facts.architecture == "Qwen2ForCausalLM"
    assert facts.context == 256
    assert facts.vocab_size == 448
    assert facts.dtype == "float32"
    assert facts.linear_modules == ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
    stored = read_tensors(tiny_qwen2 / "model.safetensors")
    assert facts.parameter_count == sum(int(np.prod(entry.shape)) for entry in stored.entries.values())


def test_the_hash_of_a_model_changes_with_any_weight_and_with_its_config(tiny_qwen2: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_qwen2, copy)
    before = read_model(tiny_qwen2).sha256()
    assert read_model(copy).sha256() == before
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert read_model(copy).sha256() != before


def test_a_name_that_is_nowhere_says_both_places_that_were_looked_at() -> None:
    (line,) = complaints("nobody/no-such-model")
    assert line == (
        "nobody/no-such-model: no such model: no folder of this name, and the Hugging Face hub has none or cannot be "
        "reached. Give a folder, a Hugging Face hub name, or nano"
    )
    assert complaints("nanno")[0].endswith("Did you mean nano?")


@pytest.mark.parametrize("name", ["./missing", "/no/such/folder", "a/b/c", "not a name!"])
def test_what_can_only_be_a_path_or_nothing_is_refused_without_asking_the_hub(name: str) -> None:
    (line,) = complaints(name)
    assert line.startswith(f"{name}: no such model")


def test_every_missing_file_of_a_model_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    lines = complaints(str(tmp_path))
    assert [line.removeprefix(f"{tmp_path}") for line in lines] == [
        ": no tokenizer.json here. Save it with a fast tokenizer: AutoTokenizer.from_pretrained(…).save_pretrained(…)",
        ": no weights here (neither model.safetensors nor model.safetensors.index.json). Download the model again",
        "/config.json: the architecture BertModel does not generate text; a …ForCausalLM model is needed",
    ]


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    (line,) = complaints(str(tmp_path))
    assert line.endswith("Only pickled weights are here: save the model as safetensors")


def test_an_adapter_a_gguf_and_an_empty_folder_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert complaints(str(tmp_path / "empty")) == [
        f"{tmp_path}/empty: no config.json here, so this is not a model folder"
    ]
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    assert "give the model that it was trained on" in complaints(str(tmp_path / "adapter"))[0]
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert "can be talked to (toolkit chat) but not trained" in complaints(str(tmp_path / "model.gguf"))[0]


def test_a_hub_name_is_downloaded_without_pickles_or_code(tiny_qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = {}

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.update(name=name, patterns=allow_patterns)
        return str(tiny_qwen2)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    facts = find_model("Qwen/Qwen2.5-Coder-7B-Instruct")
    assert asked["name"] == "Qwen/Qwen2.5-Coder-7B-Instruct"
    assert not any(
        pattern.endswith((".bin", ".pt", ".py", "*")) for pattern in asked["patterns"] if pattern != "LICENSE*"
    )
    assert (facts.label, facts.folder) == ("Qwen2.5-Coder-7B-Instruct", tiny_qwen2)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ConnectionError("no route"), ToolkitError, "the Hugging Face hub has none or cannot be reached"),
        (OSError(errno.ENOSPC, "full"), JobFailed, "the disk is full"),
    ],
)
def test_a_download_that_fails_says_why(
    monkeypatch: pytest.MonkeyPatch, error: OSError, kind: type[ToolkitError], message: str
) -> None:
    import huggingface_hub

    def download(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(kind, match=message) as caught:
        find_model("some/model")
    assert type(caught.value) is kind


def test_a_broken_config_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    assert complaints(str(tmp_path))[0].startswith(f"{tmp_path}/config.json: invalid JSON")


def test_sentencepieces_tokenizer_model_will_do_for_a_tokenizer(tiny_qwen2: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_qwen2, tmp_path / "model"))
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    assert read_model(folder).architecture == "Qwen2ForCausalLM"
