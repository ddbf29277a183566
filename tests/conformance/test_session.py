from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conformance.batches import batch_of, ragged, random_sequence
from toolkit.config import LoraConfig
from toolkit.errors import JobFailed, ToolkitError
from toolkit.protocols import Backend, OptimizerSpec, ScorerSpec, Trainer, TrainerState

LORA = LoraConfig(rank=4, alpha=8.0)
RSLORA = LoraConfig(rank=4, alpha=8.0, variant="rslora")
DORA = LoraConfig(rank=4, alpha=8.0, variant="dora")
ADAMW, SGD = OptimizerSpec(), OptimizerSpec("sgd")
DROPPING = LoraConfig(rank=4, alpha=8.0, dropout=0.3)
DROPPING_DORA = LoraConfig(rank=4, alpha=8.0, dropout=0.3, variant="dora")


def weights_of(trainer) -> dict[str, np.ndarray]:
    return {name: tensor.array for name, tensor in trainer.state().weights.items()}


def run(trainer, steps, start: int = 0) -> list[float]:
    result = []
    for step in range(start, start + steps):
        micro = [ragged(10 * step, [12, 7], trained=3), ragged(10 * step + 1, [19, 16], trained=9)]
        normaliser = sum(batch.trained_weight for batch in micro)
        result.append(trainer.train_step(micro, 1e-2 / (1 + step), normaliser, seed=step).read().loss)
    return result


def test_the_backend_is_what_the_protocols_ask_for(kit, tiny_qwen2, open_trainer):
    assert isinstance(kit.backend, Backend)
    trainer: Trainer = open_trainer(tiny_qwen2)
    assert trainer.peak_memory_bytes() > 50e6
    description = kit.backend.describe("cpu")
    assert description.device == "cpu" and description.threads >= 1 and description.device_name
    assert kit.packages <= set(description.versions)


@pytest.mark.parametrize("family", ["tiny_qwen2", "tiny_llama"])
def test_full_fine_tuning_follows_a_plain_torch_loop_for_ten_steps(family, request, open_trainer, plain_model):
    folder = request.getfixturevalue(family)
    trainer = open_trainer(folder, optimizer=OptimizerSpec(weight_decay=0.0, max_grad_norm=1.0))
    model = plain_model(folder).train()
    plain = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=False, foreach=False)
    for step in range(10):
        batch = ragged(step, [14, 9, 11])
        unit = batch_of([[(row[:n].tolist(), [1.0] * n)] for row, n in zip(batch.tokens, (14, 9, 11), strict=True)])
        labels = np.where(unit.segment_ids != 0, unit.tokens, -100)
        loss = model(torch.from_numpy(unit.tokens).long(), labels=torch.from_numpy(labels).long()).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        plain.step()
        plain.zero_grad()
        figures = trainer.train_step([unit], 1e-3, unit.trained_weight, seed=0).read()
        assert figures.loss == pytest.approx(loss.item(), rel=2e-5)
        assert figures.grad_norm == pytest.approx(norm.item(), rel=1e-3)
        assert figures.weight_sum == 31


