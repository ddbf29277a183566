from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.config import FinetuneConfig, PretrainConfig, SizeFacts, resolve
from toolkit.config_files import config_text, load_config, save_config
from toolkit.errors import ToolkitError


def complaints(path: Path | None = None, overrides: tuple[str, ...] = (), flags: dict | None = None) -> list[str]:
    with pytest.raises(ToolkitError) as caught:
        load_config(FinetuneConfig, path, overrides, flags)
    place = f"{path.parent}/" if path else ""
    return [str(problem).replace(place, "") for problem in caught.value.problems]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_mistake_in_a_file_is_reported_at_once_with_its_line(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "model: nano\n"
        "methd: lora\n"
        "data:\n"
        "  path: 12\n"
        "  validation: true\n"
        "train:\n"
        '  max_steps: "200"\n'
        "  batch_size: 0\n"
        "  schedule: cosin\n"
        "  seed: 1\n"
        "  seed: 2\n"
        "lora: 5\n"
        "learning_rate: 3\n",
    )
    assert complaints(path) == [
        "run.yaml:2: unknown key methd. Did you mean method?",
        "run.yaml:11: train.seed is given twice (first on line 10)",
        "run.yaml:12: lora is a section: expected keys below it, such as rank",
        "run.yaml:13: unknown key learning_rate. Did you mean train.learning_rate?",
        "run.yaml:4: data.path is 12; expected text",
        "run.yaml:5: data.validation is True; expected text or a number from 0 below 1",
        "run.yaml:7: train.max_steps is '200'; expected a whole number above 0 or null",
        "run.yaml:8: train.batch_size is 0; expected a whole number above 0",
        "run.yaml:9: train.schedule is 'cosin'; expected one of constant, linear, cosine, cosine_restarts, wsd",
    ]


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("train.max_step=3", "unknown key train.max_step. Did you mean train.max_steps?"),
        ("max_steps=3", "unknown key max_steps. Did you mean train.max_steps?"),
        ("zzzz=3", "unknown key zzzz. Known keys: model, method, backend, data, adapter, lora, base, train"),
        ("base.bits=5", "base.bits is 5; expected one of 4, 8 or null"),
        ("base.layout=nf5", "base.layout is 'nf5'; expected one of auto, affine, nf4"),
        ("lora=4", "lora is a section: set a key in it, such as lora.rank"),
        ("train.max_steps", "expected key=value. For example: --set train.max_steps=200"),
        ("train.max_steps=1.5", "train.max_steps is 1.5; expected a whole number above 0 or null"),
        ("train.learning_rate=.nan", "train.learning_rate is nan; expected a number above 0 or null"),
        ("lora.dropout=1", "lora.dropout is 1; expected a number from 0 below 1"),
        ("lora.target_modules=q_proj", "lora.target_modules is 'q_proj'; expected a list of text or null"),
        ("train.gradient_checkpointing=yes", "train.gradient_checkpointing is 'yes'; expected true or false or null"),
    ],
)
def test_set_is_checked_like_a_file(override: str, complaint: str) -> None:
    assert complaints(overrides=(override,)) == [f"--set {override}: {complaint}"]


def test_a_flag_is_checked_like_a_file() -> None:
    assert complaints(flags={"backend": "tensorflow", "data.path": "x"}) == [
        "--backend tensorflow: backend is 'tensorflow'; expected one of auto, mlx, torch"
    ]


def test_numbers_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    path = write(
        tmp_path, "train: {learning_rate: 1e-4, warmup: 10, beta2: .95, seed: 0x10}\ndata: {system: on, prompt: no}\n"
    )
    config = load_config(FinetuneConfig, path)
    assert config.train.learning_rate == 1e-4
    assert config.train.warmup == 10.0
    assert config.train.beta2 == 0.95
    assert config.train.seed == 16
    assert (config.data.system, config.data.prompt) == ("on", "no")


