"""Packed rows against length buckets: padding, and the time to train the same examples, alternating in one process.

    python benchmarks/packing.py [--backends torch mlx] [--low 20 --high 200] [--row-tokens 1024 2048] [--rounds 5]

A model of the bundled one's shape takes LoRA updates over the same random examples, in rows of their own (grouped by
length, 8 a micro-batch) and packed (as many rows a micro-batch as hold about as many tokens). Prints medians and the
ratio of the two times; above 1 packing is slower.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from transformers import Qwen2Config, Qwen2ForCausalLM

from toolkit.backends import choose_backend
from toolkit.config import LoraConfig
from toolkit.datasets.batching import TrainingData
from toolkit.datasets.chat import TokenizedExample
from toolkit.protocols import Trainer, TrainerSpec

VOCAB_SIZE = 4096
BUCKET_ROWS = 8


def write_model(folder: Path, context: int) -> Path:
    """Write random weights in the shape of the bundled model."""
    config = Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def random_examples(count: int, low: int, high: int) -> list[TokenizedExample]:
    """Draw examples of evenly spread lengths, every token trained."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(low, high + 1, count)
    return [TokenizedExample(rng.integers(1, VOCAB_SIZE, n).astype(np.int32), np.ones(n, np.float32)) for n in lengths]


def epoch_seconds(trainer: Trainer, data: TrainingData) -> float:
    """Train every example once; return the time."""
    began = time.perf_counter()
    for index in range(data.updates_per_epoch):
        micro_batches = data.update(index)
        normaliser = sum(batch.trained_weight for batch in micro_batches)
        trainer.train_step(micro_batches, 1e-4, normaliser, seed=index).read()
    return time.perf_counter() - began


def compare(trainer: Trainer, ways: dict[str, TrainingData], rounds: int) -> dict[str, list[float]]:
    """Run the ways in turn, once unmeasured and then `rounds` times."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, data in ways.items():
            taken = epoch_seconds(trainer, data)
            if number:
                seconds[name].append(taken)
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", nargs="+", default=["torch", "mlx"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--low", type=int, default=20)
    parser.add_argument("--high", type=int, default=200)
    parser.add_argument("--row-tokens", type=int, nargs="+", default=[1024, 2048])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    examples = random_examples(options.count, options.low, options.high)
    tokens = sum(len(example.tokens) for example in examples)
    common = {"accumulation": 1, "seed": 0, "pad_id": 0}
    buckets = TrainingData(examples, batch_size=BUCKET_ROWS, **common)
    per_micro_batch = tokens / buckets.updates_per_epoch
    print(f"{options.count} examples of {options.low} to {options.high} tokens, {tokens} in all")
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder), max(options.row_tokens))
        for backend in options.backends:
            spec = TrainerSpec(model, device=options.device, dtype="float32", lora=LoraConfig(rank=8))
            trainer = choose_backend(backend, options.device)[0].open_trainer(spec)
            ways = {"buckets": buckets}
            for row_tokens in options.row_tokens:
                rows = max(1, round(per_micro_batch / row_tokens))
                ways[f"packed {row_tokens}"] = TrainingData(examples, batch_size=rows, row_tokens=row_tokens, **common)
            medians = {name: statistics.median(taken) for name, taken in compare(trainer, ways, options.rounds).items()}
            for name, data in ways.items():
                print(
                    f"{backend:6} {name:12} padding {data.padding_share:6.2%}  {data.rows_per_epoch:4d} rows  "
                    f"{data.updates_per_epoch:3d} updates  {medians[name]:7.3f} s  "
                    f"{tokens / medians[name]:8.0f} tokens/s  ratio {medians[name] / medians['buckets']:.2f}"
                )
            trainer.close()


if __name__ == "__main__":
    main()
