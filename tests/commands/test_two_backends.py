"""From the command line the two backends differ in the device alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from tests.small_runs import settings, toolkit, write_questions
from toolkit.runs import RunFolder, find_run

GSM8K = Path(__file__).parents[1] / "data" / "gsm8k_excerpt"
SHORT = settings(
    train__max_steps=4, train__batch_size=4, train__accumulation=2, train__schedule="constant", data__validation=0.2
)


def finetune(name: str, backend: str, *arguments: object) -> RunFolder:
    result = toolkit("finetune", "--name", name, "--backend", backend, "--set", "train.device=cpu", *arguments)
    assert result.exit_code == 0, result.stderr
    assert f"backend: {backend} on cpu" in result.stderr
    return find_run(name)


def losses(run: RunFolder) -> list[float]:
    return [row.get("loss", row.get("val_loss")) for row in run.metrics()]


@pytest.mark.parametrize(
    ("method", "variant"), [("lora", "rslora"), ("lora", "dora"), ("qlora", "lora"), ("full", "lora")]
)
def test_a_run_has_the_same_records_losses_and_export_on_both_backends(tiny_llama, tmp_path, method, variant):
    data = write_questions(tmp_path / "sums.jsonl")
    asked = ("--model", tiny_llama, "--data", data, "--method", method, "--set", f"lora.variant={variant}")
    runs = [finetune(backend, backend, *asked, *SHORT) for backend in ("torch", "mlx")]
    first, second = runs
    assert losses(second) == pytest.approx(losses(first), rel=1e-3)
    assert [row.keys() for row in second.metrics()] == [row.keys() for row in first.metrics()]
    assert second.manifest().keys() == first.manifest().keys()
    files = [{path.relative_to(run.path) for path in run.path.rglob("*")} for run in runs]
    assert files[0] == files[1]
    tensors = []
    for run in runs:
        assert toolkit("export", run.name, "--quant", "F32", "--no-verify").exit_code == 0
        reader = GGUFReader(run.export / f"{run.name}-F32.gguf")
        tensors.append({tensor.name: tensor.data for tensor in reader.tensors})
    assert tensors[0].keys() == tensors[1].keys()
    for name, expected in tensors[0].items():
        np.testing.assert_allclose(tensors[1][name], expected, atol=2e-4, err_msg=name)


def test_gsm8k_trains_on_mlx_with_falling_validation_loss(tiny_qwen2):
    fields = settings(
        data__prompt="question", data__completion="answer", data__max_seq_tokens=160, train__max_steps=6,
        train__batch_size=4, train__learning_rate=5e-3, data__max_validation_examples=8,
    )  # fmt: skip
    run = finetune("gsm8k", "mlx", "--model", tiny_qwen2, "--data", GSM8K, *fields)
    measured = [row["val_loss"] for row in run.metrics() if "val_loss" in row]
    assert measured[-1] < measured[0] - 0.2
    shown = toolkit("runs", "show", "gsm8k").stdout
    assert "mlx cpu" in shown and "val loss" in shown


def test_a_run_begun_on_one_backend_goes_on_on_the_other(tiny_qwen2, tmp_path):
    data = write_questions(tmp_path / "sums.jsonl")
    shape = ("--model", tiny_qwen2, "--data", data, *SHORT)
    whole = finetune("whole", "torch", *shape, "--set", "train.max_steps=6")
    run = finetune("begun", "mlx", *shape)
    more = settings(train__max_steps=6, backend="torch")
    result = toolkit("finetune", "--resume", "begun", *more)
    assert result.exit_code == 0, result.stderr
    assert "backend was mlx, is torch" in result.stderr
    steps = [[row["loss"] for row in one.metrics() if "loss" in row] for one in (whole, run)]
    assert steps[1] == pytest.approx(steps[0], rel=1e-3)
