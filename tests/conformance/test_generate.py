from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.conformance.batches import random_sequence
from toolkit.adapter_files import write_adapter
from toolkit.config import LoraConfig
from toolkit.errors import ToolkitError
from toolkit.protocols import Sampling

PROMPTS = [random_sequence(seed, length)[0] for seed, length in enumerate((5, 17, 9, 9, 1, 30))]


def collect(stream) -> tuple[dict[int, list[int]], dict[int, str]]:
    tokens, reasons = defaultdict(list), {}
    for item in stream:
        assert item.row not in reasons, "nothing follows a row's end"
        if item.token is None:
            reasons[item.row] = item.finish_reason
        else:
            assert item.finish_reason is None
            tokens[item.row].append(item.token)
    return dict(tokens), reasons


def greedy_by_transformers(model, prompt: list[int], new_tokens: int) -> list[int]:
    ids = torch.tensor([prompt])
    with torch.no_grad():
        result = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False)
    return result[0, len(prompt) :].tolist()


@pytest.mark.parametrize("family", ["tiny_qwen2", "tiny_llama"])
def test_greedy_continuations_of_ragged_prompts_equal_transformers_generate(family, request, open_trainer, plain_model):
    folder = request.getfixturevalue(family)
    model = plain_model(folder)
    model.generation_config.eos_token_id = None
    expected = {row: greedy_by_transformers(model, prompt, 12) for row, prompt in enumerate(PROMPTS)}
    found, reasons = collect(open_trainer(folder).generate(PROMPTS, Sampling(max_new_tokens=12)))
    assert found == expected
    assert set(reasons.values()) == {"length"} and len(reasons) == len(PROMPTS)


def test_greedy_continuations_equal_transformers_generate_with_adapters(
    tiny_qwen2, open_trainer, plain_model, tmp_path
):
    import peft

    lora = LoraConfig(rank=4)
    trainer = open_trainer(tiny_qwen2, lora=lora)
    rng = np.random.default_rng(1)
    weights = {
        name: replace(tensor, array=0.3 * rng.standard_normal(tensor.array.shape, np.float32))
        for name, tensor in trainer.state().weights.items()
        if ".lora_B." in name
    }
    trainer.set_weights(weights)
    write_adapter(tmp_path / "adapter", trainer.state().weights, lora, str(tiny_qwen2))
    model = peft.PeftModel.from_pretrained(plain_model(tiny_qwen2), tmp_path / "adapter").eval()
    model.generation_config.eos_token_id = None
    expected = {row: greedy_by_transformers(model, prompt, 8) for row, prompt in enumerate(PROMPTS)}
    assert collect(trainer.generate(PROMPTS, Sampling(max_new_tokens=8)))[0] == expected


def test_a_stop_token_ends_its_row_alone_and_is_not_yielded(tiny_qwen2, open_trainer):
    trainer = open_trainer(tiny_qwen2)
    free, _ = collect(trainer.generate(PROMPTS, Sampling(max_new_tokens=10)))
    stop = free[2][4]
    found, reasons = collect(trainer.generate(PROMPTS, Sampling(max_new_tokens=10, stop_ids=(stop, 999_999))))
    for row, tokens in free.items():
        cut = tokens.index(stop) if stop in tokens else None
        assert found.get(row, []) == tokens[:cut]
        assert reasons[row] == ("length" if cut is None else "stop")


def test_samples_of_a_row_do_not_depend_on_its_neighbours_and_follow_the_seed(
    kit, tiny_qwen2, open_trainer, monkeypatch
):
    trainer = open_trainer(tiny_qwen2)
    sampling = Sampling(max_new_tokens=8, temperature=1.0, top_p=0.95, seed=3)
    together, _ = collect(trainer.generate(PROMPTS, sampling))
    monkeypatch.setattr(kit.generate, "_MAX_ROWS", 2)
    in_pairs, _ = collect(trainer.generate(PROMPTS, sampling))
    assert in_pairs == together
    other, _ = collect(trainer.generate(PROMPTS, Sampling(max_new_tokens=8, temperature=1.0, top_p=0.95, seed=4)))
    assert other != together


def test_draws_follow_the_softmax_of_logits_over_temperature(kit):
    logits = torch.tensor([[1.0, 3.0, 2.0, -1.0]])
    sampling = Sampling(temperature=2.0)
    uniform = (np.arange(10_000) + 0.5) / 10_000
    chosen = kit.pick(logits.repeat(10_000, 1).numpy(), sampling, uniform)
    expected = (logits / 2).softmax(-1)[0].numpy()
    np.testing.assert_allclose(np.bincount(chosen, minlength=4) / 10_000, expected, atol=2e-4)


@pytest.mark.parametrize(
    ("sampling", "allowed"),
    [
        (Sampling(temperature=1.0, top_k=2), {1, 2}),
        (Sampling(temperature=1.0, top_k=1), {1}),
        (Sampling(temperature=1.0, top_p=0.5), {1}),
        (Sampling(temperature=1.0, top_p=0.7), {1, 2}),
        (Sampling(temperature=1.0, top_p=0.0), {1}),
        (Sampling(temperature=1.0), {0, 1, 2, 3}),
    ],
)
def test_top_k_and_top_p_keep_the_same_tokens_as_transformers_filters(kit, sampling, allowed):
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    logits = torch.tensor([[1.0, 3.0, 2.0, -1.0]])
    kept = logits
    if sampling.top_k:
        kept = TopKLogitsWarper(sampling.top_k)(None, kept)
    if sampling.top_p < 1:
        kept = TopPLogitsWarper(sampling.top_p)(None, kept)
    assert set(torch.isfinite(kept[0]).nonzero().flatten().tolist()) == allowed
    uniform = np.append((np.arange(4000) + 0.5) / 4000, np.nextafter(1.0, 0.0))
    chosen = kit.pick(logits.repeat(len(uniform), 1).numpy(), sampling, uniform)
    assert set(chosen.tolist()) == allowed


def test_tokens_stream_before_the_last_row_is_done(tiny_qwen2, open_trainer):
    stream = open_trainer(tiny_qwen2).generate(PROMPTS[:2], Sampling(max_new_tokens=3))
    assert [(item.row, item.finish_reason) for item in stream] == [
        *[(0, None), (1, None)] * 3,
        (0, "length"),
        (1, "length"),
    ]


def test_a_row_ends_with_the_models_context_and_longer_prompts_are_refused(tiny_qwen2, open_trainer):
    trainer = open_trainer(tiny_qwen2)
    nearly_full = random_sequence(1, 253)[0]
    found, reasons = collect(trainer.generate([nearly_full, PROMPTS[0]], Sampling(max_new_tokens=6)))
    assert len(found[0]) == 3 and len(found[1]) == 6
    assert reasons == {0: "length", 1: "length"}
    for bad in ([], random_sequence(1, 256)[0]):
        with pytest.raises(ToolkitError, match=rf"prompt 2 has {len(bad)} tokens; the model takes 1 to 255"):
            list(trainer.generate([[5], bad], Sampling()))


def test_no_prompts_give_no_tokens_and_a_budget_of_zero_ends_at_once(tiny_qwen2, open_trainer):
    trainer = open_trainer(tiny_qwen2)
    assert list(trainer.generate([], Sampling())) == []
    assert collect(trainer.generate([[5]], Sampling(max_new_tokens=0))) == ({}, {0: "length"})
