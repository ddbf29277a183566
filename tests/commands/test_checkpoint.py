"""`toolkit checkpoint`: what is wrong is named, what is kept is right."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.small_runs import settings, toolkit, write_questions
from toolkit.checkpoints import list_checkpoints
from toolkit.checksums import write_sums
from toolkit.runs import RunFolder, find_run, runs_root
from toolkit.tensor_files import StoredTensor, read_tensors, write_tensors

SHORT = settings(
    train__max_steps=4, train__save_every=1, train__eval_every=2, train__batch_size=4, data__validation=0.2,
    train__keep_checkpoints=9, train__device="cpu",
)  # fmt: skip
Q_PROJ = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture(scope="module")
def made(build_tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Return `made(backend, method)`: a finished run with four checkpoints, trained once for all tests."""
    root = tmp_path_factory.mktemp("checkpoint-runs")
    data = write_questions(root / "sums.jsonl")
    model = build_tiny_model(family="qwen2")
    runs: dict[str, Path] = {}

    def make(backend: str, method: str) -> Path:
        name = f"{backend}-{method}"
        if name not in runs:
            more = ("--backend", backend, "--method", method, "--name", name)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("TOOLKIT_RUNS_DIR", str(root / "runs"))
                result = toolkit("finetune", "--model", model, "--data", data, *SHORT, *more)
            assert result.exit_code == 0, result.stderr
            runs[name] = root / "runs" / name
        return runs[name]

    return make


@pytest.fixture
def run(made: Callable[[str, str], Path]) -> RunFolder:
    """A copy of a LoRA run on torch, called `mine`."""
    shutil.copytree(made("torch", "lora"), runs_root() / "mine")
    return find_run("mine")


def flip(file: Path, position: int = -1) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


