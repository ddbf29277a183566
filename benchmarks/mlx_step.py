"""One LoRA step on MLX against mlx-lm's own trainer: same model, same rows, same adapters, alternating in one process.

    python benchmarks/mlx_step.py [--rows 8] [--length 256] [--rounds 8] [--vocabulary 4096] [--layers 6]

mlx-lm's side is its `train` function, called with a fixed batch. The toolkit clips the gradient, mlx-lm does not. On a
CPU both run uncompiled (compiling starts a C++ compiler for every shape). Prints the processor's seconds a step (the
median; not the clock's, which other programs change), the median of the ratios of neighbouring rounds, and what a step
takes on top of model and optimizer, by MLX's own allocator.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: F401  (before the BLAS that MLX gets, as the toolkit does)
from transformers import Qwen2Config, Qwen2ForCausalLM

from toolkit.config import LoraConfig
from toolkit.mlx_backend.session import MlxBackend  # before mlx_lm: it loads the BLAS
from toolkit.protocols import Batch, TrainerSpec

import mlx.core as mx  # isort: skip
import mlx.optimizers  # isort: skip
from mlx_lm.tuner import trainer as peer  # isort: skip
from mlx_lm.tuner.utils import linear_to_lora_layers  # isort: skip
from mlx_lm.utils import load_model  # isort: skip

RANK, ALPHA, LEARNING_RATE = 16, 32.0, 1e-4
STEPS_A_ROUND = 2


def write_model(folder: Path, vocabulary: int, layers: int) -> Path:
    """Write random weights in the shape of the bundled model, or with a larger vocabulary."""
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def random_rows(rows: int, length: int, vocabulary: int) -> np.ndarray:
    """Return (rows, length + 1) tokens: `length` of them are predicted."""
    return np.random.default_rng(0).integers(1, vocabulary, (rows, length + 1)).astype(np.int32)


def our_step(folder: Path, tokens: np.ndarray) -> Callable[[], None]:
    """Return a step of the toolkit's trainer."""
    positions = np.tile(np.arange(tokens.shape[1], dtype=np.int32), (len(tokens), 1))
    batch = Batch(tokens, np.ones(tokens.shape, np.float32), np.ones(tokens.shape, np.int32), positions)
    spec = TrainerSpec(folder, device="cpu", dtype="float32", lora=LoraConfig(rank=RANK, alpha=ALPHA))
    trainer = MlxBackend().open_trainer(spec)
    return lambda: (
        [trainer.train_step([batch], LEARNING_RATE, batch.trained_weight, seed=0).read() for _ in range(STEPS_A_ROUND)]
        and None
    )


def their_step(folder: Path, tokens: np.ndarray) -> Callable[[], None]:
    """Return mlx-lm's trainer, run for as many iterations."""
    model, _ = load_model(folder, model_config={"rope_theta": 10000.0})
    model.freeze()
    keys = {f"self_attn.{name}_proj" for name in "qkvo"} | {f"mlp.{name}_proj" for name in ("gate", "up", "down")}
    linear_to_lora_layers(model, len(model.layers), {"rank": RANK, "scale": ALPHA / RANK, "dropout": 0.0, "keys": keys})
    optimizer = mlx.optimizers.AdamW(learning_rate=LEARNING_RATE, bias_correction=True, weight_decay=0.0)
    batch = mx.array(tokens), mx.array([[1, tokens.shape[1]]] * len(tokens))

    def fixed_batches(**_: Any) -> Iterator[tuple[mx.array, mx.array]]:
        while True:
            yield batch

    def step() -> None:
        with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
            arguments = peer.TrainingArgs(
                batch_size=len(tokens), iters=STEPS_A_ROUND, adapter_file=str(Path(place) / "adapters.safetensors")
            )
            peer.train(model, optimizer, [], args=arguments, iterate_batches=fixed_batches)

    return step


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("rows", 8), ("length", 256), ("rounds", 8), ("vocabulary", 4096), ("layers", 6)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    tokens = random_rows(options.rows, options.length, options.vocabulary)
    with tempfile.TemporaryDirectory() as place:
        folder = write_model(Path(place), options.vocabulary, options.layers)
        mx.set_default_device(mx.cpu)
        mx.disable_compile()
        steps = {"mlx-lm": their_step(folder, tokens), "toolkit": our_step(folder, tokens)}
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        peaks: dict[str, int] = dict.fromkeys(steps, 0)
        for step in steps.values():
            step()
        for _ in range(options.rounds):
            for name, step in steps.items():
                mx.clear_cache()
                mx.reset_peak_memory()
                resting = mx.get_active_memory()
                began = time.process_time()
                step()
                seconds[name].append((time.process_time() - began) / STEPS_A_ROUND)
                peaks[name] = max(peaks[name], mx.get_peak_memory() - resting)
    for name, values in seconds.items():
        print(f"{name:8} median {statistics.median(values):.3f} s a step, which takes {peaks[name] / 2**20:,.0f} MiB")
    ratios = [ours / theirs for ours, theirs in zip(seconds["toolkit"], seconds["mlx-lm"], strict=True)]
    print(f"time, toolkit / mlx-lm: median {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"memory of a step, toolkit / mlx-lm: {peaks['toolkit'] / peaks['mlx-lm']:.2f}")


if __name__ == "__main__":
    main()
