"""`data.packing` from the command line: what is shown and recorded, exact resume, and where it cannot be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.small_runs import settings, toolkit, write_questions
from tests.tiny_models import build_lfm2
from toolkit.config import FinetuneConfig
from toolkit.config_files import load_config
from toolkit.runs import RunFolder, find_run

PACKED = settings(
    data__packing="true", data__max_seq_tokens=256, data__validation=0.2, train__batch_size=2, train__accumulation=2,
    train__epochs=2, train__eval_every=1, train__save_every=1, train__keep_checkpoints=99, lora__dropout=0.1,
)  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_questions(tmp_path / "sums.jsonl", 60)


def finetune(name: str, model: Path, data: Path, backend: str, *more: object) -> tuple[RunFolder, str]:
    common = ("--model", model, "--data", data, "--backend", backend, "--set", "train.device=cpu")
    result = toolkit("finetune", "--name", name, *common, *PACKED, *more)
    assert result.exit_code == 0, result.stderr
    return find_run(name), result.stderr


def outcome(run: RunFolder) -> tuple[list[float], bytes]:
    losses = [row["loss"] for row in run.metrics() if "loss" in row]
    return losses, (run.adapter / "adapter_model.safetensors").read_bytes()


def test_a_dry_run_shows_the_padding_with_packing_and_without(tiny_qwen2: Path, data: Path) -> None:
    common = ("finetune", "--model", tiny_qwen2, "--data", data, "--dry-run", *PACKED)
    packed, plain = toolkit(*common), toolkit(*common, *settings(data__packing="false"))
    assert packed.exit_code == plain.exit_code == 0, packed.stderr
    found = re.search(r"padding: +([\d.]+%) of a batch, packed \(([\d.]+%) without packing\)", packed.stdout)
    assert found and found[1] != found[2]
    assert re.search(rf"padding: +{found[2]} of a batch\n", plain.stdout)
    assert re.search(r"batch: +2 × 2 packed rows an update", packed.stdout)
    assert re.search(r"batches: \d+ updates an epoch, packed, " + found[1], packed.stderr)
    assert re.search(r"batches: \d+ updates an epoch, by length, " + found[2], plain.stderr)


@pytest.mark.slow  # the same on a trainer, in seconds: tests/conformance/test_packing.py
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_packed_run_resumed_at_any_update_ends_with_the_bits_of_one_that_was_not(
    backend: str, tiny_qwen2: Path, data: Path
) -> None:
    run, _ = finetune("whole", tiny_qwen2, data, backend)
    figures, manifest = run.manifest()["batches"], run.manifest()
    assert figures["packed"] and 0 < figures["padding_share"] < 0.2
    steps = [row for row in run.metrics() if "loss" in row]
    assert (
        figures["updates_per_epoch"] == 3 and figures["rows_per_epoch"] % 4 != 0
    )  # the epoch's last update is smaller
    assert len(steps) == manifest["total_steps"] == 6
    assert sum(row["tokens"] for row in steps) == 2 * manifest["data_figures"]["tokens"]
    assert sum(row["trained_tokens"] for row in steps) == 2 * manifest["data_figures"]["trained_tokens"]
    assert any(row["padding_share"] > 0 for row in steps) and all(row["padding_share"] < 0.3 for row in steps)
    expected = outcome(run)
    for step in range(1, 6):
        result = toolkit("finetune", "--resume", run.checkpoints / f"step-{step:06d}")
        assert result.exit_code == 0, result.stderr
        assert outcome(run) == expected, f"resumed after step {step}"


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_where_packed_sequences_would_see_each_other_rows_go_by_length_with_a_warning(
    backend: str, tmp_path: Path, data: Path
) -> None:
    model = build_lfm2(tmp_path / "lfm2")
    short = settings(train__epochs=0.4, train__eval_every=9, train__save_every=9)
    run, errors = finetune("fallen-back", model, data, backend, *short)
    warning = errors.index(f"warning: {backend} cannot keep packed sequences apart in this architecture")
    assert warning < errors.index("run: ")
    assert re.search(r"batches: 12 updates an epoch, by length", errors[warning:])
    assert load_config(FinetuneConfig, run.config_path).data.packing is False
    assert run.manifest()["batches"]["packed"] is False
    assert run.manifest()["total_steps"] == 5
    again, errors = finetune("plain", model, data, backend, *short, *settings(data__packing="false"))
    assert outcome(again) == outcome(run) and "warning" not in errors


def test_a_packed_run_is_not_resumed_where_it_cannot_be_packed(
    tiny_qwen2: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = finetune("whole", tiny_qwen2, data, "torch")
    monkeypatch.setattr("toolkit.mlx_backend.packing.keeps_sequences_apart", lambda split: False)
    result = toolkit("finetune", "--resume", run.checkpoints / "step-000002", "--backend", "mlx")
    assert result.exit_code == 2
    assert "this run is packed, and mlx cannot keep packed sequences apart" in result.stderr
    assert "Go on with the backend that it was begun on" in result.stderr