@pytest.mark.parametrize("lora", [LORA, RSLORA, DORA], ids=lambda lora: lora.variant)
def test_adapters_follow_a_plain_peft_loop_for_ten_steps(tiny_qwen2, open_trainer, plain_model, lora):
    import peft

    trainer = open_trainer(tiny_qwen2, lora=lora)
    settings = {"use_rslora": lora.variant == "rslora", "use_dora": lora.variant == "dora"}
    model = peft.get_peft_model(
        plain_model(tiny_qwen2),
        peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", **settings),
    ).train()
    start = {name: torch.from_numpy(array) for name, array in weights_of(trainer).items()}
    report = peft.set_peft_model_state_dict(model, start)
    assert not report.unexpected_keys
    plain = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    for step in range(10):
        tokens = [random_sequence(100 * step + row, 13)[0] for row in range(2)]
        batch = batch_of([[(row, [1.0] * 13)] for row in tokens])
        ids = torch.tensor(tokens)
        loss = model(ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        plain.step()
        plain.zero_grad()
        assert trainer.train_step([batch], 1e-2, 24.0, seed=0).read().loss == pytest.approx(loss.item(), rel=5e-5)
    for name, expected in peft.get_peft_model_state_dict(model).items():
        np.testing.assert_allclose(weights_of(trainer)[name], expected.numpy(), atol=2e-4, err_msg=name)


@pytest.mark.parametrize("lora", [None, LORA])
def test_micro_batches_give_the_update_of_one_big_batch(tiny_qwen2, open_trainer, lora):
    few, many = random_sequence(1, 12, trained=4), random_sequence(2, 64, trained=60)
    together, apart = open_trainer(tiny_qwen2, lora=lora), open_trainer(tiny_qwen2, lora=lora)
    big = batch_of([[few], [many]])
    small = [batch_of([[few]]), batch_of([[many]])]
    one = together.train_step([big], 1e-3, big.trained_weight, seed=0).read()
    two = apart.train_step(small, 1e-3, big.trained_weight, seed=0).read()
    assert two.loss == pytest.approx(one.loss, rel=1e-6)
    assert two.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)
    assert two.weight_sum == pytest.approx(big.trained_weight)


@pytest.mark.parametrize(
    ("lora", "checkpointing", "optimizer"),
    [
        (None, False, ADAMW),
        (None, True, SGD),
        (DROPPING, False, ADAMW),
        (DROPPING, True, ADAMW),
        (DROPPING_DORA, True, ADAMW),
        (RSLORA, False, SGD),
    ],
)
def test_three_steps_and_three_after_restoring_equal_six_bit_for_bit(
    kit, tiny_llama, open_trainer, lora, checkpointing, optimizer
):
    fields = {"lora": lora, "gradient_checkpointing": checkpointing, "optimizer": optimizer}
    whole = open_trainer(tiny_llama, **fields)
    losses_whole = run(whole, 6)
    before = open_trainer(tiny_llama, **fields)
    run(before, 3)
    kit.disturb_random_state()
    after = open_trainer(tiny_llama, seed=5, **fields)
    after.restore(before.state())
    assert run(after, 3, start=3) == losses_whole[3:]
    assert after.state().updates == 6
    for name, array in weights_of(whole).items():
        np.testing.assert_array_equal(weights_of(after)[name], array, err_msg=name)


def test_dropout_depends_on_the_seed_and_the_micro_batch_alone(tiny_qwen2, open_trainer):
    batch = ragged(1, [20, 20])

    def norm(seed: int, micro_batches: int = 1) -> float:
        trainer = open_trainer(tiny_qwen2, lora=LoraConfig(rank=4, dropout=0.5))
        return trainer.train_step([batch] * micro_batches, 1e-3, batch.trained_weight, seed).read().grad_norm

    assert norm(1) == norm(1)
    assert norm(1) != norm(2)
    assert norm(1, 2) != pytest.approx(2 * norm(1), rel=1e-6)  # the second micro-batch draws other masks


@pytest.mark.parametrize("lora", [None, DROPPING, DROPPING_DORA])
def test_gradient_checkpointing_changes_no_figure(tiny_qwen2, open_trainer, lora):
    plain = open_trainer(tiny_qwen2, lora=lora)
    frugal = open_trainer(tiny_qwen2, lora=lora, gradient_checkpointing=True)
    assert run(frugal, 3) == pytest.approx(run(plain, 3), rel=1e-6)
    assert any(getattr(m, "gradient_checkpointing", False) for m in frugal.base.modules())
    assert not any(getattr(m, "gradient_checkpointing", False) for m in plain.base.modules())


def test_dropout_is_off_when_evaluating_before_and_between_steps(tiny_qwen2, open_trainer):
    lora = LoraConfig(rank=4, dropout=0.5)
    trainer = open_trainer(tiny_qwen2, lora=lora)
    run(trainer, 2)
    batch = ragged(3, [20])
    assert trainer.evaluate(batch) == trainer.evaluate(batch)
    fresh = open_trainer(tiny_qwen2, lora=lora)
    fresh.set_weights(trainer.state().weights)
    assert fresh.evaluate(batch) == trainer.evaluate(batch)


