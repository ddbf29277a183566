from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.conformance.batches import batch_of, ragged, random_sequence, reference_nll
from toolkit.protocols import Batch


@pytest.mark.parametrize("family", ["tiny_qwen2", "tiny_llama"])
def test_weighted_nll_equals_a_float64_reference_on_transformers_own_logits(family, request, open_trainer, plain_model):
    folder = request.getfixturevalue(family)
    batch = ragged(1, [17, 5, 11], trained=4)
    with torch.no_grad():
        logits = plain_model(folder)(torch.from_numpy(batch.tokens).long()).logits.numpy()
    expected = reference_nll(logits, batch)
    assert open_trainer(folder).evaluate(batch) == pytest.approx(expected, rel=1e-5)
    assert batch.trained_weight == pytest.approx(expected[1])


def test_unweighted_loss_equals_the_loss_that_transformers_computes(tiny_qwen2, open_trainer, plain_model):
    tokens, _ = random_sequence(3, 24)
    batch = batch_of([[(tokens, [1.0] * 24)]])
    ids = torch.tensor([tokens])
    loss, weight = open_trainer(tiny_qwen2).evaluate(batch)
    assert weight == 23
    assert loss / weight == pytest.approx(plain_model(tiny_qwen2)(ids, labels=ids).loss.item(), rel=1e-5)


@pytest.mark.parametrize("family", ["tiny_qwen2", "tiny_llama"])
def test_gradients_equal_autograd_through_transformers_own_loss(kit, family, request, open_trainer, plain_model):
    folder = request.getfixturevalue(family)
    batch = ragged(5, [13, 7], trained=5)
    labels = torch.where(torch.from_numpy(batch.loss_weights != 0), torch.from_numpy(batch.tokens), -100).long()
    unit = Batch(batch.tokens, (batch.loss_weights != 0).astype(np.float32), batch.segment_ids, batch.positions)
    model = plain_model(folder)
    model(torch.from_numpy(batch.tokens).long(), labels=labels).loss.backward()
    ours = kit.gradients(open_trainer(folder), unit, unit.trained_weight)
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(ours[name], parameter.grad.numpy(), atol=2e-6, rtol=1e-4, err_msg=name)


def test_loss_and_gradients_do_not_depend_on_how_logits_are_chunked(kit, tiny_qwen2, open_trainer, monkeypatch):
    batch = ragged(7, [60, 45], trained=40)
    trainer = open_trainer(tiny_qwen2)
    whole, whole_loss = kit.gradients(trainer, batch, 3.0), trainer.evaluate(batch)
    monkeypatch.setattr(kit.losses, "_CHUNK_LOGITS", 1)  # the smallest chunk: 16 positions
    assert len(list(kit.losses.chunks(80, trainer.split.vocab_size, trainer.device))) == 5
    chunked = kit.gradients(trainer, batch, 3.0)
    assert trainer.evaluate(batch) == pytest.approx(whole_loss, rel=1e-6)
    for name, expected in whole.items():
        np.testing.assert_allclose(chunked[name], expected, atol=1e-5, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("family", ["tiny_qwen2", "tiny_llama"])
def test_a_packed_batch_has_the_loss_and_gradients_of_its_sequences_one_by_one(kit, family, request, open_trainer):
    sequences = [random_sequence(seed, length) for seed, length in ((1, 9), (2, 14), (3, 6), (4, 11))]
    packed = batch_of([[sequences[0], sequences[1]], [sequences[2], sequences[3]]])
    trainer = open_trainer(request.getfixturevalue(family))
    alone = [batch_of([[sequence]]) for sequence in sequences]
    sums = np.array([trainer.evaluate(batch) for batch in alone]).sum(axis=0)
    assert trainer.evaluate(packed) == pytest.approx(tuple(sums), rel=2e-6)
    together = kit.gradients(trainer, packed, 10.0)
    apart = [kit.gradients(trainer, batch, 10.0) for batch in alone]
    for name, value in together.items():
        np.testing.assert_allclose(value, sum(one[name] for one in apart), atol=1e-5, rtol=1e-4, err_msg=name)


def test_token_logprobs_of_a_packed_batch_equal_those_of_its_sequences_alone(tiny_llama, open_trainer):
    first, second = random_sequence(1, 8), random_sequence(2, 12)
    packed = batch_of([[first, second], [second]])
    trainer = open_trainer(tiny_llama)
    alone = trainer.token_logprobs(batch_of([[second]]))[0]
    result = trainer.token_logprobs(packed)
    np.testing.assert_allclose(result[0, 8:], alone, atol=2e-5)
    np.testing.assert_allclose(result[1, :12], alone, atol=2e-5)
    assert result[0, 0] == 0 and result[0, 8] == 0
    assert not result[1, 12:].any()


def test_log_probabilities_and_weights_give_the_evaluated_loss(tiny_qwen2, open_trainer):
    batch = ragged(9, [12, 20], trained=6)
    trainer = open_trainer(tiny_qwen2)
    loss = -(trainer.token_logprobs(batch).astype(np.float64) * batch.loss_weights).sum()
    assert trainer.evaluate(batch)[0] == pytest.approx(loss, rel=1e-6)


def test_padding_and_zero_weights_change_nothing(tiny_qwen2, open_trainer):
    trainer = open_trainer(tiny_qwen2)
    alone = ragged(11, [10], trained=4)
    wide = np.pad(alone.tokens, ((0, 0), (0, 9)), constant_values=77)
    padded = Batch(
        wide, *(np.pad(part, ((0, 0), (0, 9))) for part in (alone.loss_weights, alone.segment_ids, alone.positions))
    )
    assert trainer.evaluate(padded) == pytest.approx(trainer.evaluate(alone), rel=1e-6)


def test_a_batch_with_nothing_to_learn_counts_zero(tiny_qwen2, open_trainer):
    assert open_trainer(tiny_qwen2).evaluate(ragged(1, [6, 4], trained=0)) == (0.0, 0.0)


def test_logit_chunks_join_to_transformers_own_logits(kit, tiny_llama, open_trainer, plain_model):
    tokens = ragged(2, [30, 30]).tokens
    parts = list(kit.losses.logit_chunks(open_trainer(tiny_llama).split, tokens, positions_per_chunk=8))
    assert [part.shape[1] for part in parts] == [8, 8, 8, 6]
    with torch.no_grad():
        expected = plain_model(tiny_llama)(torch.from_numpy(tokens).long()).logits.numpy()
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, atol=2e-5)


def test_scaling_and_capping_behind_the_head_are_kept(tmp_path, open_trainer):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        final_logit_softcapping=3.0,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    tokens = ragged(2, [20]).tokens
    (logits,) = open_trainer(tmp_path).logits(tokens)
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens).long()).logits.numpy()
    assert np.abs(expected).max() < 3
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_the_figures_of_a_step_are_those_of_the_weighted_reference(tiny_qwen2, open_trainer):
    trainer = open_trainer(tiny_qwen2)
    micro = [ragged(3, [10, 6], trained=3), ragged(4, [8], trained=5)]
    loss, weight = np.array([trainer.evaluate(batch) for batch in micro]).sum(axis=0)
    figures = trainer.train_step(micro, 1e-3, weight, seed=0).read()
    assert figures.loss == pytest.approx(loss / weight, rel=1e-5)
    assert figures.weight_sum == pytest.approx(weight, rel=1e-6)