def test_flags_win_over_set_over_file_over_recipe_over_defaults(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: a\nmethod: full\ntrain: {seed: 1, batch_size: 2, accumulation: 3}\n")
    path = write(tmp_path, "model: b\ntrain: {seed: 4, batch_size: 5}\n")
    config = load_config(FinetuneConfig, path, ["train.seed=6", "model=c"], {"model": "d", "method": None}, base=recipe)
    assert (config.model, config.method) == ("d", "full")
    assert (config.train.seed, config.train.batch_size, config.train.accumulation) == (6, 5, 3)
    assert config.train.schedule == "cosine"


def test_epochs_and_max_steps_exclude_each_other_and_the_later_layer_wins(tmp_path: Path) -> None:
    path = write(tmp_path, "train:\n  max_steps: 5\n")
    config = load_config(FinetuneConfig, path, ["train.epochs=2"])
    assert (config.train.max_steps, config.train.epochs) == (None, 2.0)
    both = write(tmp_path, "train:\n  max_steps: 5\n  epochs: 2\n")
    assert complaints(both) == ["run.yaml:3: give train.max_steps or train.epochs, not both"]


def test_text_options_take_what_follows_the_equals_sign_as_it_stands() -> None:
    config = load_config(
        FinetuneConfig, None, ["data.system=Answer: briefly, [please] = yes", "data.path=001", "data.validation=0.2"]
    )
    assert config.data.system == "Answer: briefly, [please] = yes"
    assert config.data.path == "001"
    assert config.data.validation == 0.2
    assert load_config(FinetuneConfig, None, ["data.validation=held out.jsonl"]).data.validation == "held out.jsonl"
    assert load_config(FinetuneConfig, None, ["data.prompt=null"]).data.prompt is None


def test_lists_are_given_in_yaml() -> None:
    config = load_config(FinetuneConfig, None, ["lora.target_modules=[q_proj, v_proj]"])
    assert config.lora.target_modules == ("q_proj", "v_proj")


@pytest.mark.parametrize(
    "system",
    ["1e-4", "true", "on", "null", "~", "0x1F", "- x", "a: b", "", "12:30:00", "Grüße\nund\n", "#", "=", "1_0"],
)
def test_a_saved_config_reads_back_equal_whatever_the_text(tmp_path: Path, system: str) -> None:
    config = FinetuneConfig.model_validate({"data": {"system": system}, "train": {"learning_rate": 1e-5}})
    resolved = resolve(config, SizeFacts(5_000_000, 512, ("q_proj", "v_proj")), 11)
    save_config(resolved, tmp_path / "config.yaml")
    assert load_config(FinetuneConfig, tmp_path / "config.yaml") == resolved


def test_a_pretraining_config_reads_back_equal(tmp_path: Path) -> None:
    config = load_config(PretrainConfig, None, ["architecture.layers=3", "tokenizer.vocab_size=999", "corpus=a b.txt"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(PretrainConfig, tmp_path / "config.yaml") == config
    assert "architecture:" in config_text(config)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("train: [", "run.yaml:2: invalid YAML: expected the node content, but found '<stream end>'"),
        ("- a\n", "run.yaml:1: expected `key: value` lines"),
        ("model: 'x\n", "run.yaml:2: invalid YAML: found unexpected end of stream"),
    ],
)
def test_a_file_that_is_not_yaml_is_refused_by_line(tmp_path: Path, text: str, complaint: str) -> None:
    assert [
        line.replace("run.yaml:1: invalid", "run.yaml:2: invalid") for line in complaints(write(tmp_path, text))
    ] == [complaint]


def test_a_missing_or_binary_file_is_refused_by_name(tmp_path: Path) -> None:
    (line,) = complaints(tmp_path / "none.yaml")
    assert line.startswith("none.yaml: no such config file, and no recipe of this name. ")
    (tmp_path / "folder").mkdir()
    assert complaints(tmp_path / "folder") == ["folder: cannot read the config: Is a directory"]
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    assert complaints(tmp_path / "bad.yaml") == ["bad.yaml: the config is not UTF-8 text"]


def test_an_empty_file_and_an_empty_section_mean_the_defaults(tmp_path: Path) -> None:
    assert load_config(FinetuneConfig, write(tmp_path, "")) == FinetuneConfig()
    assert load_config(FinetuneConfig, write(tmp_path, "train:\nlora: {}\n")) == FinetuneConfig()


def test_a_recipe_is_taken_by_its_name_and_a_file_of_that_name_goes_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(FinetuneConfig, "nano-demo").train.max_steps == 400
    assert load_config(FinetuneConfig, Path("nano-demo.yaml")).train.max_steps == 400
    assert load_config(PretrainConfig, "nano-pretrain").train.max_steps == 6000
    Path("nano-demo").write_text("train: {max_steps: 3}\n")
    assert load_config(FinetuneConfig, "nano-demo").train.max_steps == 3


def test_a_recipe_that_does_not_exist_is_refused_with_the_nearest_and_all_that_do(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError) as caught:
        load_config(FinetuneConfig, "nano-dem")
    (problem,) = caught.value.problems
    assert "Did you mean nano-demo? Recipes for toolkit finetune: " in problem.hint
    assert "nano-pretrain" not in problem.hint
    with pytest.raises(ToolkitError, match="Recipes for toolkit pretrain: nano-pretrain"):
        load_config(PretrainConfig, "nano-demo")


def test_a_relative_path_is_looked_for_beside_the_config_first_then_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("project/model").mkdir(parents=True)
    Path("project/here.jsonl").touch()
    Path("here.jsonl").touch()
    Path("valid.jsonl").touch()
    path = Path("project/run.yaml")
    path.write_text("model: model\ndata: {path: here.jsonl, validation: valid.jsonl}\n")
    config = load_config(FinetuneConfig, path)
    assert config.model == "project/model"
    assert config.data.path == "project/here.jsonl"
    assert config.data.validation == "valid.jsonl"
    # what is typed is meant from where it is typed
    assert load_config(FinetuneConfig, path, (), {"data.path": "here.jsonl"}).data.path == "here.jsonl"
    assert load_config(FinetuneConfig, path, ("data.path=here.jsonl",)).data.path == "here.jsonl"
    monkeypatch.chdir("project")
    assert load_config(FinetuneConfig, Path("run.yaml")).data.path == "here.jsonl"


def test_names_that_are_no_paths_and_a_run_s_own_config_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("nano", "starter", "model"):
        Path("run", name).mkdir(parents=True)
    path = Path("run/config.yaml")
    path.write_text("model: nano\ndata: {path: starter}\n")
    assert load_config(FinetuneConfig, path) == FinetuneConfig()
    path.write_text("model: model\n")
    Path("run/manifest.json").touch()
    assert load_config(FinetuneConfig, path).model == "model"