def test_a_step_that_is_not_finite_is_skipped_and_seen_in_its_figures(tiny_qwen2, open_trainer):
    trainer = open_trainer(tiny_qwen2)
    run(trainer, 1)
    before = trainer.state()
    batch = ragged(1, [9])
    batch.loss_weights[0, 5] = np.nan
    figures = trainer.train_step([batch], 1e-2, 8.0, seed=0).read()
    assert np.isnan(figures.loss) and np.isnan(figures.grad_norm)
    assert trainer.state().updates == before.updates == 1
    for name, tensor in trainer.state().weights.items():
        np.testing.assert_array_equal(tensor.array, before.weights[name].array, err_msg=name)


def test_an_infinite_loss_with_a_finite_gradient_is_skipped_too(tiny_llama, open_trainer, kit, monkeypatch):
    trainer = open_trainer(tiny_llama)
    real = kit.losses.backward_nll
    monkeypatch.setattr(kit.losses, "backward_nll", lambda *given: real(*given) + float("inf"))
    figures = trainer.train_step([ragged(1, [9])], 1e-2, 8.0, seed=0).read()
    assert np.isinf(figures.loss) and np.isfinite(figures.grad_norm)
    assert trainer.state().updates == 0


def test_bfloat16_arithmetic_keeps_float32_masters(tiny_llama, open_trainer):
    exact, rough = open_trainer(tiny_llama), open_trainer(tiny_llama, dtype="bfloat16")
    adapted = open_trainer(tiny_llama, dtype="bfloat16", lora=DORA)
    assert {tensor.dtype for trainer in (rough, adapted) for tensor in trainer.state().weights.values()} == {"float32"}
    assert next(adapted.named_weights()).dtype == "bfloat16"  # the frozen base
    expected = run(exact, 3)
    assert run(rough, 3) == pytest.approx(expected, rel=0.03)
    assert run(rough, 3) != expected
    assert all(np.isfinite(run(adapted, 2)))


def test_weights_of_full_training_have_the_names_of_the_checkpoint(tiny_qwen2, tiny_llama, open_trainer):
    for folder, tied in ((tiny_qwen2, True), (tiny_llama, False)):
        trainer = open_trainer(folder)
        on_disk = {}
        for file in folder.glob("*.safetensors"):
            on_disk |= load_file(file)
        held = weights_of(trainer)
        assert set(held) == set(on_disk) == {tensor.name for tensor in trainer.named_weights()}
        assert ("lm_head.weight" not in held) == tied
        for name, expected in on_disk.items():
            np.testing.assert_array_equal(held[name], expected.numpy(), err_msg=name)
        trainable, total = trainer.parameter_counts()
        assert trainable == total == sum(array.size for array in held.values())


@pytest.mark.parametrize("lora", [LORA, DORA], ids=lambda lora: lora.variant)
def test_named_weights_of_an_adapted_model_are_those_of_its_base(tiny_llama, open_trainer, lora):
    plain = {tensor.name: tensor.array for tensor in open_trainer(tiny_llama).named_weights()}
    adapted = open_trainer(tiny_llama, lora=lora)
    run(adapted, 1)
    found = {tensor.name: tensor.array for tensor in adapted.named_weights()}
    assert set(found) == set(plain)
    for name, expected in plain.items():
        np.testing.assert_array_equal(found[name], expected, err_msg=name)


@pytest.mark.parametrize("lora", [LORA, RSLORA, DORA], ids=lambda lora: lora.variant)
def test_adapters_switch_off_within_a_block(tiny_qwen2, open_trainer, lora):
    batch = ragged(1, [15])
    base = open_trainer(tiny_qwen2).evaluate(batch)
    trainer = open_trainer(tiny_qwen2, lora=lora)
    assert trainer.evaluate(batch) == pytest.approx(base, rel=1e-6)  # B starts at zero, DoRA's m at W's lengths
    run(trainer, 3)
    trained = trainer.evaluate(batch)
    with trainer.adapters(False):
        assert trainer.evaluate(batch) == pytest.approx(base, rel=1e-6)
    with trainer.adapters(True):
        assert trainer.evaluate(batch) == trained
    assert trainer.evaluate(batch) == trained != pytest.approx(base, rel=1e-3)


