"""What only torch needs: several implementations of attention, each with a mask of its own."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from tests.conformance.batches import batch_of, random_sequence
from toolkit.protocols import TrainerSpec
from toolkit.torch_backend.session import TorchBackend

SEQUENCES = [random_sequence(seed, length) for seed, length in ((1, 9), (2, 14), (3, 6))]
PACKED = batch_of([SEQUENCES])


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_packed_sequences_stay_apart_in_every_attention(implementation, tiny_qwen2):
    trainer = TorchBackend().open_trainer(TrainerSpec(tiny_qwen2, device="cpu", dtype="float32"))
    trainer.base.set_attn_implementation(implementation)
    assert trainer.base.config._attn_implementation == implementation
    assert trainer.keeps_sequences_apart()
    alone = np.array([trainer.evaluate(batch_of([[sequence]])) for sequence in SEQUENCES]).sum(axis=0)
    assert trainer.evaluate(PACKED) == pytest.approx(tuple(alone), rel=2e-6)


def test_learned_positions_restart_with_every_sequence(tmp_path):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=32, n_head=2, n_layer=2, n_positions=64))
    model.transformer.wpe.weight.data.mul_(20.0)
    model.save_pretrained(tmp_path)
    trainer = TorchBackend().open_trainer(TrainerSpec(tmp_path, device="cpu", dtype="float32"))
    assert trainer.keeps_sequences_apart()
    alone = np.array([trainer.evaluate(batch_of([[sequence]])) for sequence in SEQUENCES]).sum(axis=0)
    assert trainer.evaluate(PACKED) == pytest.approx(tuple(alone), rel=2e-6)
