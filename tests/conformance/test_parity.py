"""The same config gives the same training on both backends, in float32 and without dropout."""

from __future__ import annotations

import inspect
import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
import torch

from tests.conformance.batches import ragged
from toolkit.adapter_files import write_adapter
from toolkit.config import BaseConfig, LoraConfig, LoraVariant, OptimizerName
from toolkit.mlx_backend.session import MlxBackend
from toolkit.protocols import OptimizerSpec, ScorerSpec, Trainer, TrainerSpec
from toolkit.torch_backend.session import TorchBackend

LORA = LoraConfig(rank=4, alpha=12.0)
RSLORA = LoraConfig(rank=4, alpha=12.0, variant="rslora")
DORA = LoraConfig(rank=4, alpha=12.0, variant="dora")
FEW = LoraConfig(rank=8, alpha=8.0, target_modules=("q_proj", "v_proj"))
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 20_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 500.0}
SHAPES = {
    "qwen2": {"family": "qwen2"},
    "qwen2 untied": {"family": "qwen2", "tied": False, "changes": (("rope_parameters", PLAIN_ROPE),)},
    "qwen3": {"family": "qwen3"},
    "llama": {"family": "llama", "tied": False, "max_shard_size": "200KB"},
    "llama3 rope": {"family": "llama", "changes": (("rope_parameters", LLAMA3_ROPE),)},
    "mistral": {"family": "mistral", "tied": False},
}
MORE_SHAPES = {"mistral window": {"family": "mistral", "changes": (("sliding_window", 8),)}}
FILES = (
    "devices",
    "packing",
    "checkpointing",
    "model",
    "quantised",
    "adapters",
    "losses",
    "optimizers",
    "generate",
    "session",
)


@dataclass(frozen=True)
class Case:
    """One way to train; `lengths` are those of a micro-batch's rows, `bits` those of a quantised base."""

    shape: str
    lora: LoraConfig | None
    accumulation: int = 1
    lengths: tuple[int, ...] = (16, 16)
    trained: int | None = None
    checkpointing: bool = False
    decay: float = 0.0
    optimizer: OptimizerName = "adamw"
    bits: Literal[4, 8] | None = None

    @property
    def base(self) -> BaseConfig | None:
        return None if self.bits is None else BaseConfig(bits=self.bits, layout="affine")


RAGGED = (23, 5, 14)
EVEN = (16, 16)
# test_the_cases_cover_every_pair_of_settings says of what.
CASES = [
    Case("qwen2", LORA, 4, RAGGED),
    Case("qwen2", RSLORA, 1, EVEN),
    Case("qwen2", DORA, 1, RAGGED, None, checkpointing=True, decay=0.1, optimizer="sgd"),
    Case("qwen2", None, 4, RAGGED, 4, decay=0.1),
    Case("qwen2 untied", FEW, 4, EVEN, None, checkpointing=True, decay=0.1),
    Case("qwen2 untied", RSLORA, 1, RAGGED, 4, checkpointing=True, decay=0.1, optimizer="sgd"),
    Case("qwen2 untied", None, 1, EVEN, None, optimizer="sgd"),
    Case("qwen3", DORA, 1, EVEN, None, optimizer="sgd"),
    Case("qwen3", DORA, 4, RAGGED, 4, checkpointing=True),
    Case("qwen3", None, 4, RAGGED, 4, decay=0.1),
    Case("llama", FEW, 1, RAGGED, 4, optimizer="sgd"),
    Case("llama", None, 4, EVEN, None, checkpointing=True, decay=0.1),
    Case("llama3 rope", RSLORA, 4, EVEN, 4, decay=0.1, optimizer="sgd"),
    Case("llama3 rope", None, 1, RAGGED, None, checkpointing=True),
    Case("mistral", LORA, 1, RAGGED, 4, checkpointing=True, decay=0.1, optimizer="sgd"),
    Case("mistral", LORA, 4, EVEN, None),
    Case("mistral", None, 4, RAGGED, 4, checkpointing=True, decay=0.1, optimizer="sgd"),
    Case("qwen2", LORA, 4, RAGGED, None, bits=4),
    Case("llama", DORA, 1, EVEN, 4, checkpointing=True, decay=0.1, optimizer="sgd", bits=4),
    Case("qwen2 untied", FEW, 1, EVEN, 4, checkpointing=True, bits=8),
    Case("qwen3", RSLORA, 4, RAGGED, None, decay=0.1, optimizer="sgd", bits=8),
]
# Learning rates at which 20 updates matter, by optimizer and whether adapters learn.
RATES = {("adamw", True): 1e-2, ("adamw", False): 1e-3, ("sgd", True): 0.1, ("sgd", False): 0.1}


