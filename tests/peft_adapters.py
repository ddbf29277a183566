"""Adapters that PEFT made, of every kind that the toolkit reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

KINDS = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "dora and rslora": {"use_dora": True, "use_rslora": True},
    "patterns": {
        "rank_pattern": {"layers.0.self_attn.q_proj": 2, "down_proj": 3},
        "alpha_pattern": {r"layers\.\d+\.mlp.down_proj": 16},
        "use_rslora": True,
    },
    "dora with patterns": {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"q_proj": 3}, "use_dora": True},
    "one layer": {"layers_to_transform": [1]},
}


def build(folder: Path, model_folder: Path, **fields: Any) -> Path:
    """Save an adapter with PEFT, every tensor random, on four matrices of a model. Returns `folder`.

    fields: of PEFT's LoraConfig
    """
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    model = peft.get_peft_model(base, peft.LoraConfig(**{**settings, **fields}))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_magnitude" in name:
                parameter *= 0.5 + torch.rand(parameter.shape, generator=generator)
            elif ".lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return folder
