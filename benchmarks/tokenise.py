"""Does reading and tokenising stay linear in time and small in memory as the data grows?

    python benchmarks/tokenise.py [--sizes 12500 25000 50000 100000] [--kind chat|tools|text] [--model nano]

For each size a process of its own writes that many conversations as JSON lines, reads, splits and tokenises them on one
thread, and prints the seconds of CPU time of each part, the memory that stays, and the peak. What grows faster than the
data shows in the columns for one example.
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
from typing import Any

import psutil

WORDS = "the print server wants a blue ticket before noon unless two people in the second room have signed it".split()
TOOLS = [
    {"type": "function", "function": {"name": "look_up", "parameters": {"properties": {"key": {"type": "string"}}}}}
]
CALL_TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{% for call in m.tool_calls or [] %}{{ '<tool_call>' + (call.function | tojson) + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def record(index: int, kind: str) -> dict[str, Any]:
    """Make a conversation of 110 tokens (with tools 250), or a text of 5,000; no two are alike."""
    said = " ".join(WORDS[(index * 7 + step) % len(WORDS)] for step in range(40))
    if kind == "text":
        return {"text": f"{index}: " + f"{said}. " * 110}
    turns: list[dict[str, Any]] = [{"role": "user", "content": f"{index}: {said}?"}]
    if kind == "chat":
        return {"messages": [*turns, {"role": "assistant", "content": f"{said}, {index}."}]}
    call = {"id": "abc123xyz", "type": "function", "function": {"name": "look_up", "arguments": {"key": str(index)}}}
    turns += [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abc123xyz", "content": said},
        {"role": "assistant", "content": f"{index}."},
    ]
    return {"tools": TOOLS, "messages": turns}


def measure(size: int, kind: str, model: str) -> dict[str, float]:
    """Read and tokenise `size` examples in this process."""
    from toolkit.config import DataConfig
    from toolkit.datasets.chat import tokenize_examples
    from toolkit.datasets.formats import load_splits
    from toolkit.datasets.tokenizer import Tokenizer
    from toolkit.models import find_model

    tokenizer = Tokenizer.load(find_model(model).folder)
    if kind == "tools":
        tokenizer = Tokenizer(
            (find_model(model).folder / "tokenizer.json").read_text("utf-8"),
            settings={"eos_token": "<|im_end|>"},
            chat_template=CALL_TEMPLATE,
            template_source="benchmark",
        )
    tokenizer.encode_batch(["warm"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for index in range(size):
                file.write(json.dumps(record(index, kind)) + "\n")
        megabytes = path.stat().st_size / 2**20
        process = psutil.Process()
        before = process.memory_info().rss
        start = time.process_time()
        splits = load_splits(DataConfig(path=str(path), max_validation_examples=1), 0)
        read = time.process_time() - start
        held = process.memory_info().rss - before
        start = time.process_time()
        tokenized = tokenize_examples(splits.train, tokenizer, 2048)
        tokens = time.process_time() - start
        total = process.memory_info().rss - before
    return {
        "size": size,
        "megabytes": megabytes,
        "read_seconds": read,
        "tokenise_seconds": tokens,
        "examples_megabytes": held / 2**20,
        "with_tokens_megabytes": total / 2**20,
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before / 2**20,
        "tokens": sum(len(example.tokens) for example in tokenized.examples),
    }


def main() -> None:
    """Measure each size in a fresh process and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[12_500, 25_000, 50_000, 100_000])
    parser.add_argument("--kind", choices=["chat", "tools", "text"], default="chat")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(measure(given.one, given.kind, given.model)))
        return
    print(
        "examples  file MB  read s  tokenise s  µs an example  tokens an example  kept MB  peak MB  kept B an example"
    )
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    for size in given.sizes:
        command = [sys.executable, __file__, "--one", str(size), "--kind", given.kind, "--model", given.model]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        row = json.loads(done.stdout)
        seconds = row["read_seconds"] + row["tokenise_seconds"]
        print(
            f"{size:8,}  {row['megabytes']:7.1f}  {row['read_seconds']:6.2f}  {row['tokenise_seconds']:10.2f}  "
            f"{seconds / size * 1e6:13.0f}  {row['tokens'] / size:17.1f}  {row['with_tokens_megabytes']:7.0f}  "
            f"{row['peak_megabytes']:7.0f}  {row['with_tokens_megabytes'] * 2**20 / size:17.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
