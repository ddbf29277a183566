"""Recomputing blocks saves memory and nothing else changes: losses and gradients stay, dropout on, in one instance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.conformance.batches import batch_of, ragged, random_sequence
from tests.small_runs import settings, toolkit, write_questions
from toolkit.config import FinetuneConfig, LoraConfig
from toolkit.jobs.finetune import prepare_finetune
from toolkit.memory_plan import training_bytes
from toolkit.protocols import Batch, OptimizerSpec

LAYERS = 5
FREE = OptimizerSpec(max_grad_norm=1e9)  # unclipped, the first moment is a tenth of the gradient
METHODS = {
    "full": None,
    "lora": LoraConfig(rank=4, dropout=0.3),
    "rslora": LoraConfig(rank=4, dropout=0.3, variant="rslora"),
    "dora": LoraConfig(rank=4, dropout=0.3, variant="dora"),
}


@pytest.fixture(scope="session")
def deep(build_tiny_model):
    return build_tiny_model(family="qwen2", layers=LAYERS)


def blocks(trainer: Any) -> list[Any]:
    return list(trainer.split.decoder.layers)


def recomputed(trainer: Any) -> list[bool]:
    return [bool(getattr(block, "gradient_checkpointing", False)) for block in blocks(trainer)]


@pytest.mark.parametrize("every", [1, 2, 4, 9])
def test_every_nth_block_is_recomputed_in_this_instance_alone(every, deep, open_trainer):
    before = open_trainer(deep)
    frugal = open_trainer(deep, gradient_checkpointing=True, checkpoint_layers=every)
    after = open_trainer(deep, checkpoint_layers=every)  # without gradient_checkpointing it says nothing
    assert recomputed(frugal) == [number % every == 0 for number in range(LAYERS)]
    assert recomputed(before) == recomputed(after) == [False] * LAYERS
    kinds = {type(block) for trainer in (before, after) for block in blocks(trainer)}
    assert len(kinds) == 1 and not getattr(kinds.pop(), "gradient_checkpointing", False)


def gradients(trainer: Any, batches: list[Batch], seed: int) -> tuple[float, dict[str, np.ndarray]]:
    normaliser = sum(batch.trained_weight for batch in batches)
    loss = trainer.train_step(batches, 0.0, normaliser, seed).read().loss
    return loss, {name: m.array for name, m in trainer.state().moments.items() if name.endswith(".exp_avg")}


@pytest.mark.parametrize(
    ("method", "rows"), [*((method, "padded") for method in METHODS), ("full", "packed"), ("lora", "packed")]
)
def test_losses_and_gradients_are_those_without_under_the_same_dropout(method, rows, deep, open_trainer):
    if rows == "packed":
        batches = [batch_of([[random_sequence(1, 9), random_sequence(2, 14)], [random_sequence(3, 20)]])]
    else:
        batches = [ragged(1, [12, 7], trained=3), ragged(2, [19, 16])]
    fields = {"lora": METHODS[method], "optimizer": FREE}
    plain = open_trainer(deep, **fields)
    if method != "full":  # B starts at zero, and what the dropout does to A would not show
        plain.train_step(batches, 1e-2, 50.0, seed=0)
    start = plain.state()
    expected_loss, expected = gradients(plain, batches, seed=4)
    for every in (1, 2):
        frugal = open_trainer(deep, gradient_checkpointing=True, checkpoint_layers=every, **fields)
        frugal.restore(start)
        loss, found = gradients(frugal, batches, seed=4)
        assert loss == pytest.approx(expected_loss, rel=1e-6)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=1e-6, rtol=1e-4, err_msg=name)
    if method != "full":
        plain.restore(start)
        other_loss, _ = gradients(plain, batches, seed=5)
        assert other_loss != pytest.approx(expected_loss, rel=1e-5)  # other masks would have been seen


def kept_bytes(kit: Any, trainer: Any, batch: Batch) -> int:
    """Measure what the forward pass keeps for the backward pass (torch), or the peak of a step (MLX)."""
    trainer.base.train()
    if kit.name == "mlx":
        import mlx.core as mx

        trainer.train_step([batch], 0.0, batch.trained_weight, 0).read()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        trainer.train_step([batch], 0.0, batch.trained_weight, 0).read()
        return mx.get_peak_memory() - before
    weights = {parameter.untyped_storage().data_ptr() for parameter in trainer.base.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = trainer.split.hidden(batch)
    assert hidden.requires_grad
    return sum(kept.values())


def test_memory_falls_with_the_number_of_blocks_that_are_recomputed(kit, deep, open_trainer):
    batch = ragged(1, [128] * 8)
    lora = LoraConfig(rank=4)
    none = kept_bytes(kit, open_trainer(deep, lora=lora), batch)
    some, all_of_them = (
        kept_bytes(kit, open_trainer(deep, lora=lora, gradient_checkpointing=True, checkpoint_layers=every), batch)
        for every in (2, 1)
    )
    assert all_of_them < 0.7 * none
    assert all_of_them < some < 0.9 * none


def test_the_option_reaches_the_backend_and_the_plan(tiny_qwen2, tmp_path):
    data = write_questions(tmp_path / "sums.jsonl")
    asked = settings(train__gradient_checkpointing="true", train__checkpoint_layers=2)
    result = toolkit("finetune", "--model", tiny_qwen2, "--data", data, "--dry-run", *asked)
    assert result.exit_code == 0, result.stderr
    assert "gradient checkpointing (1 block in 2)" in result.stdout
    train = {"gradient_checkpointing": True, "checkpoint_layers": 2, "device": "cpu"}
    config = {"model": str(tiny_qwen2), "backend": "torch", "data": {"path": str(data)}, "train": train}
    spec = prepare_finetune(FinetuneConfig.model_validate(config)).trainer_spec()
    assert (spec.gradient_checkpointing, spec.checkpoint_layers) == (True, 2)


def test_the_plan_of_memory_falls_with_the_blocks_that_are_recomputed():
    fields = {
        "frozen_bytes": 0,
        "trainable": 0,
        "positions": 100,
        "hidden_size": 10,
        "layers": 8,
        "activation_bytes": 1,
    }
    none = training_bytes(checkpointing=False, **fields)
    planned = [training_bytes(checkpointing=True, checkpoint_layers=every, **fields) for every in (1, 2, 4)]
    assert none == 1000 * 8 * 34
    assert planned == [1000 * (8 * 2 + 34), 1000 * (4 * 2 + 5 * 34), 1000 * (2 * 2 + 7 * 34)]
