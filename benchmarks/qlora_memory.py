"""Peak memory and step time of QLoRA on a model of a given size with random weights.

Writes a Qwen2.5-shaped folder in bfloat16, piece by piece, quantises it, trains a few steps with `toolkit finetune`,
and prints one row for docs/evidence.md. Quantising and training run in processes of their own, so that each has its own
peak: the device's for training on a GPU, else the process's.

    python -m benchmarks.qlora_memory --size 7B --length 1024 --steps 10 --scratch /some/fast/disk
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from toolkit.config import BaseConfig
from toolkit.models import COMPANION_FILES, NANO_FOLDER, read_model
from toolkit.protocols import ScorerSpec
from toolkit.tensor_files import INDEX_NAME, StoredTensor, TensorSpec, tensor_writer

# Qwen2.5's shapes (arXiv:2412.15115, table 1): hidden, blocks, heads, key/value heads, feed-forward, tied, vocabulary.
SHAPES = {
    "tiny": (256, 2, 4, 2, 768, True, 4096),
    "0.5B": (896, 24, 14, 2, 4864, True, 151_936),
    "1.5B": (1536, 28, 12, 2, 8960, True, 151_936),
    "3B": (2048, 36, 16, 2, 11_008, True, 151_936),
    "7B": (3584, 28, 28, 4, 18_944, False, 152_064),
}
STD = 0.02
MEBI = 1 << 20


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SHAPES, default="1.5B")
    parser.add_argument("--backend", choices=("torch", "mlx"), default="torch")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--layout", choices=("auto", "affine", "nf4"), default="auto")
    parser.add_argument("--bits", type=int, choices=(4, 8), default=4)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--scratch", type=Path, default=Path("qlora-scratch"))
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def config_of(size: str) -> dict[str, object]:
    """Return config.json of a Qwen2 model."""
    hidden, layers, heads, kv_heads, ffn, tied, vocabulary = SHAPES[size]
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": ffn,
        "tie_word_embeddings": tied,
        "vocab_size": vocabulary,
        "max_position_embeddings": 32_768,
        "rope_theta": 1_000_000.0,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
    }


def shapes_of(size: str) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a Qwen2 model."""
    hidden, layers, heads, kv_heads, ffn, tied, vocabulary = SHAPES[size]
    kv = hidden // heads * kv_heads
    result: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
    }
    if not tied:
        result["lm_head.weight"] = (vocabulary, hidden)
    linear = {"q_proj": (hidden, hidden), "k_proj": (kv, hidden), "v_proj": (kv, hidden), "o_proj": (hidden, hidden)}
    for layer in range(layers):
        start = f"model.layers.{layer}."
        for name, shape in linear.items():
            result[f"{start}self_attn.{name}.weight"] = shape
            if name != "o_proj":
                result[f"{start}self_attn.{name}.bias"] = shape[:1]
        result |= {f"{start}mlp.{name}.weight": (ffn, hidden) for name in ("gate_proj", "up_proj")}
        result[f"{start}mlp.down_proj.weight"] = (hidden, ffn)
        result |= {f"{start}{name}.weight": (hidden,) for name in ("input_layernorm", "post_attention_layernorm")}
    return result


def write_model(folder: Path, size: str) -> None:
    """Write the folder, a block's tensors to a shard, a few thousand rows at a time."""
    folder.mkdir(parents=True)
    for name in COMPANION_FILES:
        if (NANO_FOLDER / name).is_file() and name != "config.json":
            shutil.copyfile(NANO_FOLDER / name, folder / name)
    shards: dict[str, list[str]] = {}
    shapes = shapes_of(size)
    for name in shapes:
        shards.setdefault(name.split(".")[2] if ".layers." in name else name, []).append(name)
    index: dict[str, str] = {}
    rng = np.random.default_rng(0)
    for number, names in enumerate(shards.values()):
        file = f"model-{number:05}.safetensors"
        with tensor_writer(folder / file, {name: TensorSpec("bfloat16", shapes[name]) for name in names}) as put:
            for name in names:
                for first in range(0, shapes[name][0], 2048):
                    shape = (min(2048, shapes[name][0] - first), *shapes[name][1:])
                    norm = len(shape) == 1 and name.endswith("weight")
                    values = (
                        np.ones(shape, np.float32) if norm else rng.standard_normal(shape, np.float32) * np.float32(STD)
                    )
                    put(name, first, StoredTensor(name, "float32", values).to_bfloat16().array)
        index |= dict.fromkeys(names, file)
    (folder / INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "config.json").write_text(json.dumps(config_of(size), indent=2))