def open_both(folder: Path, **fields: Any) -> tuple[Trainer, Trainer]:
    spec = TrainerSpec(folder, device="cpu", dtype="float32", **fields)
    return TorchBackend().open_trainer(spec), MlxBackend().open_trainer(spec)


def step(trainer: Trainer, number: int, case: Case) -> float:
    micro = [ragged(100 * (number % 4) + i, case.lengths, case.trained) for i in range(case.accumulation)]
    rate = RATES[case.optimizer, case.lora is not None] / (1 + number / 10)
    return trainer.train_step(micro, rate, sum(b.trained_weight for b in micro), number).read().loss


def logits(trainer: Any, seed: int = 3) -> np.ndarray:
    return np.concatenate(list(trainer.logits(ragged(seed, (40, 40)).tokens)), axis=1)


@pytest.mark.parametrize("shape", [*SHAPES, *MORE_SHAPES])
def test_logits_of_the_same_folder_agree(shape, build_tiny_model):
    torch_trainer, mlx_trainer = open_both(build_tiny_model(**{**SHAPES, **MORE_SHAPES}[shape]))
    np.testing.assert_allclose(logits(mlx_trainer), logits(torch_trainer), atol=1e-4)


def test_the_cases_cover_every_pair_of_settings():
    names = ("lora", "accumulation", "lengths", "trained", "checkpointing", "decay", "optimizer")
    for first, second in itertools.combinations(names, 2):
        found = {(getattr(case, first), getattr(case, second)) for case in CASES}
        values = [{getattr(case, name) for case in CASES} for name in (first, second)]
        assert found == set(itertools.product(*values)), (first, second)
    methods = {(case.shape, case.lora is None) for case in CASES}
    assert methods == set(itertools.product(SHAPES, (True, False)))
    assert {case.lora.variant for case in CASES if case.lora} == set(get_args(LoraVariant))
    assert {case.optimizer for case in CASES} == set(get_args(OptimizerName))
    for name in names[1:]:
        found = {(case.bits, getattr(case, name)) for case in CASES if case.bits}
        assert found == set(itertools.product((4, 8), {getattr(case, name) for case in CASES})), name


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.shape}-{CASES.index(case)}")
def test_the_first_20_losses_agree(case, build_tiny_model):
    fields = {
        "lora": case.lora,
        "base": case.base,
        "gradient_checkpointing": case.checkpointing,
        "optimizer": OptimizerSpec(case.optimizer, weight_decay=case.decay),
        "seed": 11,
    }
    on_torch, on_mlx = open_both(build_tiny_model(**SHAPES[case.shape]), **fields)
    expected = [step(on_torch, number, case) for number in range(20)]
    assert expected[16] < 0.98 * expected[0]  # of the same batch: the updates matter, far more than the bound
    assert [step(on_mlx, number, case) for number in range(20)] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("lora", "optimizer", "bits"),
    [(LORA, "adamw", None), (DORA, "adamw", None), (RSLORA, "sgd", None), (None, "sgd", None), (LORA, "adamw", 4)],
)
@pytest.mark.parametrize("first", ["torch", "mlx"])
def test_a_run_goes_on_on_the_other_backend(first, lora, optimizer, bits, tiny_qwen2):
    case = Case("qwen2", lora, 2, RAGGED, optimizer=optimizer, bits=bits)
    fields = {"lora": lora, "optimizer": OptimizerSpec(optimizer), "base": case.base}
    pair = dict(zip(("torch", "mlx"), open_both(tiny_qwen2, **fields), strict=True))
    others = dict(zip(("torch", "mlx"), open_both(tiny_qwen2, seed=5, **fields), strict=True))
    whole, second = pair[first], others["mlx" if first == "torch" else "torch"]
    for number in range(3):
        step(whole, number, case)
    second.restore(whole.state())
    assert second.state().updates == 3
    expected = [step(whole, number, case) for number in range(3, 6)]
    assert [step(second, number, case) for number in range(3, 6)] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("shape", "lora"), [("qwen2", LORA), ("llama", DORA), ("qwen3", RSLORA)])
