"""A packed batch is its examples one by one, in every architecture and mode, and training on it resumes exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conformance.batches import batch_of, random_sequence
from tests.tiny_models import build_lfm2
from toolkit.config import LoraConfig
from toolkit.datasets.batching import TrainingData, collate_rows
from toolkit.datasets.chat import TokenizedExample
from toolkit.errors import ToolkitError
from toolkit.protocols import Batch

SHAPES = {
    "qwen2": {"family": "qwen2"},
    "llama": {"family": "llama", "tied": False},
    "qwen3": {"family": "qwen3"},
    "mistral with a window of 8": {"family": "mistral", "changes": (("sliding_window", 8),)},
}
LORA = LoraConfig(rank=4, alpha=12.0)
# Tokens and trained tokens: 4 against 60 in one row.
RAGGED = ((12, 4), (64, 60), (9, 9), (17, 3), (30, 21))
ROWS = ((0, 1), (2, 3, 4))


def sequences(seed: int = 1) -> list[tuple[list[int], list[float]]]:
    return [random_sequence(seed + i, length, trained) for i, (length, trained) in enumerate(RAGGED)]


def packed(seed: int = 1) -> Batch:
    found = sequences(seed)
    return batch_of([[found[i] for i in row] for row in ROWS])


def assert_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, rtol=0, err_msg=name)
    assert max(np.abs(value).max() for value in expected.values()) > 1e-3


def gradients_one_by_one(kit, trainer: Any, alone: Sequence[Batch], normaliser: float) -> dict[str, np.ndarray]:
    apart = [kit.gradients(trainer, batch, normaliser) for batch in alone]
    return {name: sum(one[name] for one in apart) for name in apart[0]}


@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradients_are_those_of_transformers_on_each_example_alone_in_float64(
    kit, shape, build_tiny_model, open_trainer, plain_model
):
    folder = build_tiny_model(**SHAPES[shape])
    model, trainer, batch = plain_model(folder).double(), open_trainer(folder), packed()
    total = torch.zeros((), dtype=torch.float64)
    for tokens, weights in sequences():
        logits = model(torch.tensor([tokens])).logits[0, :-1]
        nll = torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[1:]), reduction="none")
        total = total + (nll * torch.tensor(weights[1:], dtype=torch.float64)).sum()
    loss, weight = trainer.evaluate(batch)
    assert loss == pytest.approx(total.item(), rel=1e-5)
    assert weight == pytest.approx(batch.trained_weight) == pytest.approx(sum(sum(w[1:]) for _, w in sequences()))
    (total / weight).backward()
    expected = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    assert_close(kit.gradients(trainer, batch, weight), expected)


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_the_sum_of_those_of_each_example_alone(
    kit, shape, checkpointing, lora, build_tiny_model, open_trainer
):
    trainer = open_trainer(build_tiny_model(**SHAPES[shape]), lora=lora, gradient_checkpointing=checkpointing, seed=3)
    if lora:  # B starts at zero, and A would have no gradient
        rng = np.random.default_rng(0)
        for name, parameter in trainer.parameters.items():
            if ".lora_B." in name:
                kit.put(parameter, rng.normal(0, 0.05, tuple(kit.value(parameter).shape)).astype(np.float32))
    batch = packed()
    alone = [batch_of([[sequence]]) for sequence in sequences()]
    expected = gradients_one_by_one(kit, trainer, alone, batch.trained_weight)
    assert_close(kit.gradients(trainer, batch, batch.trained_weight), expected)
    losses = np.array([trainer.evaluate(one) for one in alone]).sum(axis=0)
    assert trainer.evaluate(batch) == pytest.approx(tuple(losses), rel=1e-6)


def test_what_a_neighbour_says_changes_nothing(tiny_qwen2, open_trainer):
    trainer = open_trainer(tiny_qwen2)
    batch, first = packed(), len(sequences()[0][0])
    before = trainer.token_logprobs(batch)
    batch.tokens[0, :first] = random_sequence(99, first)[0]
    after = trainer.token_logprobs(batch)
    np.testing.assert_allclose(after[0, first:], before[0, first:], atol=1e-5)
    np.testing.assert_array_equal(after[1], before[1])
    assert np.abs(after[0, 1:first] - before[0, 1:first]).max() > 0.1


def test_architectures_that_look_across_the_border_are_found_out(kit, tiny_qwen2, tiny_llama, open_trainer, tmp_path):
    assert open_trainer(tiny_qwen2, lora=LORA).keeps_sequences_apart()
    assert open_trainer(tiny_llama, dtype="bfloat16").keeps_sequences_apart()
    leaky = open_trainer(build_lfm2(tmp_path / "lfm2"), lora=LORA)
    assert not leaky.keeps_sequences_apart()
    with pytest.raises(ToolkitError, match="cannot keep packed sequences apart"):
        leaky.evaluate(packed())
    leaky.base.train()
    leaky.split.model.train()
    assert not leaky.keeps_sequences_apart()


def training_data(count: int = 28) -> TrainingData:
    made = []
    for i in range(count):
        tokens, weights = random_sequence(i, 5 + 7 * i % 31, 3 + i % 3)
        made.append(TokenizedExample(np.array(tokens, np.int32), np.array(weights, np.float32)))
    return TrainingData(made, batch_size=2, accumulation=2, seed=7, pad_id=0, row_tokens=64)


def step(trainer: Any, data: TrainingData, index: int) -> float:
    micro = data.update(index)
    normaliser = sum(batch.trained_weight for batch in micro)
    return trainer.train_step(micro, 1e-2 / (1 + index), normaliser, seed=index).read().loss


@pytest.mark.parametrize("lora", [LoraConfig(rank=4, dropout=0.2), None], ids=["lora", "full"])
def test_training_on_packed_rows_goes_on_bit_for_bit_after_any_update(kit, tiny_llama, open_trainer, lora):
    data = training_data()
    assert data.updates_per_epoch == 3 and len(data.update(2)) == 1  # the third update of an epoch is a smaller one
    whole, again = (open_trainer(tiny_llama, lora=lora, gradient_checkpointing=True) for _ in range(2))
    states, losses = [], []
    for index in range(6):
        states.append(whole.state())
        losses.append(step(whole, data, index))
    final = whole.state().weights
    for start in range(1, 6):
        kit.disturb_random_state()
        again.restore(states[start])
        fresh = training_data()
        assert [step(again, fresh, index) for index in range(start, 6)] == losses[start:]
        for name, tensor in again.state().weights.items():
            np.testing.assert_array_equal(tensor.array, final[name].array, err_msg=name)


def test_an_update_of_packed_rows_is_that_of_the_same_examples_in_rows_of_their_own(tiny_qwen2, open_trainer):
    data = training_data()
    together, apart = open_trainer(tiny_qwen2, lora=LORA), open_trainer(tiny_qwen2, lora=LORA)
    for index in range(4):
        micro = data.update(index)
        rows = [collate_rows([[data._examples[i]] for i in indices], 0) for indices in data.example_indices(index)]
        normaliser = sum(batch.trained_weight for batch in micro)
        one = together.train_step(micro, 1e-2, normaliser, seed=index).read()
        two = apart.train_step(rows, 1e-2, normaliser, seed=index).read()
        assert two.loss == pytest.approx(one.loss, rel=1e-5)
        assert two.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)
        assert two.weight_sum == pytest.approx(one.weight_sum, rel=1e-6)


def test_both_backends_see_the_same_losses_on_packed_rows(tiny_qwen2: Path):
    from tests.conformance.test_parity import open_both

    data = training_data()
    on_torch, on_mlx = open_both(tiny_qwen2, lora=LORA, seed=11)
    expected = [step(on_torch, data, index) for index in range(10)]
    assert [step(on_mlx, data, index) for index in range(10)] == pytest.approx(expected, rel=1e-4)