def rewrite(checkpoint: Path, name: str, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Change tensors of a checkpoint and write the sums anew, as a faulty writer would have."""
    file = checkpoint / name
    arrays = {key: np.array(tensor.array) for key, tensor in read_tensors(file).items()}
    change(arrays)
    write_tensors(file, {key: StoredTensor(key, "float32", array) for key, array in arrays.items()}, {"format": "pt"})
    write_sums(checkpoint)


def restate(checkpoint: Path, **changes: object) -> None:
    """Change fields of state.json (None takes one out) and write the sums anew."""
    file = checkpoint / "state.json"
    state = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in state.items() if value is not None}))
    write_sums(checkpoint)


def newest(run: RunFolder) -> Path:
    return list_checkpoints(run.checkpoints)[-1]


@pytest.mark.parametrize("backend", ["torch", "mlx"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_checkpoints_of_a_run_verify_strictly(made: Callable[[str, str], Path], backend: str, method: str) -> None:
    path = made(backend, method)
    result = toolkit("checkpoint", "verify", path, "--strict")
    assert result.exit_code == 0, result.stdout
    lines = result.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [str(path / f"checkpoints/step-{n:06d}") for n in (1, 2, 3, 4)]
    tensors = 28 if method == "lora" else 26
    files = 5 if method == "lora" else 4
    assert {line.partition(": ")[2] for line in lines} == {
        f"good ({files} files, {tensors} weights, {2 * tensors} moments)"
    }


def test_one_checkpoint_a_runs_name_and_its_folder_are_all_understood(run: RunFolder) -> None:
    path = newest(run)
    for text, count in ((path, 1), ("mine", 4), (run.path, 4)):
        assert len(toolkit("checkpoint", "verify", text).stdout.splitlines()) == count
    result = toolkit("checkpoint", "verify", "mime")
    assert result.exit_code == 2 and "no such run" in result.stderr and "Did you mean mine?" in result.stderr


def test_a_run_without_checkpoints_is_said_to_have_none(run: RunFolder) -> None:
    shutil.rmtree(run.checkpoints)
    for command in ("verify", "prune"):
        result = toolkit("checkpoint", command, "mine")
        assert (result.exit_code, result.stderr) == (2, f"error: {run.path}: this run has no checkpoint\n")
    assert toolkit("checkpoint", "list", "mine").exit_code == 0


def test_one_flipped_byte_is_named_with_its_file_and_the_exit_code_is_1(run: RunFolder) -> None:
    file = run.checkpoints / "step-000002" / "optimizer.safetensors"
    flip(file)
    result = toolkit("checkpoint", "verify", "mine")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1:3] == [
        f"{file.parent}: 1 problem",
        f"  error: {file}: corrupted: its SHA-256 is not the one in SHA256SUMS",
    ]
    assert result.stdout.count(": good (") == 3
    rows = json.loads(toolkit("checkpoint", "verify", "mine", "--json").stdout)
    assert [row["good"] for row in rows] == [True, False, True, True]
    assert rows[1]["problems"][0]["where"] == str(file)


def test_a_checkpoint_that_lost_its_sums_is_not_passed_over(run: RunFolder) -> None:
    (newest(run) / "SHA256SUMS").unlink()
    result = toolkit("checkpoint", "verify", "mine")
    assert result.exit_code == 1
    assert "no SHA256SUMS here, so this is not a whole checkpoint" in result.stdout


def put(name: str, value: float) -> Callable[[dict[str, np.ndarray]], object]:
    return lambda arrays: arrays[name].flat.__setitem__(5, value)


ADAPTER, OPTIMIZER = "adapter/adapter_model.safetensors", "optimizer.safetensors"
FAULTS = {
    "a weight is NaN": (ADAPTER, put(Q_PROJ, np.nan), f"{Q_PROJ} has values that are not finite"),
    "a moment is infinite": (
        OPTIMIZER,
        put(f"{Q_PROJ}.exp_avg", np.inf),
        f"{Q_PROJ}.exp_avg has values that are not finite",
    ),
    "a mean of squares is negative": (
        OPTIMIZER,
        put(f"{Q_PROJ}.exp_avg_sq", -1e-12),
        f"{Q_PROJ}.exp_avg_sq has negative values, which a mean of squares cannot have",
    ),
    "a moment is missing": (
        OPTIMIZER,
        lambda arrays: arrays.pop(f"{Q_PROJ}.exp_avg_sq"),
        f"lacks {Q_PROJ}.exp_avg_sq",
    ),
    "a moment is too many": (
        OPTIMIZER,
        lambda arrays: arrays.update({"x.exp_avg": np.zeros(1, np.float32)}),
        "has x.exp_avg, which does not belong to the weights",
    ),
    "a moment has another shape": (
        OPTIMIZER,
        lambda arrays: arrays.update({f"{Q_PROJ}.exp_avg": np.zeros((16, 63), np.float32)}),
        f"{Q_PROJ}.exp_avg has shape [16, 63], but by the weights it is [16, 64]",
    ),
    "an adapter's layer is missing": (
        ADAPTER,
        lambda arrays: [arrays.pop(name) for name in list(arrays) if "layers.1.mlp.up_proj" in name],
        "targets model.layers.1.mlp.up_proj, but the adapter has no weights for it",
    ),
    "an adapter's layer has another shape": (
        ADAPTER,
        lambda arrays: arrays.update({Q_PROJ: np.zeros((16, 63), np.float32)}),
        "fits [64, 63], but the model's weight is [64, 64]",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_was_written_wrong_is_named_with_its_file_and_tensor(run: RunFolder, fault: str) -> None:
    """The sums are right: only what the file says is not."""
    file, change, message = FAULTS[fault]
    rewrite(newest(run), file, change)
    result = toolkit("checkpoint", "verify", newest(run))
    assert result.exit_code == 1
    errors = [line for line in result.stdout.splitlines() if line.startswith("  error: ")]
    assert any(line.startswith(f"  error: {newest(run) / file}: ") and message in line for line in errors), errors


def test_a_full_models_tensors_are_compared_with_the_bases(made: Callable[[str, str], Path]) -> None:
    shutil.copytree(made("mlx", "full"), runs_root() / "mine")
    path = newest(find_run("mine"))
    name = "model.layers.0.mlp.up_proj.weight"

    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays["model.layers.0.mlp.upper_proj.weight"] = arrays.pop(name)

    rewrite(path, "model/model.safetensors", change)
    output = toolkit("checkpoint", "verify", path).stdout
    assert f"model.safetensors: lacks {name}" in output
    assert "has model.layers.0.mlp.upper_proj.weight, which does not belong to the model" in output
    assert "optimizer.safetensors: lacks model.layers.0.mlp.upper_proj.weight.exp_avg\n" in output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": None}, "has no seed"),
        ({"data_position": None}, "has no data_position"),
        ({"data_position": "3"}, "data_position is '3', which is no int"),
        ({"seed": -1}, "seed is -1"),
        ({"random_state": None}, "random_state is None, not 'derived'"),
        ({"random_state": {"numpy": [1, 2]}}, "not 'derived': its draws cannot be repeated"),
        ({"threads": None}, "has no threads"),
        ({"versions": None}, "has no versions"),
        ({"update": 3}, "is of update 3, but the folder is called step-000004"),
        ({"method": "full"}, "method is full, but the weights here are ['adapter/adapter_model.safetensors']"),
        ({"tokenizer_sha256": "0" * 64}, "the tokenizer of"),
        ({"model_sha256": "0" * 64}, "the model of"),
    ],
)
def test_a_state_that_a_run_cannot_go_on_from_is_named(run: RunFolder, changes: dict, message: str) -> None:
    restate(newest(run), **changes)
    result = toolkit("checkpoint", "verify", newest(run))
    assert result.exit_code == 1
    assert message in result.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threads": 77}, "threads was 77, is "),
        ({"blas": "slow"}, "blas was slow, is "),
        ({"backend": "mlx"}, "blas was "),
        ({"device": "cuda"}, "this machine cannot go on exactly: device cuda is not available"),
        ({"versions": {"torch": "1.0"}}, "torch was 1.0, is "),
    ],
)
def test_another_machine_is_a_warning_and_with_strict_an_error(run: RunFolder, changes: dict, message: str) -> None:
    restate(newest(run), **changes)
    result = toolkit("checkpoint", "verify", newest(run))
    assert result.exit_code == 0
    assert ": good (" in result.stdout and "  warning: " in result.stdout and message in result.stdout
    result = toolkit("checkpoint", "verify", newest(run), "--strict")
    assert result.exit_code == 1
    assert "  error: " in result.stdout and message in result.stdout


def test_a_checkpoint_away_from_its_run_and_model_says_what_it_was_not_compared_with(
    run: RunFolder, tmp_path: Path
) -> None:
    path = tmp_path / "step-000004"
    shutil.copytree(newest(run), path)
    assert toolkit("checkpoint", "verify", path, "--strict").exit_code == 0
    config = path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": "/gone"}))
    write_sums(path)
    result = toolkit("checkpoint", "verify", path)
    assert result.exit_code == 0
    assert "the model /gone is not here, so names, shapes and the tokenizer were not compared with it" in result.stdout
    assert toolkit("checkpoint", "verify", path, "--strict").exit_code == 1


def names(run: RunFolder) -> list[str]:
    return sorted(os.listdir(run.checkpoints))


def test_pruning_keeps_the_best_and_the_newest_and_says_what_it_frees(run: RunFolder) -> None:
    restate(newest(run), best={"step": 1, "val_loss": 0.5})
    sizes = {
        path.name: sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) for path in run.checkpoints.iterdir()
    }
    shown = toolkit("checkpoint", "prune", "mine", "--keep", 1, "--dry-run")
    assert shown.exit_code == 0
    assert names(run) == ["step-000001", "step-000002", "step-000003", "step-000004"]
    assert "keep step-000001" in shown.stdout and "(best)" in shown.stdout
    assert "would delete step-000002" in shown.stdout and "would free" in shown.stdout
    result = toolkit("checkpoint", "prune", "mine", "--keep", 1)
    assert names(run) == ["step-000001", "step-000004"]
    freed = (sizes["step-000002"] + sizes["step-000003"]) / 2**20
    assert result.stdout.splitlines()[-1] == f"freed {freed:.0f} MiB"


def test_pruning_keeps_the_checkpoint_that_a_rollback_would_go_to(run: RunFolder) -> None:
    guards = json.loads((newest(run) / "state.json").read_text())["guards"]
    restate(newest(run), best={"step": 4, "val_loss": 0.5}, guards={**guards, "good_step": 2})
    assert toolkit("checkpoint", "prune", "mine", "--keep", 1).exit_code == 0
    assert names(run) == ["step-000002", "step-000004"]


def test_pruning_keeps_as_many_as_the_runs_config_says(run: RunFolder) -> None:
    assert toolkit("checkpoint", "prune", "mine").exit_code == 0
    assert len(names(run)) == 4
    config = run.config_path
    config.write_text(config.read_text().replace("keep_checkpoints: 9", "keep_checkpoints: 2"))
    restate(newest(run), best={"step": 4, "val_loss": 0.5})
    assert toolkit("checkpoint", "prune", "mine").exit_code == 0
    assert names(run) == ["step-000003", "step-000004"]


def test_a_corrupted_newest_checkpoint_does_not_count_and_the_only_good_one_stays(run: RunFolder) -> None:
    for step in (2, 3, 4):
        flip(run.checkpoints / f"step-{step:06d}" / "state.json")
    result = toolkit("checkpoint", "prune", "mine", "--keep", 2)
    assert result.exit_code == 0
    assert names(run) == ["step-000001"]
    assert "deleted step-000004" in result.stdout and "state.json: corrupted" in result.stdout


def test_when_no_checkpoint_is_good_none_is_deleted(run: RunFolder) -> None:
    for path in list_checkpoints(run.checkpoints):
        flip(path / "state.json")
    result = toolkit("checkpoint", "prune", "mine", "--keep", 1)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == f"error: {run.path}: no checkpoint of this run is good, so none is deleted"
    assert len(names(run)) == 4


def test_a_run_that_trains_is_not_pruned(run: RunFolder) -> None:
    run.update_manifest({"status": "running", "process_id": os.getpid()})
    result = toolkit("checkpoint", "prune", "mine", "--keep", 1)
    assert result.exit_code == 2 and "this run is training" in result.stderr
    assert len(names(run)) == 4


def test_pruning_takes_what_killed_processes_left(run: RunFolder) -> None:
    left = run.checkpoints / ".step-000005.1234.partial"
    left.mkdir()
    (left / "optimizer.safetensors").write_bytes(bytes(3 << 20))
    result = toolkit("checkpoint", "prune", "mine", "--keep", 9)
    assert "deleted 1 left by killed processes" in result.stdout and "freed 3 MiB" in result.stdout
    assert not left.exists() and len(names(run)) == 4


def test_the_list_names_steps_sizes_losses_the_best_and_the_bad(run: RunFolder) -> None:
    restate(newest(run), best={"step": 2, "val_loss": 0.5})
    flip(run.checkpoints / "step-000003" / "adapter" / "adapter_config.json")
    lines = toolkit("checkpoint", "list", "mine").stdout.splitlines()
    assert lines[0].split() == ["step", "size", "val", "loss", "best", "good"]
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "3", "4"]
    assert "best  yes" in lines[2] and "–" in lines[1]
    assert lines[3].endswith("no (adapter/adapter_config.json: corrupted: its SHA-256 is not the one in SHA256SUMS)")
    rows = json.loads(toolkit("checkpoint", "list", "mine", "--json").stdout)
    assert [(row["step"], row["best"], len(row["problems"])) for row in rows] == [
        (1, False, 0),
        (2, True, 0),
        (3, False, 1),
        (4, False, 0),
    ]
    assert rows[1]["val_loss"] > 0 and rows[1]["size_bytes"] > 100_000
