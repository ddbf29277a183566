"""What all tests share: isolation from the user's machine, tiny models, and the rule on skips."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Before any framework is imported: no hub, no home directory, one thread (models here are so tiny that a second one
# only waits, and on a busy machine waits long).
_HOME = tempfile.TemporaryDirectory(prefix="toolkit-tests-")
os.environ.update(
    HOME=_HOME.name,
    HF_HOME=str(Path(_HOME.name) / "huggingface"),
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    TOOLKIT_HOME=str(Path(_HOME.name) / "toolkit"),
    TOOLKIT_RUNS_DIR=str(Path(_HOME.name) / "runs"),
)
os.environ.setdefault("OMP_NUM_THREADS", "1")
for _name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "HF_TOKEN"):
    os.environ.pop(_name, None)

ALLOWED_SKIPS = ("needs CUDA", "needs macOS")


@pytest.fixture(autouse=True)
def isolated_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every test its own runs folder and caches."""
    monkeypatch.setenv("TOOLKIT_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("TOOLKIT_HOME", str(tmp_path / "toolkit-home"))


@pytest.fixture(scope="session")
def build_tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return `build(**fields of TinyModel) -> folder`; equal arguments share one folder, so do not write to it."""
    from tests.tiny_models import TinyModel, build

    built: dict[str, Path] = {}

    def build_once(**fields: Any) -> Path:
        model = TinyModel(**fields)
        key = repr(model)  # `changes` may hold dictionaries
        if key not in built:
            built[key] = build(tmp_path_factory.mktemp(f"tiny-{model.family}"), model)
        return built[key]

    return build_once


@pytest.fixture(scope="session")
def build_peft_adapter(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return `build(model folder, **fields of PEFT's LoraConfig) -> folder`; equal arguments share one folder."""
    from tests.peft_adapters import build

    built: dict[str, Path] = {}

    def build_once(model_folder: Path, **fields: Any) -> Path:
        key = repr((model_folder, fields))
        if key not in built:
            built[key] = build(tmp_path_factory.mktemp("peft-adapter"), model_folder, **fields)
        return built[key]

    return build_once


@pytest.fixture(scope="session")
def tiny_qwen2(build_tiny_model: Callable[..., Path]) -> Path:
    """A Qwen2.5-shaped folder: 2 layers, hidden 64, tied embeddings padded beyond the tokenizer, float32, ChatML."""
    return build_tiny_model(family="qwen2")


@pytest.fixture(scope="session")
def tiny_llama(build_tiny_model: Callable[..., Path]) -> Path:
    """A Llama-3-shaped folder: 2 layers, hidden 64, untied embeddings, float32, sharded, two stop tokens."""
    return build_tiny_model(family="llama", tied=False, max_shard_size="200KB")


def _forbidden_skip(report: pytest.TestReport | pytest.CollectReport) -> str | None:
    """Return the reason of a skip that CI does not accept, or None."""
    if os.environ.get("CI") != "true" or not report.skipped or hasattr(report, "wasxfail"):
        return None
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    return None if reason.startswith(ALLOWED_SKIPS) else reason


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Under CI, turn a skip for any but the allowed reasons into a failure."""
    report: pytest.TestReport = yield  # pyright: ignore[reportAssignmentType]
    reason = _forbidden_skip(report)
    if reason is not None:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped under CI: {reason!r} is none of {ALLOWED_SKIPS}"
    return report  # pyright: ignore[reportReturnType]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """The same for modules that skip themselves as a whole."""
    report: pytest.CollectReport = yield  # pyright: ignore[reportAssignmentType]
    reason = _forbidden_skip(report)
    if reason is not None:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped under CI: {reason!r} is none of {ALLOWED_SKIPS}"
    return report  # pyright: ignore[reportReturnType]
