"""K micro-batches are one big batch, whatever their sizes; an epoch's last ones count; schedules count updates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conformance.batches import batch_of, random_sequence
from tests.small_runs import settings, toolkit, write_questions
from toolkit.config import FinetuneConfig, LoraConfig
from toolkit.config_files import load_config
from toolkit.protocols import OptimizerSpec
from toolkit.runs import find_run
from toolkit.schedules import learning_rate

# Tokens and trained tokens of each example: 4 against 60.
RAGGED = ((12, 4), (9, 3), (64, 60), (30, 20), (7, 5), (18, 1))
FREE = OptimizerSpec(max_grad_norm=1e9)  # unclipped, the first moment is a tenth of the gradient


def moments(trainer) -> dict[str, np.ndarray]:
    return {name: tensor.array for name, tensor in trainer.state().moments.items() if name.endswith(".exp_avg")}


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4, alpha=8.0)], ids=["full", "lora"])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_k_micro_batches_have_the_gradient_of_one_batch_of_all_their_rows(rows, lora, tiny_qwen2, open_trainer):
    examples = [random_sequence(i, length, trained) for i, (length, trained) in enumerate(RAGGED)]
    big = batch_of([[example] for example in examples])
    small = [batch_of([[example] for example in examples[i : i + rows]]) for i in range(0, len(examples), rows)]
    together, apart = (open_trainer(tiny_qwen2, lora=lora, optimizer=FREE) for _ in range(2))
    one = together.train_step([big], 1e-3, big.trained_weight, seed=0).read()
    many = apart.train_step(small, 1e-3, sum(batch.trained_weight for batch in small), seed=0).read()
    assert many.loss == pytest.approx(one.loss, rel=1e-6)
    assert many.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)
    expected, found = moments(together), moments(apart)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6, rtol=0, err_msg=name)
    # What a mean of means would give is far away.
    unweighted = open_trainer(tiny_qwen2, lora=lora, optimizer=FREE)
    means = [unweighted.evaluate(batch) for batch in small]
    assert abs(np.mean([loss / weight for loss, weight in means]) / one.loss - 1) > 1e-3


@pytest.mark.parametrize("packing", ["false", "true"])
def test_trailing_micro_batches_are_trained_and_schedules_count_updates(kit, packing, tiny_qwen2: Path, tmp_path: Path):
    data = write_questions(tmp_path / "sums.jsonl", 23)
    fields = settings(
        data__validation=0, data__packing=packing, data__max_seq_tokens=64, train__device="cpu", train__batch_size=2,
        train__accumulation=5, train__epochs=2, train__warmup=0.25, train__save_every=99,
    )  # fmt: skip
    result = toolkit("finetune", "--model", tiny_qwen2, "--data", data, "--backend", kit.name, "--name", "run", *fields)
    assert result.exit_code == 0, result.stderr
    run = find_run("run")
    manifest, rows = run.manifest(), [row for row in run.metrics() if "loss" in row]
    per_epoch = manifest["batches"]["updates_per_epoch"]
    micro_batches = -(-manifest["batches"]["rows_per_epoch"] // 2)
    assert per_epoch == -(-micro_batches // 5) and micro_batches % 5  # so the last update of an epoch is a smaller one
    assert [row["step"] for row in rows] == list(range(1, 2 * per_epoch + 1))
    for epoch in range(2):
        trained = sum(row["trained_tokens"] for row in rows[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert trained == manifest["data_figures"]["trained_tokens"]
    config = load_config(FinetuneConfig, run.config_path).train
    rates = [learning_rate(step, config.max_steps, config) for step in range(1, 2 * per_epoch + 1)]
    assert [row["learning_rate"] for row in rows] == pytest.approx(rates, rel=1e-12)
    assert rates[-1] == pytest.approx(config.learning_rate * config.min_learning_rate_ratio, rel=0.5)
