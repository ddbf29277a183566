"""Time and peak memory of an export, over model size: row by row against a float32 file that llama.cpp quantises.

    python benchmarks/export_memory.py [--sizes 0.1,0.3,1.0] [--quant Q4_K_M] [--threads 2] [--ways stream,llama,…]

Writes random Llamas in bfloat16 (2 bytes a weight; `llama` needs 7 bytes a weight of disk, the others 4 at most) and
exports each in the ways asked for, in processes of their own, unverified: to GGUF row by row (`stream`), by way of a
float32 file (`llama`), as a folder (`safetensors`, `mlx` in 4 bits). Prints what the writing took on top of the process
that was about to write: resident memory sampled every 5 ms. `anonymous` leaves out pages that are mapped from files,
which the system can take back at any time.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Literal

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
WAYS = ("stream", "llama", "safetensors", "mlx")


def shapes(billions: float) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Choose a Llama of about that many weights: sizes for config.json, and its tensors."""
    hidden = 2048
    inner, layers = 5632, max(1, round((billions * 1e9 - 2 * 8192 * hidden) / 44e6))
    sizes = {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": 8192,
        "max_position_embeddings": 2048,
    }
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (8192, hidden)}
    for layer in range(layers):
        block = f"model.layers.{layer}."
        tensors |= {
            f"{block}self_attn.q_proj.weight": (hidden, hidden),
            f"{block}self_attn.k_proj.weight": (256, hidden),
            f"{block}self_attn.v_proj.weight": (256, hidden),
            f"{block}self_attn.o_proj.weight": (hidden, hidden),
            f"{block}mlp.gate_proj.weight": (inner, hidden),
            f"{block}mlp.up_proj.weight": (inner, hidden),
            f"{block}mlp.down_proj.weight": (hidden, inner),
            f"{block}input_layernorm.weight": (hidden,),
            f"{block}post_attention_layernorm.weight": (hidden,),
        }
    return sizes, {**tensors, "model.norm.weight": (hidden,), "lm_head.weight": (8192, hidden)}


def write_model(folder: Path, billions: float) -> int:
    """Write a folder of random weights; return their number."""
    sys.path.insert(0, str(ROOT))
    from tests.tiny_models import write_tokenizer

    folder.mkdir()
    write_tokenizer(folder, "llama")
    sizes, tensors = shapes(billions)
    config = {"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False, **sizes}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    header, position = {}, 0
    for name, shape in tensors.items():
        end = position + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(0)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in tensors.values():
            noise = random.standard_normal(math.prod(shape), np.float32) * np.float32(0.02)
            file.write((noise.view(np.uint32) >> 16).astype(np.uint16).data)
    return position // 2


class Watch(threading.Thread):
    """Samples this process's memory until `stop`: what it grew by, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process()
        self._ended = threading.Event()
        self._first = self._now()
        self.growth = (0, 0)

    def _now(self) -> tuple[int, int]:
        info = self._process.memory_info()
        return info.rss, info.rss - info.shared

    def run(self) -> None:
        """Sample."""
        while not self._ended.wait(0.005):
            now = self._now()
            grown = tuple(more - less for more, less in zip(now, self._first, strict=True))
            self.growth = (max(self.growth[0], grown[0]), max(self.growth[1], grown[1]))

    def stop(self) -> tuple[int, int]:
        """End and return (resident, anonymous)."""
        self._ended.set()
        self.join()
        return self.growth


def measure(folder: Path, way: str, quant: str, threads: int) -> None:
    """Export once in this process and print the figures as JSON."""
    from toolkit.quantize.llama_quantizer import quantise
    from toolkit.quantize.mixture import plan_files
    from toolkit.quantize.plan import QUANT_TYPES
    from toolkit.quantize.source import open_source
    from toolkit.quantize.stream import write_gguf

    if way in ("safetensors", "mlx"):
        measure_folder(folder, way, threads)
        return
    source = open_source("random", folder, None)
    whole, plan = plan_files(source, [QUANT_TYPES["F32"], QUANT_TYPES[quant]], {})
    final = folder / f"{way}.gguf"
    watch = Watch()
    watch.start()
    started = time.perf_counter()
    if way == "stream":
        write_gguf(final, source, plan, {}, threads)
    else:
        write_gguf(folder / "whole.gguf", source, whole, {}, threads)
        quantise(folder / "whole.gguf", final, plan.kind, threads)
    seconds = time.perf_counter() - started
    resident, anonymous = watch.stop()
    (folder / "whole.gguf").unlink(missing_ok=True)
    figures = {"seconds": seconds, "resident": resident, "anonymous": anonymous, "bytes": final.stat().st_size}
    final.unlink()
    print(json.dumps(figures))


def measure_folder(folder: Path, form: Literal["safetensors", "mlx"], threads: int) -> None:
    """Export as a folder once in this process and print the figures as JSON."""
    from toolkit.affine import AffineLayout
    from toolkit.quantize.folder_plan import plan_folder
    from toolkit.quantize.folder_writer import write_folder
    from toolkit.quantize.source import open_folder_source

    source = open_folder_source("random", folder, None, known_only=True)
    plan = plan_folder(source, form, AffineLayout())
    out = folder / form
    out.mkdir()
    watch = Watch()
    watch.start()
    started = time.perf_counter()
    write_folder(out, source, plan, threads)
    seconds = time.perf_counter() - started
    resident, anonymous = watch.stop()
    print(json.dumps({"seconds": seconds, "resident": resident, "anonymous": anonymous, "bytes": plan.weights_bytes}))
    shutil.rmtree(out)


def main() -> None:
    """Write models, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="0.1,0.3,1.0", help="billions of weights")
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ways", default="stream,llama", help=f"of {', '.join(WAYS)}")
    parser.add_argument("--folder", type=Path, help="where models are written for a while")
    parser.add_argument("--measure", nargs=2, metavar=("FOLDER", "WAY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(Path(arguments.measure[0]), arguments.measure[1], arguments.quant, arguments.threads)
        return
    print("weights    way          seconds   extra resident   extra anonymous")
    for size in map(float, arguments.sizes.split(",")):
        place = Path(tempfile.mkdtemp(dir=arguments.folder))
        try:
            count = write_model(place / "model", size)
            for way in arguments.ways.split(","):
                command = [sys.executable, __file__, "--quant", arguments.quant, "--threads", str(arguments.threads)]
                done = subprocess.run(
                    [*command, "--measure", str(place / "model"), way], stdout=subprocess.PIPE, text=True, check=True
                )
                found = json.loads(done.stdout)
                print(
                    f"{count / 1e9:5.2f} B    {way:11}  {found['seconds']:7.1f}   {found['resident'] / 2**20:11.0f} MB"
                    f"   {found['anonymous'] / 2**20:12.0f} MB",
                    flush=True,
                )
        finally:
            shutil.rmtree(place)


if __name__ == "__main__":
    main()
