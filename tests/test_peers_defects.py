"""What users of other tools report again and again, planted here from the command line; one test a defect.

The rest of the list has tests where the part at fault is tested: the table in docs/troubleshooting.md names them.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.small_runs import settings, toolkit, write_questions
from toolkit.backends import open_target, resolve_target
from toolkit.config import DataConfig
from toolkit.datasets.batching import collate
from toolkit.datasets.chat import tokenize_examples
from toolkit.datasets.formats import load_splits
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.protocols import Sampling
from toolkit.runs import RunFolder, find_run, runs_root
from toolkit.tensor_files import read_tensors

BACKENDS = pytest.mark.parametrize("backend", ["torch", pytest.param("mlx", marks=pytest.mark.slow)])
SHORT = settings(train__max_steps=4, train__batch_size=1, data__validation=0, train__device="cpu")


def write(path: Path, *records: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def finetune(model: Path, data: Path, *more: object, name: str = "mine") -> RunFolder:
    result = toolkit("finetune", "--model", model, "--data", data, "--name", name, *more)
    assert result.exit_code == 0, result.stderr
    return find_run(name)


def losses(run: RunFolder) -> list[float]:
    return [row["loss"] for row in run.metrics() if "loss" in row]


def prompt_ids(model: Path, question: str) -> list[int]:
    tokenizer = Tokenizer.load(model)
    text = tokenizer.render([{"role": "user", "content": question}], add_generation_prompt=True)
    return tokenizer.encode(text, parse_special=True)


@BACKENDS
def test_a_prompt_as_long_as_the_maximum_is_left_out_and_no_weight_becomes_nan(
    tiny_qwen2: Path, tmp_path: Path, backend: str
) -> None:
    """Elsewhere: no trained token, a mean over none of them (0/0), NaN in every weight after one step."""
    question = "What is one plus one?"
    longest = len(prompt_ids(tiny_qwen2, question))
    data = write(
        tmp_path / "data.jsonl", {"prompt": question, "completion": "two"}, {"prompt": "Hi", "completion": "ok"}
    )
    arguments = ("--backend", backend, *SHORT, "--set", f"data.max_seq_tokens={longest}")
    result = toolkit("finetune", "--model", tiny_qwen2, "--data", data, "--name", "mine", *arguments)
    assert result.exit_code == 0, result.stderr
    assert f"warning: left out: {data}:1: its prompt alone fills max_seq_tokens {longest}" in result.stderr
    run = find_run("mine")
    assert all(math.isfinite(loss) for loss in losses(run))
    for name, tensor in read_tensors(run.adapter / "adapter_model.safetensors").items():
        assert np.isfinite(tensor.array).all(), name
    # One token more leaves one token to learn: the example is cut, not lost.
    arguments = ("--backend", backend, *SHORT, "--set", f"data.max_seq_tokens={longest + 1}")
    assert all(math.isfinite(loss) for loss in losses(finetune(tiny_qwen2, data, *arguments, name="more")))


def test_data_with_every_label_masked_is_refused_before_anything_is_trained(tiny_qwen2: Path, tmp_path: Path) -> None:
    """Elsewhere: a loss of 0 or NaN, silently, for the whole run."""
    data = write(tmp_path / "data.jsonl", *[{"prompt": "word " * 60, "completion": "yes"}] * 3)
    result = toolkit("finetune", "--model", tiny_qwen2, "--data", data, *SHORT, "--set", "data.max_seq_tokens=20")
    assert result.exit_code == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert errors and all("fills max_seq_tokens 20, so nothing is left to learn" in line for line in errors)
    assert not runs_root().exists()


@BACKENDS
def test_a_trained_model_ends_its_turn(tiny_qwen2: Path, tmp_path: Path, backend: str) -> None:
    """Elsewhere: the stop token stands outside the loss mask, and the model talks until the length runs out."""
    data = write(tmp_path / "data.jsonl", *[{"prompt": "Say yes.", "completion": "yes"}] * 8)
    more = settings(train__max_steps=30, train__batch_size=8, data__validation=0, train__device="cpu")
    finetune(tiny_qwen2, data, "--backend", backend, "--method", "full", *more, "--set", "train.learning_rate=5e-3")
    opened = open_target(resolve_target("mine", runs_root()), "cpu", "float32", backend)
    tokenizer = Tokenizer.load(tiny_qwen2)
    prompt = prompt_ids(tiny_qwen2, "Say yes.")
    tokens = list(opened.scorer.generate([prompt], Sampling(max_new_tokens=40, stop_ids=tokenizer.stop_ids)))
    assert tokens[-1].finish_reason == "stop"
    assert tokenizer.decode([token.token for token in tokens if token.token is not None]) == "yes"


def test_padding_is_never_a_target_even_where_it_is_the_stop_token(tiny_qwen2: Path, tmp_path: Path) -> None:
    """Elsewhere: with pad = eos either the padding is trained or the end of the turn is masked with it."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_qwen2, folder)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "pad_token": "<|im_end|>"}))
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.pad_id in tokenizer.stop_ids
    data = write(
        tmp_path / "data.jsonl", {"prompt": "Hi", "completion": "ok"}, {"prompt": "Hi", "completion": "a longer answer"}
    )
    splits = load_splits(DataConfig(path=str(data), validation=0), 0)
    examples = tokenize_examples(splits.train, tokenizer, 256).examples
    batch = collate(examples, tokenizer.pad_id)
    padding = batch.segment_ids == 0
    assert padding.any() and not batch.loss_weights[padding].any()
    stops = np.isin(batch.tokens, tokenizer.stop_ids) & (batch.loss_weights > 0)
    assert stops.sum() == 2  # the end of each answer
    assert batch.trained_weight == sum(example.trained_tokens for example in examples)