@pytest.mark.parametrize("trained_on", ["torch", "mlx"])
def test_an_adapter_of_one_backend_answers_the_same_on_the_other_and_in_peft(
    shape, lora, trained_on, build_tiny_model, plain_model, tmp_path
):
    import peft

    folder = build_tiny_model(**SHAPES[shape])
    case = Case(shape, lora, 1, RAGGED)
    trainer = open_both(folder, lora=lora)[0 if trained_on == "torch" else 1]
    for number in range(3):
        step(trainer, number, case)
    write_adapter(tmp_path / "adapter", trainer.state().weights, lora, str(folder))
    spec = ScorerSpec(folder, tmp_path / "adapter", "cpu", "float32")
    tokens = ragged(3, (40, 40)).tokens
    with torch.no_grad():
        witness = peft.PeftModel.from_pretrained(plain_model(folder), tmp_path / "adapter")
        expected = witness(torch.from_numpy(tokens).long()).logits.numpy()
    for backend in (TorchBackend(), MlxBackend()):
        np.testing.assert_allclose(logits(backend.open_scorer(spec)), expected, atol=1e-4, err_msg=backend.name)
    assert np.abs(logits(open_both(folder)[0]) - expected).max() > 0.01


def _public(module: Any) -> dict[str, str]:
    """Return name → signature of what a module defines itself, in order; classes with their methods."""
    found = {}
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        found[name] = _signature(thing) if inspect.isfunction(thing) else "class"
        if inspect.isclass(thing):
            for key, member in vars(thing).items():
                function = getattr(member, "fget", None) or getattr(member, "__wrapped__", member)
                if inspect.isfunction(function) and not key.startswith("_"):
                    found[f"{name}.{key}"] = _signature(function)
    return {_neutral(name): signature for name, signature in found.items()}


def _signature(function: Any) -> str:
    """Return names, order, kinds and defaults of the parameters; annotations name each framework's own types."""
    parameters = inspect.signature(function).parameters.values()
    return ", ".join(f"{p.kind.description} {p.name}={p.default}" for p in parameters)


def _neutral(name: str) -> str:
    return re.sub(r"Torch|Mlx", "", name)


# What one framework brings and the other has to be given.
MLX_ALONE = {
    "devices": {"device_label", "use_device"},
    "packing": {"PackedRows", "ignored_window"},
    "model": {"rope_settings", "Parameter", "named_parameters"},
    "adapters": {"LoraLinear", "AdaptedModel", "base_weight"},
}
MLX_MEMBERS = ("PackedRows.", "Parameter.", "LoraLinear.", "AdaptedModel.", "SplitModel.head_names")


@pytest.mark.parametrize("file", FILES)
def test_both_packages_offer_the_same_names_and_signatures_in_the_same_order(file):
    import toolkit.mlx_backend.adapters
    import toolkit.mlx_backend.checkpointing
    import toolkit.mlx_backend.devices
    import toolkit.mlx_backend.generate
    import toolkit.mlx_backend.losses
    import toolkit.mlx_backend.model
    import toolkit.mlx_backend.optimizers
    import toolkit.mlx_backend.packing
    import toolkit.mlx_backend.quantised
    import toolkit.torch_backend.adapters
    import toolkit.torch_backend.checkpointing
    import toolkit.torch_backend.devices
    import toolkit.torch_backend.generate
    import toolkit.torch_backend.losses
    import toolkit.torch_backend.model
    import toolkit.torch_backend.optimizers
    import toolkit.torch_backend.packing
    import toolkit.torch_backend.quantised

    ours = _public(getattr(toolkit.mlx_backend, file))
    theirs = _public(getattr(toolkit.torch_backend, file))
    extra = [name for name in ours if name not in theirs]
    assert all(name in MLX_ALONE.get(file, ()) or name.startswith(MLX_MEMBERS) for name in extra), extra
    assert {name: ours[name] for name in ours if name in theirs} == theirs
    assert [name for name in ours if name in theirs] == list(theirs)
