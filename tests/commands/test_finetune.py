from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.small_runs import settings, toolkit, write_questions
from toolkit.adapter_files import read_adapter
from toolkit.checkpoints import list_checkpoints
from toolkit.config import FinetuneConfig
from toolkit.config_files import load_config
from toolkit.models import read_model
from toolkit.runs import RunFolder, find_run, runs_root
from toolkit.tensor_files import FolderTensors, read_tensors

SHORT = settings(train__max_steps=4, train__eval_every=2, train__batch_size=4, data__validation=0.2)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_questions(tmp_path / "sums.jsonl")


def finetune(model: Path, data: Path, *more: object) -> RunFolder:
    result = toolkit("finetune", "--model", model, "--data", data, *SHORT, *more)
    assert result.exit_code == 0, result.stderr
    return find_run(str(result.stdout.split(": ")[0]))


def losses(run: RunFolder) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in run.metrics() if "loss" in row]


def test_a_run_leaves_config_manifest_metrics_checkpoints_and_a_peft_adapter(tiny_qwen2: Path, data: Path) -> None:
    result = toolkit("finetune", "--model", tiny_qwen2, "--data", data, *SHORT, "--name", "mine")
    assert result.exit_code == 0, result.stderr
    assert "toolkit chat mine" in result.stdout and "toolkit export mine --quant Q4_K_M" in result.stdout
    assert "torch on cpu: no CUDA device" in result.stderr
    run = find_run("mine")
    manifest = run.manifest()
    assert manifest["status"] == "finished"
    assert manifest["result"] == "adapter"
    assert len(manifest["model_sha256"]) == len(manifest["tokenizer_sha256"]) == 64
    assert list(manifest["data_files"]) == [str(data)]
    assert manifest["backend"]["device"] == "cpu" and manifest["backend"]["threads"] >= 1
    assert manifest["final"]["steps"] == 4
    assert [step for step, _ in losses(run)] == [1, 2, 3, 4]
    assert [row["step"] for row in run.metrics() if "val_loss" in row] == [0, 2, 4]
    steps = [row for row in run.metrics() if "loss" in row]
    needed = {"tokens", "learning_rate", "grad_norm", "tokens_per_second", "step_seconds", "peak_memory_bytes"}
    assert needed | {"rss_bytes", "cpu_percent", "disk_bytes"} <= set(steps[-1])
    assert [path.name for path in list_checkpoints(run.checkpoints)] == ["step-000002", "step-000004"]
    adapter = read_adapter(run.adapter, read_model(tiny_qwen2).tensors.entries)
    assert len(adapter.modules) == 14


def test_the_saved_config_repeats_the_run_bit_for_bit(tiny_qwen2: Path, data: Path) -> None:
    first = finetune(tiny_qwen2, data, *settings(lora__dropout=0.1))
    again = toolkit("finetune", "--config", first.config_path, "--name", "again")
    assert again.exit_code == 0, again.stderr
    second = find_run("again")
    assert losses(first) == losses(second)
    name = "adapter/adapter_model.safetensors"
    assert (first.path / name).read_bytes() == (second.path / name).read_bytes()
    assert load_config(FinetuneConfig, first.config_path) == load_config(FinetuneConfig, second.config_path)


def test_the_result_is_the_checkpoint_with_the_lowest_validation_loss(
    tiny_qwen2: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([5.0, 4.0, 3.0, 3.5, 3.4, 3.6])  # before the first step, then after each
    monkeypatch.setattr("toolkit.train.validation_loss", lambda scorer, batches: (next(losses), 1))
    run = finetune(tiny_qwen2, data, *settings(train__max_steps=5, train__eval_every=1, train__keep_checkpoints=1))
    assert run.manifest()["result_step"] == 2
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-000002", "step-000005"]
    checkpoint = run.checkpoints / "step-000002" / "adapter" / "adapter_model.safetensors"
    assert (run.adapter / "adapter_model.safetensors").read_bytes() == checkpoint.read_bytes()


def test_a_run_ends_early_when_nothing_improves_and_does_not_go_on(tiny_qwen2: Path, data: Path) -> None:
    few = settings(train__max_steps=20, train__patience=2, train__min_improvement=50.0)
    result = toolkit("finetune", "--model", tiny_qwen2, "--data", data, *SHORT, *few, "--name", "early")
    assert result.exit_code == 0, result.stderr
    assert "step 6: no better validation loss in 2 evaluations, best at step " in result.stderr
    run = find_run("early")
    assert run.manifest()["status"] == "finished" and run.manifest()["final"]["steps"] == 6
    assert [row["step"] for row in run.metrics() if "loss" in row] == list(range(1, 7))
    shown = toolkit("runs", "show", "early").stdout
    assert "stopped early:" in shown and "evaluations 2" in shown
    again = toolkit("finetune", "--resume", "early")
    assert again.exit_code == 2
    assert "this run ended early at step 6, after 2 evaluations without a gain. Start another" in again.stderr


def test_patience_without_validation_data_is_refused(tiny_qwen2: Path, data: Path) -> None:
    wrong = settings(train__patience=2, data__validation=0)
    result = toolkit("finetune", "--model", tiny_qwen2, "--data", data, *SHORT, *wrong)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("error: train.patience waits for a better validation loss, but")
    assert not runs_root().exists()


def test_full_fine_tuning_leaves_a_complete_model_in_the_bases_precision(build_tiny_model, data: Path) -> None:
    base = build_tiny_model(family="llama", tied=False, dtype="bfloat16", max_shard_size="100KB")
    (base / "LICENSE").write_text("Use it well.\n", "utf-8")
    run = finetune(base, data, "--method", "full")
    before, after = FolderTensors(base), FolderTensors(run.model)
    assert set(before) == set(after)
    assert {entry.dtype for entry in after.entries.values()} == {"bfloat16"}
    name = "model.layers.0.mlp.up_proj.weight"
    assert not np.array_equal(before[name].array, after[name].array)
    facts = read_model(run.model)
    assert facts.architecture == "LlamaForCausalLM"
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "LICENSE"):
        assert (run.model / file).read_bytes() == (base / file).read_bytes()
    assert toolkit("finetune", "--model", run.model, "--data", data, "--dry-run").exit_code == 0


