"""Exporting to a quantised GGUF: ours against llama.cpp's converter followed by its quantiser, on the same folders.

    python -m benchmarks.export [--sizes 0.1,0.4,1.0] [--family llama|qwen2] [--ways toolkit,llama.cpp] [--rounds 3,1]

The peer is `convert_hf_to_gguf.py` (bfloat16, out of llama-cpp-python's source distribution, fetched for the run and
not kept), then `llama_model_quantize` on its file. `--ways` also takes `safetensors` and `mlx` (4 bits): our exports
as a folder. Writes random models in bfloat16 (of the largest, 5 bytes a weight
of disk for a while) and exports each by turns, every step in a process of its own, unverified; the two files must hold
the same tensors. Time: seconds of wall clock and of processor from the first import to the end, and without imports.
Memory: what a step took on top of its process after the imports, sampled every 5 ms; `anonymous` leaves out pages
mapped from files, which the system can take back.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tests.oracles.llama_cpp_source import CONVERTER, fetch_llama_cpp_source
from tests.tiny_models import write_tokenizer

ROOT = Path(__file__).resolve().parents[1]
OURS, PEER = "toolkit", "llama.cpp"
STEPS = {OURS: ("stream",), PEER: ("convert", "quantise"), "safetensors": ("safetensors",), "mlx": ("mlx",)}
HIDDEN, INNER, KEYS, VOCABULARY = 2048, 5632, 256, 8192
PRE_TOKENIZERS = {"llama": "llama-bpe", "qwen2": "qwen2"}
Figures = dict[str, float]


def shapes(family: str, billions: float) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Choose a model of about that many weights: its config.json, and its tensors."""
    layers = max(1, round((billions * 1e9 - 2 * VOCABULARY * HIDDEN) / 44e6))
    config = {
        "architectures": ["LlamaForCausalLM" if family == "llama" else "Qwen2ForCausalLM"],
        "model_type": family,
        "tie_word_embeddings": False,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": KEYS // (HIDDEN // 32),
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
    }
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(layers):
        block = f"model.layers.{layer}."
        attention = {"q_proj": (HIDDEN, HIDDEN), "k_proj": (KEYS, HIDDEN), "v_proj": (KEYS, HIDDEN)}
        for name, shape in attention.items():
            tensors[f"{block}self_attn.{name}.weight"] = shape
            if family == "qwen2":
                tensors[f"{block}self_attn.{name}.bias"] = shape[:1]
        tensors |= {
            f"{block}self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            f"{block}mlp.gate_proj.weight": (INNER, HIDDEN),
            f"{block}mlp.up_proj.weight": (INNER, HIDDEN),
            f"{block}mlp.down_proj.weight": (HIDDEN, INNER),
            f"{block}input_layernorm.weight": (HIDDEN,),
            f"{block}post_attention_layernorm.weight": (HIDDEN,),
        }
    return config, {**tensors, "model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}


def write_model(folder: Path, family: str, billions: float) -> int:
    """Write a folder of random bfloat16 weights; return their number."""
    folder.mkdir()
    write_tokenizer(folder, "llama" if family == "llama" else "qwen2")
    config, tensors = shapes(family, billions)
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
            self._look()

    def _look(self) -> None:
        grown = tuple(more - less for more, less in zip(self._now(), self._first, strict=True))
        self.growth = (max(self.growth[0], grown[0]), max(self.growth[1], grown[1]))

    def stop(self) -> tuple[int, int]:
        """End and return (resident, anonymous)."""
        self._ended.set()
        self.join()
        self._look()
        return self.growth


# ---- steps, each in a process of its own


def prepare(step: str, place: Path, quant: str, threads: int, source: str) -> Callable[[], object]:
    """Import what a step needs; return the step."""
    if step == "convert":
        return _prepare_converter(place, source)
    from toolkit.quantize.llama_quantizer import quantise
    from toolkit.quantize.mixture import plan_files
    from toolkit.quantize.plan import QUANT_TYPES
    from toolkit.quantize.source import open_source
    from toolkit.quantize.stream import write_gguf

    if step in ("safetensors", "mlx"):
        return _prepare_folder(step, place, threads)
    if step == "quantise":
        return lambda: quantise(place / "bf16.gguf", place / f"{PEER}.gguf", QUANT_TYPES[quant], threads)

    def stream() -> None:
        opened = open_source("random", place / "model", None)
        (plan,) = plan_files(opened, [QUANT_TYPES[quant]], {})
        write_gguf(place / f"{OURS}.gguf", opened, plan, {}, threads)

    return stream


def _prepare_folder(form: Any, place: Path, threads: int) -> Callable[[], object]:
    from toolkit.affine import AffineLayout
    from toolkit.quantize.folder_plan import plan_folder
    from toolkit.quantize.folder_writer import write_folder
    from toolkit.quantize.source import open_folder_source

    def write() -> None:
        source = open_folder_source("random", place / "model", None, known_only=True)
        (place / form).mkdir()
        write_folder(place / form, source, plan_folder(source, form, AffineLayout()), threads)
        shutil.rmtree(place / form)

    return write


def _prepare_converter(place: Path, source: str) -> Callable[[], object]:
    import runpy

    preparation, _, work = CONVERTER.strip().rpartition("\n")
    family = json.loads((place / "model" / "config.json").read_text("utf-8"))["model_type"]
    options = ["--outtype", "bf16", "--outfile", str(place / "bf16.gguf")]
    sys.argv = ["", source, PRE_TOKENIZERS[family], str(place / "model"), *options]
    exec(preparation, {})
    assert work.startswith("runpy.run_path")
    return lambda: runpy.run_path(sys.argv[0], run_name="__main__")


def measure(step: str, place: Path, quant: str, threads: int, source: str) -> None:
    """Take a step in this process and write its figures."""
    work = prepare(step, place, quant, threads, source)
    watch = Watch()
    watch.start()
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    resident, anonymous = watch.stop()
    figures = {"work": seconds, "resident": resident, "anonymous": anonymous}
    (place / "figures.json").write_text(json.dumps(figures), "utf-8")


# ---- the whole


def run(way: str, place: Path, quant: str, threads: int, source: Path) -> Figures:
    """Export once; add the steps' times, keep the larger memory."""
    total: Figures = dict.fromkeys(("wall", "work", "cpu", "resident", "anonymous"), 0.0)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    for step in STEPS[way]:
        command = [sys.executable, "-m", "benchmarks.export", "--quant", quant, "--threads", str(threads)]
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            [*command, "--measure", step, str(place), str(source)], cwd=ROOT, env=environment, capture_output=True
        )
        wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise SystemExit(done.stderr.decode("utf-8", "replace")[-3000:])
        found = json.loads((place / "figures.json").read_text("utf-8"))
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        for key, value in (("wall", wall), ("work", found["work"]), ("cpu", cpu)):
            total[key] += value
        for key in ("resident", "anonymous"):
            total[key] = max(total[key], found[key])
    (place / "bf16.gguf").unlink(missing_ok=True)
    return total


