"""Exports shared by the tests of this folder: each is made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit.backends import Target
from toolkit.quantize.export import ExportReport, ExportRequest, export_model

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.fixture(scope="session")
def adapter_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return `make(model_folder, **LoraConfig fields) -> folder`: an adapter of PEFT's, A and B both random."""
    made: dict[tuple[Any, ...], Path] = {}

    def make(model_folder: Path, **options: Any) -> Path:
        key = (model_folder, *sorted(options.items()))
        if key in made:
            return made[key]
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
        settings = {"r": 4, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **options}
        model = get_peft_model(base, LoraConfig(**settings))
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
        made[key] = tmp_path_factory.mktemp("adapter")
        model.save_pretrained(made[key])
        return made[key]

    return make


@pytest.fixture(scope="session")
def export_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ExportReport]:
    """Return `export(model_folder, quant, adapter=None) -> ExportReport`, verified; equal arguments share one file."""
    reports: dict[tuple[Any, ...], ExportReport] = {}

    def export(folder: Path, quant: str = "F32", adapter: Path | None = None) -> ExportReport:
        key = (folder, quant, adapter)
        if key not in reports:
            target = Target("adapter" if adapter else "model", "tiny", folder, adapter)
            reports[key] = export_model(ExportRequest(target, quant, tmp_path_factory.mktemp("export")))
        return reports[key]

    return export


def transformers_logits(folder: Path, tokens: np.ndarray, adapter: Path | None = None) -> np.ndarray:
    """Ask transformers (and PEFT, merged) for the logits of (B, T) tokens."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    with torch.no_grad():
        return model(torch.from_numpy(tokens.astype(np.int64))).logits.numpy()