def test_a_dry_run_shows_the_plan_and_the_trained_tokens_and_creates_nothing(tiny_qwen2: Path, data: Path) -> None:
    result = toolkit("finetune", "--model", tiny_qwen2, "--data", data, *SHORT, "--dry-run")
    assert result.exit_code == 0, result.stderr
    lines = dict(line.split(":", 1) for line in result.stdout.splitlines() if ":" in line and "<" not in line)
    assert "Qwen2ForCausalLM" in lines["model"]
    assert lines["method"].strip() == "lora, 32,768 trainable of 135,744"
    assert lines["data"].strip() == "19 train, 5 validation"
    assert lines["steps"].strip() == "4 (5 an epoch), warmup 1"
    assert "float32" in lines["device"]
    assert "«" in result.stdout and "<|im_end|>»" in result.stdout
    assert result.stdout.index("<|im_start|>assistant") < result.stdout.index("«")
    assert not runs_root().exists()


@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_the_trainable_count_of_the_plan_is_that_of_the_run(tiny_llama: Path, data: Path, variant: str) -> None:
    chosen = settings(lora__variant=variant)
    plan = toolkit("finetune", "--model", tiny_llama, "--data", data, *SHORT, *chosen, "--dry-run").stdout
    run = finetune(tiny_llama, data, *chosen)
    parameters = run.manifest()["parameters"]
    assert f"{parameters['trainable']:,} trainable of {parameters['total']:,}" in plan


def test_an_interrupted_run_saves_says_how_to_go_on_and_ends_as_if_it_had_not_been(
    tiny_qwen2: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finetune(tiny_qwen2, data, *settings(lora__dropout=0.1))
    import toolkit.jobs.running as running

    real = running.train

    def interrupted(*arguments, **options):
        for event in real(*arguments, **options):
            if type(event).__name__ == "StepEvent" and event.step == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield event

    monkeypatch.setattr(running, "train", interrupted)
    # Asked during step 3's bookkeeping at the latest: the loop asks after every update.
    more = [*settings(lora__dropout=0.1), "--name", "cut"]
    result = toolkit("finetune", "--model", tiny_qwen2, "--data", data, *SHORT, *more)
    assert result.exit_code == 130
    assert result.stdout == "toolkit finetune --resume cut\n"
    cut = find_run("cut")
    assert cut.status() == "interrupted"
    stopped_at = cut.manifest()["stopped_at_step"]
    assert (cut.checkpoints / f"step-{stopped_at:06d}").is_dir() and stopped_at < 4
    assert not cut.adapter.exists()
    monkeypatch.setattr(running, "train", real)
    assert toolkit("finetune", "--resume", "cut").exit_code == 0
    name = "adapter/adapter_model.safetensors"
    assert (cut.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert losses(cut) == losses(whole)


def test_a_resumed_run_may_only_change_its_length(tiny_qwen2: Path, data: Path) -> None:
    run = finetune(tiny_qwen2, data)
    result = toolkit(
        "finetune", "--resume", run.name, *settings(train__batch_size=2, train__seed=5, train__max_steps=6)
    )
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"error: --resume: train.{key} was {before} and cannot become {after} in a resumed run. "
        "Only train.max_steps and train.epochs may change, and where it runs: backend and train.device"
        for key, before, after in (("batch_size", 4, 2), ("seed", 0, 5))
    ]
    result = toolkit("finetune", "--resume", run.name)
    assert result.exit_code == 2 and "already done 4 steps of 4. Give it more: --set train.max_steps=8" in result.stderr
    result = toolkit("finetune", "--resume", run.path, *settings(train__max_steps=6))
    assert result.exit_code == 0, result.stderr
    assert run.manifest()["final"]["steps"] == 6
    assert [step for step, _ in losses(run)] == [1, 2, 3, 4, 5, 6]
    assert load_config(FinetuneConfig, run.config_path).train.max_steps == 6


def test_a_corrupted_checkpoint_is_refused_by_name_and_the_last_good_one_offered(tiny_qwen2: Path, data: Path) -> None:
    run = finetune(tiny_qwen2, data)
    (run.path / "adapter").rename(run.path / "lost")
    broken = run.checkpoints / "step-000004" / "optimizer.safetensors"
    content = bytearray(broken.read_bytes())
    content[-1] ^= 1
    broken.write_bytes(bytes(content))
    result = toolkit("finetune", "--resume", run.name)
    good = run.checkpoints / "step-000002"
    command = f"toolkit finetune --resume {good}"
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: {broken}: corrupted: its SHA-256 is not the one in SHA256SUMS. "
        f"The last good one is step-000002; go on from it: {command}\n"
    )
    assert toolkit(*command.split()[1:]).exit_code == 0
    assert run.manifest()["final"]["steps"] == 4
    assert [step for step, _ in losses(run)] == [1, 2, 3, 4]