def backend_of(name: str) -> object:
    """Open a backend."""
    if name == "mlx":
        from toolkit.mlx_backend.session import MlxBackend

        return MlxBackend()
    from toolkit.torch_backend.session import TorchBackend

    return TorchBackend()


def peak_bytes() -> int:
    """Return the peak memory of this process (Linux: of this program alone, not of the one that started it)."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def prepare(options: argparse.Namespace, model: Path) -> None:
    """Quantise the model; print the peak of this process and what it was before."""
    backend = backend_of(options.backend)
    before = peak_bytes()
    started = time.monotonic()
    base = BaseConfig(bits=options.bits, layout=options.layout)
    spec = ScorerSpec(model, device=options.device, base=base)
    folder = backend.prepare_base(spec, lambda line: print(line, file=sys.stderr))  # type: ignore[attr-defined]
    figures = {
        "seconds": time.monotonic() - started,
        "before": before,
        "peak": peak_bytes(),
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
    }
    print(json.dumps(figures))


def train(options: argparse.Namespace, model: Path) -> list[dict[str, float]]:
    """Run `toolkit finetune` and return its metrics."""
    data = options.scratch / "data.jsonl"
    words = " ".join(f"step {n} of the procedure" for n in range(options.length))
    lines = [{"instruction": f"Repeat number {n}.", "input": "", "output": words} for n in range(64)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    name = f"{options.size}-{options.layout}-{options.backend}"
    settings = {
        "backend": options.backend,
        "base.bits": options.bits,
        "base.layout": options.layout,
        "train.device": options.device,
        "train.batch_size": 1,
        "train.accumulation": options.accumulation,
        "train.max_steps": options.steps,
        "train.gradient_checkpointing": "true",
        "data.max_seq_tokens": options.length,
        "data.validation": 0,
        "lora.rank": 16,
        "lora.alpha": 32,
    }
    given = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command = [
        sys.executable,
        "-m",
        "toolkit",
        "finetune",
        "--method",
        "qlora",
        "--model",
        str(model),
        "--data",
        str(data),
    ]
    subprocess.run([*command, "--name", name, "--overwrite", *given], check=True, stdout=sys.stderr)
    rows = (Path(os.environ["TOOLKIT_RUNS_DIR"]) / name / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, rows) if "loss" in row]


def main() -> None:
    """Write, quantise, train, print the row."""
    options = parse()
    scratch = options.scratch.resolve()
    os.environ["TOOLKIT_HOME"] = str(scratch / "home")
    os.environ["TOOLKIT_RUNS_DIR"] = str(scratch / "runs")
    model = scratch / options.size
    if options.prepare:
        prepare(options, model)
        return
    if not (model / "config.json").is_file():
        shutil.rmtree(model, ignore_errors=True)
        write_model(model, options.size)
    again = [sys.executable, "-m", "benchmarks.qlora_memory", *sys.argv[1:], "--prepare"]
    made = json.loads(subprocess.run(again, check=True, stdout=subprocess.PIPE, text=True).stdout)
    rows = train(options, model)
    facts = read_model(model)
    stored = sum(path.stat().st_size for path in facts.tensors.files)
    steps = [row["tokens"] / row["tokens_per_second"] for row in rows[1:] or rows]
    losses = ", ".join(f"{row['loss']:.3f}" for row in rows)
    print(
        f"| {options.size} ({facts.parameter_count:,} parameters), {options.layout} {options.bits} bits, "
        f"{options.backend} "
        f"| model {stored / MEBI:,.0f} MiB, quantised copy {made['bytes'] / MEBI:,.0f} MiB "
        f"| quantising {made['seconds']:,.0f} s, peak {made['peak'] / MEBI:,.0f} MiB "
        f"({(made['peak'] - made['before']) / MEBI:,.0f} MiB above the imports) "
        f"| training, {options.length} tokens: peak {max(row['peak_memory_bytes'] for row in rows) / MEBI:,.0f} MiB, "
        f"{np.median(steps):,.1f} s a step ({options.accumulation} × 1 × {rows[-1]['tokens']} tokens) "
        f"| losses {losses} |"
    )


if __name__ == "__main__":
    main()