def test_set_weights_overwrites_what_it_names_and_refuses_what_it_does_not_know(tiny_qwen2, open_trainer):
    giver, taker = open_trainer(tiny_qwen2, lora=LORA, seed=1), open_trainer(tiny_qwen2, lora=LORA, seed=2)
    name, tensor = next(iter(giver.state().weights.items()))
    taker.set_weights({name: tensor})
    np.testing.assert_array_equal(weights_of(taker)[name], tensor.array)
    with pytest.raises(ToolkitError, match="the new weights has nonsense, which this model does not train"):
        taker.set_weights({"nonsense": tensor})


def test_restoring_a_state_of_another_shape_names_every_tensor_at_fault(tiny_qwen2, open_trainer):
    other = open_trainer(tiny_qwen2, lora=LoraConfig(rank=2)).state()
    with pytest.raises(
        ToolkitError, match=r"down_proj\.lora_A\.weight has shape \(2, 128\), the model needs \(4, 128\)"
    ):
        open_trainer(tiny_qwen2, lora=LORA).restore(other)
    with pytest.raises(ToolkitError, match="the checkpoint lacks base_model"):
        open_trainer(tiny_qwen2, lora=LORA).restore(TrainerState({}, {}, 0))


def test_running_out_of_memory_names_the_settings_to_change(kit, tiny_qwen2, open_trainer, monkeypatch):
    trainer = open_trainer(tiny_qwen2)

    def explode(*_):
        raise RuntimeError(kit.memory_error)

    monkeypatch.setattr(kit.losses, "backward_nll", explode)
    with pytest.raises(
        JobFailed, match=r"out of memory on cpu\. lower train\.batch_size .*gradient_checkpointing=true"
    ):
        run(trainer, 1)


def test_other_runtime_errors_are_not_mistaken_for_memory(kit, tiny_qwen2, open_trainer, monkeypatch):
    def explode(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(kit.losses, "backward_nll", explode)
    with pytest.raises(RuntimeError, match="a bug"):
        run(open_trainer(tiny_qwen2), 1)


def test_a_closed_scorer_lets_go_of_its_model(kit, tiny_qwen2):
    import gc
    import weakref

    scorer = kit.backend.open_scorer(ScorerSpec(tiny_qwen2, device="cpu"))
    model = weakref.ref(scorer.base)
    scorer.close()
    gc.collect()
    assert model() is None


@pytest.mark.parametrize(
    "fault", ["no config", "broken config", "unknown type", "missing weight", "wrong shape", "cut file"]
)
def test_a_model_that_cannot_be_loaded_is_one_clear_error(tiny_qwen2, tmp_path, open_trainer, fault):
    folder = tmp_path / "model"
    shutil.copytree(tiny_qwen2, folder)
    config, file = folder / "config.json", folder / "model.safetensors"
    settings = json.loads(config.read_text())
    if fault == "no config":
        config.unlink()
    elif fault == "broken config":
        config.write_text("{")
    elif fault == "unknown type":
        config.write_text(json.dumps({**settings, "model_type": "martian", "architectures": ["MartianForCausalLM"]}))
    elif fault == "cut file":
        file.write_bytes(file.read_bytes()[:5000])
    else:
        tensors = load_file(file)
        name = "model.layers.1.mlp.up_proj.weight"
        moved = tensors.pop(name)
        if fault == "wrong shape":
            tensors[name] = moved[:-1].clone()
        save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ToolkitError) as error:
        open_trainer(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    if fault in ("missing weight", "wrong shape"):
        assert "model.layers.1.mlp.up_proj.weight" in str(error.value)


def test_a_device_that_is_not_here_is_refused(kit):
    with pytest.raises(ToolkitError, match=f"device tpu is not available to {kit.label} here"):
        kit.backend.open_scorer(ScorerSpec(".", device="tpu"))  # type: ignore[arg-type]
