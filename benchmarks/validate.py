"""Is validation linear in the size of the data, and faster than a plain `datasets` + datasketch script?

    python benchmarks/validate.py [--sizes 10000 30000 100000] [--plot docs/validate-scaling.svg]
    python benchmarks/validate.py --peer FOLDER [--sizes 10000] [--rounds 3]

The data are made: sentences of words drawn by Zipf's law, 1 % exact repetitions, 2 % with one word in twenty changed.
Each size is judged by `toolkit dataset validate` in a process of its own, on one thread.

With --peer (a folder: pip install --target FOLDER --no-deps datasets datasketch xxhash dill multiprocess pandas) each
round also runs the script that one would write with Hugging Face `datasets`, transformers and datasketch: load the
file, drop what is empty, render the chat template and count tokens, find exact repetitions by a set, near ones by
MinHash (128 permutations of word trigrams) and LSH. The two take turns. Ours does all of its other checks meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
THREADS = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

PEER = """
import sys, json
from datasets import load_dataset, disable_caching
from datasketch import MinHash, MinHashLSH
from transformers import AutoTokenizer
path, model, cache = sys.argv[1:4]
disable_caching()
data = load_dataset("json", data_files=path, split="train", cache_dir=cache)
tokenizer = AutoTokenizer.from_pretrained(model)
data = data.filter(lambda row: bool(row["output"].strip()) and bool(row["instruction"].strip()))
def measure(row):
    turns = [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    words = (row["instruction"] + " " + row["output"]).lower().split()
    sketch = MinHash(num_perm=128)
    sketch.update_batch([" ".join(words[i:i + 3]).encode() for i in range(max(1, len(words) - 2))])
    return {"tokens": len(tokenizer(text, add_special_tokens=False)["input_ids"]), "sketch": sketch.hashvalues}
data = data.map(measure)
lsh, seen, exact, near = MinHashLSH(threshold=0.8, num_perm=128), set(), 0, 0
for index, row in enumerate(data):
    key = (row["instruction"], row["output"])
    if key in seen:
        exact += 1
        continue
    seen.add(key)
    sketch = MinHash(num_perm=128, hashvalues=row["sketch"], scheme=MinHash(num_perm=128).scheme)
    near += any(sketch.jaccard(other) >= 0.8 for other in map(kept.get, lsh.query(sketch))) if index else 0
    if index == 0:
        kept = {}
    kept[index] = sketch
    lsh.insert(index, sketch)
print(json.dumps({"exact": exact, "near": near, "tokens": sum(data["tokens"])}))
"""

OURS = """
import json, resource, sys
from pathlib import Path
from toolkit.config import DataConfig
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.datasets.validation.sources import find_sources
from toolkit.datasets.validation.thresholds import Thresholds
from toolkit.datasets.validation.validate import Request, validate
from toolkit.models import find_model
request = Request(find_sources([Path(sys.argv[1])]), DataConfig(), Thresholds(),
                  Tokenizer.load(find_model(sys.argv[2]).folder), 2048)
judged = validate(request)
counts = judged.findings.counts
print(json.dumps({"exact": counts["exact-duplicate"], "near": counts["near-duplicate"], "examples": len(judged.columns),
                  "tokens": sum(judged.columns.tokens),
                  "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
                  }))
"""


def make_data(path: Path, count: int) -> None:
    """Write `count` records of about 60 words, the same ones every time."""
    rng = random.Random(count)
    pairs = [consonant + vowel for consonant in "bcdfglmnprst" for vowel in "aeiou"]
    vocabulary = ["".join(rng.choices(pairs, k=rng.randint(1, 4))) for _ in range(5000)]
    draws = np.random.default_rng(1).zipf(1.3, size=count * 80) % len(vocabulary)
    lines: list[str] = []
    with path.open("w", encoding="utf-8") as file:
        for index in range(count):
            words = [vocabulary[draw] for draw in draws[index * 80 : index * 80 + rng.randint(40, 80)]]
            record = {
                "instruction": f"{' '.join(words[:20])} {index}?".capitalize(),
                "input": "",
                "output": " ".join(words[20:]).capitalize() + ".",
            }
            kind = rng.random()
            if lines and kind < 0.01:
                record = json.loads(rng.choice(lines))
            elif lines and kind < 0.03:
                record = json.loads(rng.choice(lines))
                answer = record["output"].split()
                answer[len(answer) // 2] = vocabulary[rng.randrange(5000)]
                record["output"] = " ".join(answer)
            line = json.dumps(record)
            if len(lines) < 2000:
                lines.append(line)
            file.write(line + "\n")


def run(code: str, arguments: list[str], extra_path: str = "") -> tuple[float, dict[str, float]]:
    """Run a script in a process of its own; return seconds of CPU time, children's included, and what it printed."""
    paths = os.pathsep.join(part for part in (str(ROOT), extra_path) if part)
    environment = {**os.environ, **THREADS, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    before = os.times()
    started = time.perf_counter()
    ran = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    if ran.returncode:
        sys.exit(ran.stderr[-3000:])
    after = os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    figures = json.loads(ran.stdout.strip().splitlines()[-1])
    return cpu, {**figures, "wall": time.perf_counter() - started}


def scale(sizes: list[int], model: str, plot: Path | None) -> None:
    """Judge data of each size, print a table, and draw it."""
    rows = []
    print("examples   CPU s   µs each   peak MB   exact   near")
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            path = Path(folder) / "data.jsonl"
            make_data(path, size)
            seconds, found = run(OURS, [str(path), model])
            rows.append((size, seconds, found["rss"] / 1e6))
            print(
                f"{size:8,} {seconds:7.1f} {seconds / size * 1e6:9.0f} {found['rss'] / 1e6:9.0f}"
                f" {found['exact']:7,} {found['near']:6,}",
                flush=True,
            )
    if plot is not None:
        draw(rows, plot)


def draw(rows: list[tuple[int, float, float]], path: Path) -> None:
    """Plot seconds (logarithmic, with the line that linear growth would follow) and memory against size."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "validate", "svg.fonttype": "none", "font.size": 11})
    from matplotlib import pyplot

    sizes, seconds, memory = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    for axis, values, label in ((axes[0], seconds, "seconds of CPU time"), (axes[1], memory, "peak memory, MB")):
        axis.semilogx(sizes, values, "o-", color="#2a78d6", label="measured")
        axis.set_xlabel("examples")
        axis.set_title(label, fontsize=11)
        axis.grid(which="major", color="#e4e3de")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yscale("log")
    axes[1].set_ylim(bottom=0)
    axes[0].plot(sizes, seconds[-1] * sizes / sizes[-1], "--", color="#d95f1e", label="linear")
    axes[0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def against_peer(size: int, rounds: int, model: str, peer: str) -> None:
    """Let the two take turns on the same file and print the ratio of their CPU times."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.jsonl"
        make_data(path, size)
        ratios = []
        for number in range(rounds):
            theirs, found = run(PEER, [str(path), model, f"{folder}/cache{number}"], peer)
            ours, own = run(OURS, [str(path), "nano" if model.endswith("nano") else model])
            ratios.append(theirs / ours)
            print(
                f"round {number + 1}: theirs {theirs:.1f} s {found}, ours {ours:.1f} s {own}, ratio {ratios[-1]:.2f}",
                flush=True,
            )
    print(f"{size:,} examples: {np.median(ratios):.2f} times as fast (median of {rounds})")


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--peer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="nano")
    arguments = parser.parse_args()
    if arguments.peer:
        model = str(ROOT / "toolkit" / "nano") if arguments.model == "nano" else arguments.model
        for size in arguments.sizes:
            against_peer(size, arguments.rounds, model, arguments.peer)
    else:
        scale(arguments.sizes, arguments.model, arguments.plot)


if __name__ == "__main__":
    main()
