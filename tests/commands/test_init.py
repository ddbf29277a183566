"""`toolkit init`: what it writes works as it is, from anywhere, and nothing of the user's is lost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.small_runs import settings, toolkit
from toolkit.config import FinetuneConfig
from toolkit.config_files import load_config, option_paths
from toolkit.datasets.formats import read_examples
from toolkit.new_project.project import project_config
from toolkit.new_project.template import config_template
from toolkit.runs import find_run


def init(*arguments: object) -> str:
    result = toolkit("init", *arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def values(config: FinetuneConfig) -> dict[str, object]:
    found = {}
    for path, _ in option_paths(FinetuneConfig):
        value: object = config
        for name in path.split("."):
            value = getattr(value, name)
        found[path] = value
    return found


def test_what_it_writes_trains_as_it_is_from_the_folder_and_from_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = init("project")
    assert "toolkit finetune --config project/run.yaml --dry-run" in output
    planned = toolkit("finetune", "--config", "project/run.yaml", "--dry-run")
    assert planned.exit_code == 0, planned.stderr
    assert "9 train, 1 validation" in planned.stdout and "left out 0" in planned.stdout
    monkeypatch.chdir(tmp_path / "project")
    trained = toolkit("finetune", "--config", "run.yaml", "--name", "mine", *settings(train__max_steps=2))
    assert trained.exit_code == 0, trained.stderr
    assert find_run("mine").manifest()["final"]["steps"] == 2


def test_the_readme_and_the_output_name_commands_that_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    init()
    readme = Path("README.md").read_text()
    for command in re.findall(r"^toolkit .*$", readme, re.MULTILINE):
        assert toolkit(command.split()[1], "--help").exit_code == 0, command
    assert "toolkit finetune --config run.yaml --dry-run" in readme


def test_the_ten_examples_are_of_several_kinds_and_one_is_a_chat_of_several_turns(tmp_path):
    init(tmp_path)
    examples = read_examples(tmp_path / "data" / "train.jsonl", FinetuneConfig().data)
    assert len(examples) == 10
    assert len({example.messages for example in examples}) == 10
    turns = [[message.role for message in example.messages] for example in examples]
    assert ["system", "user", "assistant", "user", "assistant"] in turns
    assert sum(len(roles) == 2 for roles in turns) > 5


def test_every_option_stands_in_the_config_with_its_docstring_and_its_default(tmp_path):
    text = project_config("nano")
    in_words = " ".join(re.sub(r"^\s*# ", "", text, flags=re.MULTILINE).split())
    for path, info in option_paths(FinetuneConfig):
        assert " ".join(info.description.split()) in in_words, path
    # with every # taken away it is still a config, and what init does not choose is at its default
    opened = tmp_path / "run.yaml"
    opened.write_text(re.sub(r"^(\s*)#(?=\w+:)", r"\1", text, flags=re.MULTILINE))
    assert set(yaml.safe_load(opened.read_text())) == set(FinetuneConfig.model_fields)
    chosen = {"data.path", "data.validation", "train.epochs", "train.batch_size"}
    defaults = values(FinetuneConfig())
    for name, value in values(load_config(FinetuneConfig, opened)).items():
        assert value == defaults[name] or name in chosen, name
    few = [line for line in text.splitlines() if re.match(r"\s*\w+: \S", line)]
    assert 6 <= len(few) <= 14


def test_an_option_that_does_not_exist_cannot_be_chosen():
    with pytest.raises(KeyError, match="train.stepps"):
        config_template(FinetuneConfig, {"train.stepps": 1})


def test_nothing_that_exists_is_overwritten_and_all_of_it_is_named(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("mine\n")
    (tmp_path / "README.md").write_text("mine too\n")
    result = toolkit("init", tmp_path)
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert [line.split(": ")[1] for line in lines] == [f"{tmp_path}/data/train.jsonl", f"{tmp_path}/README.md"]
    assert all("--force" in line for line in lines)
    assert not (tmp_path / "run.yaml").exists()
    (tmp_path / "notes.txt").write_text("kept\n")
    init(tmp_path, "--force")
    assert (tmp_path / "notes.txt").read_text() == "kept\n"
    assert "blue ticket" in (tmp_path / "data" / "train.jsonl").read_text()


def test_a_model_folder_is_written_in_full_and_a_hub_name_as_it_is(tmp_path, tiny_qwen2, monkeypatch):
    monkeypatch.chdir(tiny_qwen2.parent)
    init(tmp_path / "one", "--model", f"./{tiny_qwen2.name}")
    monkeypatch.chdir(tmp_path)
    assert load_config(FinetuneConfig, Path("one/run.yaml")).model == str(tiny_qwen2)
    init(tmp_path / "two", "--model", "Qwen/Qwen2.5-Coder-7B-Instruct")
    assert load_config(FinetuneConfig, Path("two/run.yaml")).model == "Qwen/Qwen2.5-Coder-7B-Instruct"
    result = toolkit("init", tmp_path / "three", "--model", "./none")
    assert result.exit_code == 2 and "./none: no such model folder" in result.stderr
    assert not (tmp_path / "three").exists()


def test_a_folder_that_is_a_file_or_cannot_be_written_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for place, code in ((tmp_path / "file", 2), (Path("/proc/none"), 1)):
        result = toolkit("init", place)
        assert result.exit_code == code, result.stderr
        assert len(result.stderr.splitlines()) == 1
