"""`toolkit serve`: what is served, where, and that OpenAI's own client gets the answers that `toolkit chat` gives."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest

from tests.small_runs import toolkit
from toolkit.backends import Target
from toolkit.commands.serve import good_exports, served_file
from toolkit.errors import ToolkitError
from toolkit.quantize.export import ExportRequest, export_model

QUESTION = "What is 12 plus 30?"


@pytest.fixture(scope="module")
def nano_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from toolkit.models import NANO_FOLDER

    folder = tmp_path_factory.mktemp("served")
    return export_model(ExportRequest(Target("model", "nano", NANO_FOLDER), "Q8_0", folder, check=False)).path


@pytest.fixture(params=["gguf", "torch", "mlx"])
def server(request: pytest.FixtureRequest, nano_gguf: Path) -> Iterator[tuple[str, list[str]]]:
    """A running `toolkit serve`: (its address, the arguments by which `toolkit chat` asks the same)."""
    target = [str(nano_gguf)] if request.param == "gguf" else ["nano", "--backend", request.param]
    command = [sys.executable, "-m", "toolkit", "serve", *target, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    address = process.stdout.readline().strip()
    try:
        assert address, process.stderr.read()
        yield address, target
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(60)
        errors = process.stderr.read()
    assert code == 0 and errors.endswith("ended\n"), errors


def test_openais_client_gets_the_answer_that_chat_gives(server: tuple[str, list[str]]) -> None:
    address, target = server
    expected = toolkit("chat", *target, "--prompt", QUESTION).stdout.strip()
    client = openai.OpenAI(base_url=address, api_key="anything", max_retries=5)
    asked = {"model": "m", "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 64}
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].message.content == expected and whole.choices[0].finish_reason == "stop"
    streamed = list(client.chat.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == expected
    assert streamed[-1].choices[0].finish_reason == "stop"
    cut = client.chat.completions.create(**asked, stop=expected[5:8])
    assert cut.choices[0].message.content == expected[: expected.find(expected[5:8])]
    assert len(client.models.list().data) == 1
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        assert httpx2.get(f"{address}/models", headers=headers).status_code == 403


def test_a_port_in_use_is_said_before_the_model_is_loaded() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = toolkit("serve", "nano", "--port", port)
    assert result.exit_code == 2
    assert f"port {port} cannot be used" in result.stderr and "--port 0" in result.stderr


def test_a_context_for_trained_weights_is_refused() -> None:
    result = toolkit("serve", "nano", "--context", 512)
    assert result.exit_code == 2 and "--context applies to a .gguf" in result.stderr


def test_a_file_that_is_no_gguf_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"nonsense")
    result = toolkit("serve", tmp_path / "bad.gguf", "--port", 0)
    assert result.exit_code == 2 and "bad.gguf: not a GGUF file" in result.stderr


def test_a_run_serves_its_newest_export_that_passed_every_gate(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    entries = []
    for age, (name, passed) in enumerate([("old.gguf", True), ("new.gguf", True), ("worse.gguf", False)]):
        (folder / name).write_bytes(b"GGUF")
        os.utime(folder / name, (1000 + age, 1000 + age))
        entries += [{"file": name, "gate": "structure", "passed": True}, {"file": name, "gate": "kl", "passed": passed}]
    entries.append({"file": "gone.gguf", "gate": "structure", "passed": True})
    (folder / "verification.json").write_text(json.dumps(entries))
    assert [file.name for file in good_exports(tmp_path)] == ["old.gguf", "new.gguf"]
    run = Target("run", "mine", tmp_path, run_folder=tmp_path)
    assert served_file(run, "auto") == folder / "new.gguf" == served_file(run, "gguf")
    assert served_file(run, "trained") is None
    (folder / "verification.json").unlink()
    assert served_file(run, "auto") is None
    with pytest.raises(ToolkitError, match="toolkit export mine"):
        served_file(run, "gguf")