def test_a_run_does_not_go_on_with_other_data_or_another_model(tiny_qwen2: Path, data: Path) -> None:
    run = finetune(tiny_qwen2, data)
    data.write_text(data.read_text().replace("What is", "How much is"))
    result = toolkit("finetune", "--resume", run.name, *settings(train__max_steps=6))
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        f"error: {run.path}: the training data has changed since this run began, so it cannot go on exactly"
    )


def test_a_change_of_threads_is_said_when_going_on(tiny_qwen2: Path, data: Path) -> None:
    run = finetune(tiny_qwen2, data)
    for path in list_checkpoints(run.checkpoints):
        state = path / "state.json"
        state.write_text(json.dumps({**json.loads(state.read_text()), "threads": 77}))
        from toolkit.checkpoints import write_sums

        write_sums(path)
    result = toolkit("finetune", "--resume", run.name, *settings(train__max_steps=5))
    assert result.exit_code == 0
    assert "going on, but not bit for bit: threads was 77" in result.stderr


def test_a_run_without_validation_keeps_the_last_step(tiny_qwen2: Path, data: Path) -> None:
    run = finetune(tiny_qwen2, data, *settings(data__validation=0))
    assert run.manifest()["result_step"] == 4
    assert run.manifest()["final"]["val_loss"] is None
    tensors = read_tensors(run.adapter / "adapter_model.safetensors")
    assert any(tensors[name].array.any() for name in tensors if ".lora_B." in name)


def test_examples_that_lose_their_answer_to_truncation_are_counted_and_named(tiny_qwen2: Path, data: Path) -> None:
    with data.open("a") as file:
        file.write(json.dumps({"instruction": "word " * 400, "input": "", "output": "yes"}) + "\n")
    result = toolkit(
        "finetune", "--model", tiny_qwen2, "--data", data, *SHORT, "--dry-run", *settings(data__validation=0)
    )
    assert result.exit_code == 0, result.stderr
    assert f"left out: {data}:25" in result.stderr
    assert "left out 1" in result.stdout


def test_settings_reach_the_backend(tiny_qwen2: Path, data: Path) -> None:
    from toolkit.jobs.finetune import prepare_finetune

    overrides = """
        lora.rank=3 lora.alpha=9 lora.dropout=0.25 lora.target_modules=[v_proj] train.beta1=0.5 train.beta2=0.6
        train.weight_decay=0.7 train.max_grad_norm=0.8 train.seed=9 train.gradient_checkpointing=true
        train.device=cpu train.dtype=bfloat16
    """.split()
    config = load_config(FinetuneConfig, None, overrides, {"model": str(tiny_qwen2), "data.path": str(data)})
    spec = prepare_finetune(config).trainer_spec()
    assert spec.lora is not None
    assert (spec.lora.rank, spec.lora.alpha, spec.lora.dropout, spec.lora.target_modules) == (3, 9.0, 0.25, ("v_proj",))
    optimizer = spec.optimizer
    assert (optimizer.beta1, optimizer.beta2, optimizer.weight_decay, optimizer.max_grad_norm) == (0.5, 0.6, 0.7, 0.8)
    assert (spec.seed, spec.gradient_checkpointing, spec.device, spec.dtype) == (9, True, "cpu", "bfloat16")
    full = prepare_finetune(config.model_copy(update={"method": "full"}))
    assert full.trainer_spec().lora is None
