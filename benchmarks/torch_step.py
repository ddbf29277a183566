"""A step of full fine-tuning, and one of LoRA, against a plain transformers (and PEFT) loop: same model, same batch.

    python benchmarks/torch_step.py [--rows 8] [--length 256] [--rounds 4] [--threads 1] [--method full|lora]

Both sides alternate in one process. Prints tokens per second of the processor's time (not the clock's, which other
programs on the machine change; best and median) and the median of the ratios of neighbouring rounds (time of ours /
time of the plain loop's), in float32 and bfloat16.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import peft
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from toolkit.config import LoraConfig
from toolkit.protocols import Batch, TrainerSpec
from toolkit.torch_backend.session import TorchBackend

VOCAB_SIZE = 4096
RANK, ALPHA = 16, 32.0
METHODS = ("full", "lora")


def write_model(folder: Path) -> Path:
    """Write random weights in the shape of the bundled model."""
    config = Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def full_batch(rows: int, length: int) -> Batch:
    """Return random tokens, all of them trained."""
    tokens = np.random.default_rng(0).integers(1, VOCAB_SIZE, (rows, length)).astype(np.int32)
    positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    return Batch(tokens, np.ones((rows, length), np.float32), np.ones((rows, length), np.int32), positions)


def plain_step(folder: Path, batch: Batch, dtype: str, method: str) -> Callable[[], float]:
    """Return a step as most people write it."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if method == "lora":
        adapters = peft.LoraConfig(r=RANK, lora_alpha=int(ALPHA), target_modules="all-linear", task_type="CAUSAL_LM")
        model = peft.get_peft_model(model, adapters)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, fused=True)
    tokens = torch.from_numpy(batch.tokens).long()

    def step() -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = model(tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def our_step(folder: Path, batch: Batch, dtype: str, method: str) -> Callable[[], float]:
    """Return a step of the toolkit's trainer."""
    lora = LoraConfig(rank=RANK, alpha=ALPHA) if method == "lora" else None
    trainer = TorchBackend().open_trainer(TrainerSpec(folder, device="cpu", dtype=dtype, lora=lora))
    return lambda: trainer.train_step([batch], 1e-3, batch.trained_weight, seed=0).read().loss


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--method", choices=METHODS, help="Default: both.")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    batch = full_batch(options.rows, options.length)
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder))
        for method in [options.method] if options.method else METHODS:
            for dtype in ("float32", "bfloat16"):
                compare(model, batch, dtype, method, options.rounds)


def compare(model: Path, batch: Batch, dtype: str, method: str, rounds: int) -> None:
    """Measure both sides, alternating, and print."""
    steps = {"plain": plain_step(model, batch, dtype, method), "toolkit": our_step(model, batch, dtype, method)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            began = time.process_time()
            step()
            seconds[name].append(time.process_time() - began)
    for name, values in seconds.items():
        best, median = (batch.token_count / figure for figure in (min(values), statistics.median(values)))
        print(f"{method:4} {dtype:9} {name:8} best {best:7.0f}  median {median:7.0f} tokens/s")
    ratios = [ours / plain for ours, plain in zip(seconds["toolkit"], seconds["plain"], strict=True)]
    median = statistics.median(ratios)
    print(f"{method:4} {dtype:9} time, toolkit / plain: median {median:.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
