"""A small byte-level tokenizer that carries any chat template."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Engine

from toolkit.datasets.tokenizer import Tokenizer
from toolkit.datasets.tokenizer_training import QWEN2_SPLIT

# The same examples in every run: a failure can be repeated. No time limits: machines are slow at times.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("repeatable")

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "[/INST]", "<|start_header_id|>",
    "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "[TOOL_CALLS]", "[/TOOL_RESULTS]",
    "<|user|>", "<|assistant|>", "<|system|>",
)  # fmt: skip
TEXTS = ("What is 6 times 7? It is 42.", "Hello there, how are you?\n\nI am well, thank you.", "naïve café 你好 🙂") * 3


@pytest.fixture(scope="session")
def tokenizer_json() -> str:
    """A byte-level BPE tokenizer with the special tokens of all the templates."""
    engine = Engine(models.BPE())
    engine.normalizer = normalizers.NFC()  # pyright: ignore[reportAttributeAccessIssue]
    engine.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    engine.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    engine.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    )
    engine.add_special_tokens(list(SPECIAL))
    return engine.to_str()


@pytest.fixture(scope="session")
def make_tokenizer(tokenizer_json: str) -> Callable[..., Tokenizer]:
    """Return `make(template, **tokenizer_config)`."""

    def make(template: str | None, extra_stop_ids: tuple[int, ...] = (), **settings: Any) -> Tokenizer:
        settings = {"eos_token": "<|endoftext|>", **settings}
        return Tokenizer(
            tokenizer_json,
            settings=settings,
            chat_template=template,
            template_source="tokenizer_config.json",
            extra_stop_ids=extra_stop_ids,
        )

    return make


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Return `write(records, name)`, which writes one JSON value a line and returns the path."""

    def write(records: list[Any], name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
        return path

    return write
