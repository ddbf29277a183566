"""The table of messages: each bad request is one clear line on stderr and an exit code, never a traceback."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.small_runs import settings, toolkit, write_questions
from toolkit.runs import create_run, runs_root


def refused(*arguments: object, code: int = 2) -> str:
    """Run a command that must fail in one line; return the line."""
    result = toolkit(*arguments)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.exit_code == code, result.stderr
    assert len(errors) == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    return errors[0].removeprefix("error: ")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_questions(tmp_path / "data.jsonl")


def test_a_missing_model(data: Path) -> None:
    assert refused("finetune", "--model", "nobody/nothing", "--data", data) == (
        "nobody/nothing: no such model: no folder of this name, and the Hugging Face hub has none or cannot be "
        "reached. Give a folder, a Hugging Face hub name, or nano"
    )
    assert refused("finetune", "--model", "./nothing", "--data", data) == (
        "./nothing: no such model folder. Give a folder, a Hugging Face hub name, or nano"
    )


def test_a_folder_without_config_json(tmp_path: Path, data: Path) -> None:
    (tmp_path / "model").mkdir()
    assert refused("finetune", "--model", tmp_path / "model", "--data", data) == (
        f"{tmp_path}/model: no config.json here, so this is not a model folder"
    )


def test_an_architecture_that_does_not_generate_text(tiny_qwen2: Path, tmp_path: Path, data: Path) -> None:
    shutil.copytree(tiny_qwen2, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    assert refused("finetune", "--model", tmp_path / "model", "--data", data) == (
        f"{tmp_path}/model/config.json: the architecture BertModel does not generate text; "
        "a …ForCausalLM model is needed"
    )


def test_an_empty_dataset(tiny_qwen2: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    line = refused("finetune", "--model", tiny_qwen2, "--data", tmp_path / "empty.jsonl")
    assert line == f"{tmp_path}/empty.jsonl: the file holds no examples"


def test_a_dataset_that_is_not_there(tiny_qwen2: Path, tmp_path: Path) -> None:
    line = refused("finetune", "--model", tiny_qwen2, "--data", tmp_path / "none.jsonl")
    assert line.startswith(f"data.path: {tmp_path}/none.jsonl: no such file or folder")


def test_invalid_json(tiny_qwen2: Path, data: Path) -> None:
    with data.open("a") as file:
        file.write('{"instruction": "x", "output"\n')
    line = refused("finetune", "--model", tiny_qwen2, "--data", data)
    assert line.startswith(f"{data}:25: ") and "JSON" in line


def test_an_example_with_no_assistant_turn(tiny_qwen2: Path, data: Path) -> None:
    with data.open("a") as file:
        file.write(json.dumps({"messages": [{"role": "user", "content": "Hello?"}]}) + "\n")
    line = refused("finetune", "--model", tiny_qwen2, "--data", data, *settings(data__validation=0))
    assert line.startswith(f"{data}:25: ") and "assistant" in line


def test_an_unknown_config_key(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("train:\n  learning_rte: 1e-4\n")
    assert refused("finetune", "--config", tmp_path / "run.yaml") == (
        f"{tmp_path}/run.yaml:2: unknown key train.learning_rte. Did you mean train.learning_rate?"
    )


def test_a_yaml_value_of_the_wrong_type(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("train:\n  max_steps: many\n")
    assert refused("finetune", "--config", tmp_path / "run.yaml") == (
        f"{tmp_path}/run.yaml:2: train.max_steps is 'many'; expected a whole number above 0 or null"
    )


def test_an_unknown_backend() -> None:
    assert (
        refused("finetune", "--backend", "jax") == "--backend jax: backend is 'jax'; expected one of auto, mlx, torch"
    )


def test_a_backend_that_is_not_installed(tiny_qwen2: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "toolkit.torch_backend.session", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    line = refused("finetune", "--model", tiny_qwen2, "--data", data)
    assert "torch" in line and "not installed" in line and "pip install" in line


def test_a_run_name_that_exists(tiny_qwen2: Path, data: Path) -> None:
    create_run("mine", "m", "d").update_manifest({"status": "finished"})
    assert refused("finetune", "--model", tiny_qwen2, "--data", data, "--name", "mine") == (
        f"{runs_root()}/mine: a run of this name exists. "
        "Choose another name, go on with it (--resume mine) or replace it (--overwrite)"
    )


def test_a_full_disk_ends_the_job_with_exit_code_1_and_the_last_good_checkpoint_named(
    tiny_qwen2: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import toolkit.checkpoints as checkpoints

    real, calls = checkpoints.write_tensors, []

    def fill_up(path: Path, *rest: object) -> None:
        calls.append(path)
        if len(calls) > 1:  # the moments: the first checkpoint fits, the second does not
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoints, "write_tensors", fill_up)
    line = refused(
        *("finetune", "--model", tiny_qwen2, "--data", data, "--name", "full"),
        *settings(train__max_steps=4, train__save_every=2, train__eval_every=4),
        code=1,
    )
    run = runs_root() / "full"
    assert line == (
        f"{run}/checkpoints/step-000004: the disk is full, nothing was written. Free some space and try again. "
        "The last good checkpoint is step-000002; go on with: toolkit finetune --resume full"
    )
    assert os.listdir(run / "checkpoints") == ["step-000002"]
    assert json.loads((run / "manifest.json").read_text())["status"] == "failed"
    monkeypatch.undo()
    monkeypatch.setenv("TOOLKIT_RUNS_DIR", str(run.parent))
    assert toolkit("finetune", "--resume", "full").exit_code == 0
    assert (run / "adapter" / "adapter_model.safetensors").is_file()


def test_nothing_is_created_by_a_bad_request(tiny_qwen2: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    refused("finetune", "--model", tiny_qwen2, "--data", tmp_path / "empty.jsonl", "--name", "x")
    assert not runs_root().exists()


def test_a_length_beyond_the_models_context(tiny_qwen2: Path, data: Path) -> None:
    line = refused("finetune", "--model", tiny_qwen2, "--data", data, *settings(data__max_seq_tokens=300))
    assert line.startswith("data.max_seq_tokens is 300, but ") and line.endswith("Try: --set data.max_seq_tokens=256")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--resume", "none"), "none: no such run in "),
        (("--resume", "none", "--name", "x"), "--name cannot be combined with --resume"),
        (
            ("--resume", "none", "--config", "x.yaml", "--dry-run"),
            "--config, --dry-run cannot be combined with --resume",
        ),
    ],
)
def test_a_resume_that_cannot_be(arguments: tuple[str, ...], message: str) -> None:
    assert refused("finetune", *arguments).startswith(message)


def test_an_architecture_that_does_not_fit_together_is_refused_before_the_corpus_is_read() -> None:
    result = toolkit(
        "pretrain",
        *settings(architecture__hidden_size=250, architecture__kv_heads=3, row_tokens=9999),
        "--corpus",
        "none",
    )
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "error: architecture.hidden_size: 250 does not divide into 4 heads of an even width",
        "error: architecture.kv_heads: 3 does not divide 4 heads",
        "error: row_tokens: 9999 is more than the context of 1024 tokens. "
        "Raise architecture.context or lower row_tokens",
    ]
    assert not runs_root().exists()
