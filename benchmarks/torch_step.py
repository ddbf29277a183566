"""One full fine-tuning step against a plain transformers loop: same model, same batch, alternating in one process.

    python benchmarks/torch_step.py [--rows 8] [--length 256] [--rounds 4] [--threads 1]

Prints tokens per second (best and median) and the ratio of ours to the plain loop's, in float32 and bfloat16.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from toolkit.protocols import Batch, TrainerSpec
from toolkit.torch_backend.session import TorchBackend

VOCAB_SIZE = 4096


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


def plain_step(folder: Path, batch: Batch, dtype: str) -> Callable[[], float]:
    """Return a step as most people write it."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
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


def our_step(folder: Path, batch: Batch, dtype: str) -> Callable[[], float]:
    """Return a step of the toolkit's trainer."""
    trainer = TorchBackend().open_trainer(TrainerSpec(folder, device="cpu", dtype=dtype))
    return lambda: trainer.train_step([batch], 1e-3, batch.trained_weight, seed=0).read().loss


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    batch = full_batch(options.rows, options.length)
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder))
        for dtype in ("float32", "bfloat16"):
            steps = {"plain": plain_step(model, batch, dtype), "toolkit": our_step(model, batch, dtype)}
            speeds: dict[str, list[float]] = {name: [] for name in steps}
            for step in steps.values():
                step()
            for _ in range(options.rounds):
                for name, step in steps.items():
                    began = time.perf_counter()
                    step()
                    speeds[name].append(batch.token_count / (time.perf_counter() - began))
            for name, values in speeds.items():
                print(f"{dtype:9} {name:8} best {max(values):7.0f}  median {statistics.median(values):7.0f} tokens/s")
            print(f"{dtype:9} ratio (best) {max(speeds['toolkit']) / max(speeds['plain']):.3f}")


if __name__ == "__main__":
    main()
