from __future__ import annotations

import ast
from pathlib import Path

import pytest
from pydantic import BaseModel

import toolkit
from toolkit.config import (
    FinetuneConfig,
    PretrainConfig,
    SizeFacts,
    default_learning_rate,
    resolve,
    resolve_model_defaults,
    resolve_steps,
)
from toolkit.config_files import option_paths
from toolkit.errors import ToolkitError

TINY = SizeFacts(parameter_count=5_000_000, context=1024, linear_modules=("down_proj", "q_proj"))
SEVEN_BILLION = SizeFacts(parameter_count=7_600_000_000, context=32_768, linear_modules=("q_proj",))

# What a section is called where it is read: `config.train.seed`, `train.seed`, `shape.layers`, …
READ_AS = {
    "": {"config"},
    "data": {"data"},
    "lora": {"lora"},
    "base": {"base"},
    "train": {"train", "config"},  # the loop calls its TrainConfig `config`
    "architecture": {"shape"},
    "tokenizer": {"tokenizer"},
}
# The only choice so far, so nothing has to ask: `tokenizer.pre_tokenizer: qwen2`.
SINGLE_CHOICE = {"tokenizer.pre_tokenizer"}
# `resolve_steps` turns it into `max_steps` (test_steps_are_updates_counted_from_epochs_and_rounded_up).
CONSUMED_BY_RESOLVE = {"train.epochs"}


def attributes_read() -> set[tuple[str, str]]:
    """Return every (name in front, attribute) that is read anywhere in the package outside config.py."""
    found = set()
    for path in Path(toolkit.__file__).parent.rglob("*.py"):
        if path.name in ("config.py", "config_files.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute):
                front = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
                found.add((front, node.attr))
    return found


@pytest.mark.parametrize("model", [FinetuneConfig, PretrainConfig])
def test_every_option_is_read_by_something(model: type[BaseModel]) -> None:
    read = attributes_read()
    unread = []
    for path, info in option_paths(model):
        section, _, name = path.rpartition(".")
        if path in SINGLE_CHOICE:
            assert len(info.annotation.__args__) == 1, f"{path} has choices now: read it"  # type: ignore[union-attr]
        elif path not in CONSUMED_BY_RESOLVE and not any((front, name) in read for front in READ_AS[section]):
            unread.append(path)
    assert unread == []


@pytest.mark.parametrize("model", [FinetuneConfig, PretrainConfig])
def test_every_option_is_documented(model: type[BaseModel]) -> None:
    for path, info in option_paths(model):
        assert info.description and info.description.rstrip().endswith((".", ")")), path


@pytest.mark.parametrize("facts", [TINY, SEVEN_BILLION])
@pytest.mark.parametrize("config", [FinetuneConfig(), PretrainConfig()])
def test_a_resolved_config_has_no_open_default_left(config: FinetuneConfig | PretrainConfig, facts: SizeFacts) -> None:
    resolved = resolve(config, facts, updates_per_epoch=100)
    optional = {
        "adapter",
        "train.epochs",
        "data.prompt",
        "data.completion",
        "data.input",
        "data.system",
        "data.max_examples",
    }
    optional |= {"base.bits", "base.group_size"}  # a job fills them for qlora (tests/jobs/test_quantised_base.py)
    optional |= {"data.messages", "data.text", "data.preference"}
    for path, _ in option_paths(type(config)):
        value: object = resolved
        for name in path.split("."):
            value = getattr(value, name)
        assert value is not None or path in optional, path


def test_resolving_twice_changes_nothing() -> None:
    once = resolve(FinetuneConfig(), TINY, 100)
    assert resolve(once, SEVEN_BILLION, 7) == once


def test_what_the_user_set_is_not_resolved_away() -> None:
    config = FinetuneConfig.model_validate(
        {
            "data": {"max_seq_tokens": 99},
            "lora": {"target_modules": ["v_proj"]},
            "train": {"learning_rate": 0.5, "max_steps": 7, "eval_every": 2, "gradient_checkpointing": True},
        }
    )
    resolved = resolve(config, TINY, 100)
    assert resolved.data.max_seq_tokens == 99
    assert resolved.lora.target_modules == ("v_proj",)
    assert resolved.train.learning_rate == 0.5
    assert (resolved.train.max_steps, resolved.train.eval_every, resolved.train.save_every) == (7, 2, 2)
    assert resolved.train.gradient_checkpointing is True


def test_model_defaults_depend_on_the_model() -> None:
    small, large = (resolve_model_defaults(FinetuneConfig(), facts) for facts in (TINY, SEVEN_BILLION))
    assert (small.data.max_seq_tokens, large.data.max_seq_tokens) == (1024, 2048)
    assert (small.train.gradient_checkpointing, large.train.gradient_checkpointing) == (False, True)
    assert small.lora.target_modules == ("down_proj", "q_proj")


@pytest.mark.parametrize(
    ("method", "parameters", "rate"),
    [("lora", 5e6, 5e-3), ("lora", 5e8, 2e-4), ("lora", 7e9, 2e-4), ("full", 7e9, 1e-5), ("full", 5e6, 1e-3)],
)
def test_the_learning_rate_falls_with_the_size_of_the_model(method: str, parameters: float, rate: float) -> None:
    assert default_learning_rate(method, int(parameters)) == rate


@pytest.mark.parametrize(
    ("train", "steps"),
    [({}, 300), ({"epochs": 1.0}, 100), ({"epochs": 0.255}, 26), ({"max_steps": 5}, 5), ({"epochs": 0.001}, 1)],
)
def test_steps_are_updates_counted_from_epochs_and_rounded_up(train: dict, steps: int) -> None:
    resolved = resolve_steps(FinetuneConfig.model_validate({"train": train}), updates_per_epoch=100)
    assert resolved.train.max_steps == steps
    assert resolved.train.epochs is None


def test_configs_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        FinetuneConfig().train.seed = 3  # type: ignore[misc]


def test_sgd_wants_a_learning_rate_of_its_own() -> None:
    sgd = FinetuneConfig.model_validate({"train": {"optimizer": "sgd"}})
    with pytest.raises(ToolkitError, match=r"train\.learning_rate: SGD has no default learning rate\. Try: --set"):
        resolve_model_defaults(sgd, TINY)
    given = FinetuneConfig.model_validate({"train": {"optimizer": "sgd", "learning_rate": 0.5}})
    assert resolve_model_defaults(given, TINY).train.learning_rate == 0.5