def same_tensors(one: Path, other: Path) -> bool:
    """Say whether two GGUF files hold the same tensors bit for bit."""
    import gguf

    ours, theirs = (
        {tensor.name: tensor for tensor in sorted(gguf.GGUFReader(path).tensors, key=lambda each: each.name)}
        for path in (one, other)
    )
    return ours.keys() == theirs.keys() and all(
        tensor.tensor_type == theirs[name].tensor_type and np.array_equal(tensor.data, theirs[name].data)
        for name, tensor in ours.items()
    )


def compare(place: Path, options: argparse.Namespace, source: Path, times: int) -> dict[str, Figures]:
    """Export a folder by turns; return medians by way."""
    rounds: dict[str, list[Figures]] = {way: [] for way in options.ways.split(",")}
    for number in range(times):
        for way in sorted(rounds, reverse=bool(number % 2)):
            rounds[way].append(run(way, place, options.quant, options.threads, source))
        files = [place / f"{way}.gguf" for way in rounds if way in (OURS, PEER)]
        if len(files) > 1 and number == 0 and not same_tensors(*files):
            raise SystemExit("the two files hold different tensors")
        for file in files:
            file.unlink()
    return {
        way: {key: statistics.median(each[key] for each in found) for key in found[0]} for way, found in rounds.items()
    }


def plot(path: Path, results: Sequence[tuple[float, dict[str, Figures]]]) -> None:
    """Draw extra memory over model size."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "export", "svg.fonttype": "none", "font.family": "sans-serif"}
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.2), layout="constrained")
    sizes = [size for size, _ in results]
    for way, colour in ((PEER, "#b04a3a"), (OURS, "#2a6f97")):
        for key, style in (("resident", "--"), ("anonymous", "-")):
            values = [figures[way][key] / 2**20 for _, figures in results]
            axes.plot(sizes, values, style, color=colour, marker="o", markersize=4, label=f"{way}, {key}")
    axes.set(xlabel="weights, billions", ylabel="extra memory, MB", xlim=(0, None), ylim=(0, None))
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None, "Creator": None})


def main() -> None:
    """Write models, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="0.1,0.4,1.0", help="billions of weights")
    parser.add_argument("--family", choices=sorted(PRE_TOKENIZERS), default="llama")
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument(
        "--rounds", default="3", help="how often each way; for each size, the last for all further ones"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where models are written for a while")
    parser.add_argument("--ways", default=f"{OURS},{PEER}", help=f"of {', '.join(STEPS)}")
    parser.add_argument("--plot", type=Path, help="an .svg of memory over model size")
    parser.add_argument("--measure", nargs=3, metavar=("STEP", "PLACE", "SOURCE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        step, place, source = options.measure
        measure(step, Path(place), options.quant, options.threads, source)
        return
    results: list[tuple[float, dict[str, Figures]]] = []
    with tempfile.TemporaryDirectory(prefix="llama-cpp-source-") as fetched:
        source = fetch_llama_cpp_source(Path(fetched))
        print("weights  way           wall     work      cpu   resident  anonymous", flush=True)
        sizes, rounds = ([float(each) for each in text.split(",")] for text in (options.sizes, options.rounds))
        for size, times in zip_longest(sizes, rounds[: len(sizes)], fillvalue=rounds[-1]):
            place = Path(tempfile.mkdtemp(dir=options.folder))
            try:
                count = write_model(place / "model", options.family, size) / 1e9
                figures = compare(place, options, source, int(times))
            finally:
                shutil.rmtree(place)
            results.append((count, figures))
            for way, found in figures.items():
                times = "  ".join(f"{found[key]:5.1f} s" for key in ("wall", "work", "cpu"))
                memory = "  ".join(f"{found[key] / 2**20:6.0f} MB" for key in ("resident", "anonymous"))
                print(f"{count:5.2f} B  {way:11}  {times}  {memory}", flush=True)
            if not {OURS, PEER} <= figures.keys():
                continue
            ratios = {key: figures[OURS][key] / figures[PEER][key] for key in figures[OURS]}
            print("         ratio      " + "  ".join(f"{key} {value:.2f}" for key, value in ratios.items()), flush=True)
    if options.plot:
        plot(options.plot, results)


if __name__ == "__main__":
    main()
