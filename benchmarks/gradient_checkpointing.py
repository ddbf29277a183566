"""Peak memory and time of a LoRA step with gradient checkpointing and without, where activations dominate.

    python benchmarks/gradient_checkpointing.py [--backends torch mlx] [--layers 8] [--rows 4] [--length 512]

Each way runs in a process of its own. The peak is what MLX says of itself (`mx.get_peak_memory`), and for torch on a
CPU the process's peak resident memory above what it was before the model was loaded; so both hold weights, optimizer
and activations, and no library. `every` is `train.checkpoint_layers`. Prints what is saved of the peak.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

VOCAB_SIZE = 1024
EVERY = (0, 1, 2, 4)  # 0: no checkpointing


def write_model(folder: Path, layers: int) -> Path:
    """Write a small random model."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def resident_bytes() -> int:
    """Return the process's resident memory now."""
    import psutil

    return psutil.Process().memory_info().rss


def peak_bytes(backend: str, before: int) -> int:
    """Return the peak of what the run took."""
    if backend == "mlx":
        import mlx.core as mx

        return mx.get_peak_memory()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (peak if sys.platform == "darwin" else peak * 1024) - before


def measure(backend: str, every: int, folder: Path, rows: int, length: int) -> dict[str, float]:
    """Take three steps in this process; return peak bytes, the median step's seconds and the last loss."""
    from toolkit.backends import choose_backend
    from toolkit.config import LoraConfig
    from toolkit.protocols import Batch, TrainerSpec

    opened, _ = choose_backend(backend, "cpu")
    tokens = np.random.default_rng(0).integers(1, VOCAB_SIZE, (rows, length)).astype(np.int32)
    positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    batch = Batch(tokens, np.ones(tokens.shape, np.float32), np.ones(tokens.shape, np.int32), positions)
    lora = LoraConfig(rank=8, dropout=0.1)
    spec = TrainerSpec(
        folder,
        device="cpu",
        dtype="float32",
        lora=lora,
        gradient_checkpointing=every > 0,
        checkpoint_layers=max(1, every),
    )
    if backend == "torch":
        import peft as peft  # so that the memory before the model holds the libraries
    before = resident_bytes()
    trainer = opened.open_trainer(spec)
    seconds, loss = [], 0.0
    for step in range(3):
        began = time.perf_counter()
        loss = trainer.train_step([batch], 1e-3, batch.trained_weight, seed=step).read().loss
        seconds.append(time.perf_counter() - began)
    return {"peak": peak_bytes(backend, before), "seconds": sorted(seconds)[1], "loss": loss}


def main() -> None:
    """Measure every way in a process of its own and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", nargs="+", default=["torch", "mlx"])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--one", nargs=3, metavar=("BACKEND", "EVERY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        backend, every, folder = options.one
        print(json.dumps(measure(backend, int(every), Path(folder), options.rows, options.length)))
        return
    shape = [f"--{name}={getattr(options, name)}" for name in ("layers", "rows", "length")]
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), options.layers)
        for backend in options.backends:
            whole = 0.0
            for every in EVERY:
                command = [sys.executable, __file__, *shape, "--one", backend, str(every), folder]
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
                found = json.loads(done.stdout.splitlines()[-1])
                whole = whole or found["peak"]
                name = f"every {every}" if every else "none"
                saved = 1 - found["peak"] / whole
                print(
                    f"{backend:6} {name:8} peak {found['peak'] / 2**20:7.0f} MiB  saved {saved:6.1%}  "
                    f"{found['seconds']:6.2f} s a step  loss {found['loss']:.6f}"
                )


if __name__ == "__main__":
    main()