def test_steps_are_updates_and_the_schedule_reaches_its_end_whatever_the_accumulation(
    tiny_qwen2: Path, tmp_path: Path
) -> None:
    """Elsewhere: iterations count micro-batches while the schedule counts updates, so the cosine stops half-way."""
    data = write_questions(tmp_path / "sums.jsonl")
    for accumulation in (1, 4):
        more = settings(train__max_steps=6, train__batch_size=2, train__accumulation=accumulation)
        more += settings(train__learning_rate=1e-3, train__warmup=1.0, data__validation=0)
        run = finetune(tiny_qwen2, data, *more, name=f"by-{accumulation}")
        rates = [row["learning_rate"] for row in run.metrics() if "loss" in row]
        assert len(rates) == 6
        assert (rates[0], rates[-1]) == pytest.approx((1e-3, 1e-4))
    # Three passes over 24 examples, four at a time in two parts: 18 updates, and the schedule has as many.
    more = settings(train__epochs=3, train__batch_size=2, train__accumulation=2, data__validation=0)
    shown = toolkit("finetune", "--model", tiny_qwen2, "--data", data, *more, "--dry-run").stdout
    assert "18 (6 an epoch)" in shown


@BACKENDS
def test_the_loss_does_not_jump_and_no_step_is_left_out_after_a_resume(
    tiny_qwen2: Path, tmp_path: Path, backend: str
) -> None:
    """Elsewhere: moments or the schedule start anew, or the data does, or steps are skipped to the end."""
    data = write_questions(tmp_path / "sums.jsonl")
    common = ("--backend", backend, *settings(train__batch_size=4, train__schedule="constant", train__device="cpu"))
    whole = finetune(tiny_qwen2, data, *common, *settings(train__max_steps=8), name="whole")
    begun = finetune(tiny_qwen2, data, *common, *settings(train__max_steps=4), name="begun")
    result = toolkit("finetune", "--resume", "begun", *settings(train__max_steps=8))
    assert result.exit_code == 0, result.stderr
    assert losses(begun)[:4] == losses(whole)[:4]
    # The longer schedule has a longer warmup; here both are one step.
    assert losses(begun) == losses(whole)
    assert [row["step"] for row in begun.metrics() if "loss" in row] == list(range(1, 9))


def test_an_adapter_that_would_load_as_a_no_op_is_refused_wherever_it_is_used(tiny_qwen2: Path, tmp_path: Path) -> None:
    """Elsewhere: keys of another naming load with a warning at most, and the base model answers."""
    from toolkit.tensor_files import write_tensors

    run = finetune(tiny_qwen2, write_questions(tmp_path / "sums.jsonl"), *SHORT)
    file = run.adapter / "adapter_model.safetensors"
    renamed = {name.replace("base_model.model.", "model."): tensor for name, tensor in read_tensors(file).items()}
    write_tensors(file, renamed, {"format": "pt"})
    backends = [("chat", "mine", "--prompt", "Hi", "--backend", backend) for backend in ("torch", "mlx")]
    for command in (("export", "mine", "--quant", "F32"), *backends):
        result = toolkit(*command)
        assert result.exit_code == 2
        assert f"error: {file}: the adapter " in result.stderr and "model.layers.0.self_attn" in result.stderr, command


def test_tokenising_takes_time_and_memory_in_proportion_to_the_data(tiny_qwen2: Path, tmp_path: Path) -> None:
    """Elsewhere: it slows down as the dataset grows, and holds several copies of it."""
    tokenizer = Tokenizer.load(tiny_qwen2)

    def cost(count: int) -> tuple[float, float, int]:
        data = write_questions(tmp_path / f"{count}.jsonl", count)
        splits = load_splits(DataConfig(path=str(data), validation=0), 0)
        tracemalloc.start()
        began = time.process_time()
        examples = tokenize_examples(splits.train, tokenizer, 256).examples
        seconds, kept = time.process_time() - began, tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return seconds, kept, sum(len(example.tokens) for example in examples)

    cost(100)  # warms up
    small, large = cost(300), cost(2400)
    assert large[0] < 3 * 8 * small[0]
    assert large[1] < 1.5 * 8 * small[1]
    assert large[1] / large[2] < 40  # bytes a token: its number, its weight, and a share of what holds them


def test_the_pins_can_be_satisfied_together() -> None:
    """Elsewhere: requirements that no set of versions meets."""
    ran = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
