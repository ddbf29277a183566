"""Perplexity, with transformers' own loss as the witness."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from toolkit.datasets.chat import TokenizedExample, tokenize_examples
from toolkit.datasets.schema import Example, Message
from toolkit.evaluate.perplexity import example_losses, perplexity

CONVERSATIONS = [
    [("user", "What is 12 plus 30?"), ("assistant", "42")],
    [("user", "Say it in Russian."), ("assistant", "Привет, мир!"), ("user", "Again."), ("assistant", "Привет! 🙂")],
    [("system", "Be brief."), ("user", "Explain the steps one by one."), ("assistant", "Open a terminal, then wait.")],
]


def tokenized(length: int, weight_from: int, first: int = 1) -> TokenizedExample:
    weights = np.zeros(length, np.float32)
    weights[weight_from:] = 1
    return TokenizedExample(np.full(length, first, np.int32), weights, where=f"f:{length}")


def test_losses_are_summed_per_example_and_come_in_the_order_given(uniform_scorer) -> None:
    examples = [tokenized(5, 2, first=3), tokenized(9, 8, first=1), tokenized(3, 1, first=7)]
    done: list[int] = []
    losses = example_losses(uniform_scorer, examples, pad_id=0, advance=done.append)
    assert [(loss.loss_sum, loss.weight_sum) for loss in losses] == [(9.0, 3.0), (1.0, 1.0), (14.0, 2.0)]
    assert sum(done) == 3


def test_perplexity_weighs_every_token_alike(uniform_scorer) -> None:
    losses = example_losses(uniform_scorer, [tokenized(11, 1, first=1), tokenized(2, 1, first=5)], pad_id=0)
    estimate = perplexity(losses)
    assert estimate.value == pytest.approx(math.exp((10 * 1 + 1 * 5) / 11))
    assert estimate.n == 2


def test_perplexity_is_the_exponential_of_transformers_loss(tiny_qwen2: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from toolkit.backends import open_target, resolve_target

    examples = [
        Example(tuple(Message(role, content) for role, content in turns), {}, f"f:{number}")
        for number, turns in enumerate(CONVERSATIONS)
    ]
    opened = open_target(resolve_target(str(tiny_qwen2), tiny_qwen2), "cpu", "float32")
    tokens = tokenize_examples(examples, opened.tokenizer, 512).examples
    losses = example_losses(opened.scorer, tokens, pad_id=0)

    model = AutoModelForCausalLM.from_pretrained(tiny_qwen2, dtype=torch.float32).eval()
    total, count = 0.0, 0
    for example in tokens:
        ids = torch.tensor(example.tokens[None].astype(np.int64))
        labels = ids.masked_fill(torch.tensor(example.loss_weights[None] == 0), -100)
        trained = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            total += model(input_ids=ids, labels=labels).loss.item() * trained
        count += trained
    assert perplexity(losses).value == pytest.approx(math.exp(total / count), rel=1e-4)
    assert json.loads((tiny_qwen2 / "config.json").read_text())["model_type"] == "qwen2"
