"""What an owner of a Mac or of a CUDA machine runs once: `make accept-7b`.

Asks nothing; run it again and it goes on where it stopped.

Loads the model of the 7B recipe (downloading it, after saying how much), trains ten updates at the recipe's batch and
length, measures peak memory and step time, exports Q4_K_M, asks one question in llama.cpp, and writes one row into
docs/benchmarks.md, to be committed.

    ACCEPT_MODEL   a folder or name in place of the recipe's model (no download)
    ACCEPT_RECIPE  another recipe
    ACCEPT_SET     settings laid over the recipe's, e.g. "data.max_seq_tokens=1024 train.device=cpu"
    ACCEPT_TABLE   another file to write the row into
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from toolkit.atomic_files import write_atomic
from toolkit.backends import open_target, resolve_target
from toolkit.commands.chat import Conversation
from toolkit.commands.export import export_target
from toolkit.commands.finetune import resume_finetune, run_finetune
from toolkit.config import FinetuneConfig
from toolkit.config_files import load_config
from toolkit.datasets.formats import STARTER_FOLDER
from toolkit.errors import JobFailed, ToolkitError
from toolkit.machine.diagnosis import can_run, diagnose, hub_folder
from toolkit.machine.findings import Finding, gigabytes
from toolkit.machine.hardware import total_memory
from toolkit.models import HUB_PATTERNS, NANO, ModelFacts, find_model
from toolkit.protocols import Sampling
from toolkit.quantize.companions import VERIFICATION_NAME, read_entries
from toolkit.runs import RunFolder, runs_root

ROOT = Path(__file__).resolve().parents[1]
RECIPE = "qwen2.5-coder-7b-qlora"
STEPS = 10
QUANT = "Q4_K_M"
PROMPT = "Write a Python function that adds two numbers."
ANSWER_TOKENS = 64
# A token is three to four characters of English; two make sure that every example is cut at the longest length.
CHARACTERS_PER_TOKEN = 6
BEGIN, END = "<!-- accept:begin -->", "<!-- accept:end -->"


@dataclass
class Acceptance:
    """What has been found out so far; `row` writes it down."""

    model: str
    recipe: str
    settings: tuple[str, ...]
    figures: dict[str, str] = field(default_factory=dict)

    def row(self) -> str:
        """Return the line of the table."""
        what = ", ".join((self.recipe, *self.settings))
        keys = ("machine", "memory", "versions", "run", "peak", "step", "speed", "export", "chat")
        cells = [_today(), *(self.figures.get(key, "–") for key in keys[:3]), f"{self.model} ({what})"]
        return "| " + " | ".join([*cells, *(self.figures.get(key, "–") for key in keys[3:])]) + " |"


def main() -> int:
    """Run every stage; return the exit code."""
    try:
        accept(os.environ)
    except ToolkitError as error:
        for problem in error.problems:
            _say(f"error: {problem}")
        _say("what was done is kept; type the same again to go on: make accept-7b")
        return error.exit_code
    return 0


def accept(environment: Mapping[str, str]) -> None:
    """Run every stage, writing the row anew after each. Raises ToolkitError when one fails."""
    recipe = environment.get("ACCEPT_RECIPE") or RECIPE
    settings = tuple((environment.get("ACCEPT_SET") or "").split())
    table = Path(environment.get("ACCEPT_TABLE") or ROOT / "docs" / "benchmarks.md")
    check_table(table)
    config = load_config(FinetuneConfig, recipe, settings, {"model": environment.get("ACCEPT_MODEL") or None})
    found = Acceptance(Path(config.model).name, recipe, settings)

    _stage(1, "this machine")
    describe_machine(found)
    _stage(2, f"the model: {config.model}")
    facts = get_model(config.model)
    _stage(3, f"training {STEPS} updates")
    run = train(config, facts, settings, recipe)
    measure(run, found)
    write_row(table, found.row())
    _stage(4, f"exporting to {QUANT}, and proving the file")
    file = export(run, found)
    write_row(table, found.row())
    _stage(5, f"asking llama.cpp: {PROMPT}")
    ask(file, found)
    write_row(table, found.row())
    _say(f"\nwritten to {table}; please commit it:\n{found.row()}")


def describe_machine(found: Acceptance) -> None:
    """Look at the machine as `toolkit doctor` does. Raises JobFailed when the main job could not run."""
    findings = {finding.name: finding for finding in diagnose(seconds=120)}
    for finding in findings.values():
        if finding.status != "ok":
            _say(f"{finding.status}: {finding.name}: {finding.summary}\n  → {finding.mend}")
    if not can_run(list(findings.values())):
        raise JobFailed("this machine cannot run the toolkit yet", hint="Mend what is marked failed above")
    backend = findings["backend"].figures
    found.figures["machine"] = f"{backend['device_name']}, {platform.system()} {platform.machine()}"
    found.figures["memory"] = _memory(backend)
    found.figures["versions"] = _versions(findings)
    _say(f"{found.figures['machine']}, {found.figures['memory']}; {findings['backend'].summary}")


def _memory(backend: Mapping[str, Any]) -> str:
    text = f"{total_memory() / 2**30:.0f} GiB"
    size = backend.get("memory_bytes")
    return f"{text}, {gigabytes(size)} on {backend['device']}" if size else text


def _versions(findings: Mapping[str, Finding]) -> str:
    names = ("mlx", "torch", "llama-cpp-python")
    here = findings["packages"].figures
    return ", ".join(
        [f"Python {platform.python_version()}", *(f"{name} {here[name]}" for name in names if name in here)]
    )


def get_model(name: str) -> ModelFacts:
    """Find the model; what has to be downloaded is announced with its size, and refused where the disk is too small.

    Raises:
        ToolkitError: there is no such model, or the hub cannot be reached.
        JobFailed: not enough room.
    """
    if name != NANO and not Path(name).expanduser().exists():
        announce_download(name)
    facts = find_model(name)
    _say(f"{facts.folder}: {facts.architecture}, {facts.parameter_count:,} parameters")
    return facts


def announce_download(name: str) -> None:
    """Say how much will be downloaded, and where to."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        _say("already here, or partly: only what is missing is downloaded")
        return
    try:
        files = HfApi().model_info(name, files_metadata=True).siblings or []
    except Exception as error:  # offline, no such name, no permission: the hub's library has many
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        hint = "Check the connection (toolkit doctor), or give a folder: ACCEPT_MODEL=/path/to/model make accept-7b"
        raise ToolkitError(
            f"the Hugging Face hub does not answer for this model: {first}", where=name, hint=hint
        ) from error
    wanted = [file for file in files if any(fnmatch(file.rfilename, pattern) for pattern in HUB_PATTERNS)]
    size = sum(file.size or 0 for file in wanted)
    folder = hub_folder()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    _say(f"downloading {size / 1e9:.1f} GB in {len(wanted)} files to {folder} ({free / 1e9:.0f} GB free there)")
    if free < size * 1.05:
        raise JobFailed(
            "not enough room for the download", where=folder, hint="Free some, or set HF_HOME=/a/roomy/folder"
        )


def train(config: FinetuneConfig, facts: ModelFacts, settings: Sequence[str], recipe: str) -> RunFolder:
    """Train ten updates on examples that fill the recipe's length, or go on with the run that was begun."""
    name = f"accept-{facts.label}"
    run = RunFolder(runs_root() / name)
    status = run.status() if run.manifest_path.is_file() else "unknown"
    if status == "finished":
        _say(f"{run.path} is finished already; remove it to train again")
        return run
    if status in ("interrupted", "killed") and any(run.checkpoints.glob("step-*")):
        return resume_finetune(str(run.path), (), {})
    length = min(config.data.max_seq_tokens or facts.context, facts.context)
    per_update = config.train.batch_size * config.train.accumulation
    data = write_long_examples(runs_root() / f"{name}-data", length, per_update * STEPS)
    fixed = [
        f"data.max_seq_tokens={length}",
        "data.validation=0",
        f"train.max_steps={STEPS}",
        f"train.save_every={STEPS // 2}",
    ]
    flags = {"model": config.model, "data.path": str(data)}
    config = load_config(FinetuneConfig, recipe, [*settings, *fixed], flags)
    return run_finetune(config, name=name, overwrite=run.path.exists())


def write_long_examples(folder: Path, length: int, count: int) -> Path:
    """Write `count` chats of more than `length` tokens each, made of the starter set's questions and answers."""
    lines = (STARTER_FOLDER / "train.jsonl").read_text("utf-8").splitlines()
    pairs = [(record["instruction"], record["output"]) for record in map(json.loads, lines)]
    folder.mkdir(parents=True, exist_ok=True)
    chats = []
    for number in range(count):
        messages: list[dict[str, str]] = []
        size, place = 0, number * 7
        while size < length * CHARACTERS_PER_TOKEN:
            question, answer = pairs[place % len(pairs)]
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            size, place = size + len(question) + len(answer), place + 1
        chats.append(json.dumps({"messages": messages}) + "\n")
    path = folder / "train.jsonl"
    write_atomic(path, "".join(chats))
    return path


def measure(run: RunFolder, found: Acceptance) -> None:
    """Read peak memory and step time from the run's metrics; the first update warms up and does not count."""
    manifest = run.manifest()
    rows = [row for row in run.metrics() if "loss" in row]
    counted = rows[1:] or rows
    seconds = statistics.median(row["step_seconds"] for row in counted)
    tokens = statistics.median(row["tokens"] for row in counted)
    backend = manifest["backend"]
    whose = "process" if backend["device"] == "cpu" else backend["device"]
    found.figures["run"] = f"{backend['name']} on {backend['device']}, {tokens:,.0f} tokens an update"
    found.figures["peak"] = f"{gigabytes(max(row['peak_memory_bytes'] for row in rows))} ({whose})"
    found.figures["step"] = f"{seconds:.2f} s"
    found.figures["speed"] = f"{tokens / seconds:,.0f}"
    _say(f"loss {rows[0]['loss']:.3f} → {rows[-1]['loss']:.3f}, peak {found.figures['peak']}, a step {seconds:.2f} s")


def export(run: RunFolder, found: Acceptance) -> Path:
    """Export the run, or take the file that passed its gates before. Raises JobFailed naming the gates that failed."""
    file = run.export / f"{run.name}-{QUANT}.gguf"
    entries = _gates(file)
    if not (file.is_file() and entries and all(entry["passed"] for entry in entries)):
        found.figures["export"] = "failed"
        file = export_target(str(run.path), QUANT, overwrite=True)
        entries = _gates(file)
    passed = sum(bool(entry["passed"]) for entry in entries)
    found.figures["export"] = f"{passed} of {len(entries)} gates, {file.stat().st_size / 1e9:.2f} GB"
    _say(f"{file}: {found.figures['export']}")
    return file


def _gates(file: Path) -> list[Mapping[str, Any]]:
    return [entry for entry in read_entries(file.parent / VERIFICATION_NAME) if entry.get("file") == file.name]


def ask(file: Path, found: Acceptance) -> None:
    """Ask one question in llama.cpp. Raises JobFailed when nothing comes back."""
    target = open_target(resolve_target(str(file), runs_root()))
    try:
        sampling = Sampling(ANSWER_TOKENS, stop_ids=tuple(target.tokenizer.stop_ids))
        answer = " ".join("".join(Conversation(target, sampling).ask(PROMPT)).split())
    finally:
        target.scorer.close()
    if not answer:
        raise JobFailed("the exported model answered nothing", where=file)
    _say(answer)
    found.figures["chat"] = f"answers, {len(answer)} characters"


def check_table(path: Path) -> None:
    """Raise ToolkitError unless `path` has a table to write into: before hours of work, not after them."""
    text = path.read_text("utf-8") if path.is_file() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ToolkitError(f"no table between {BEGIN} and {END}", where=path)


def write_row(path: Path, row: str) -> None:
    """Put a row at the end of the table, in place of one of the same day, machine and model."""
    text = path.read_text("utf-8")
    before, rest = text.split(BEGIN)
    table, after = rest.split(END)
    kept = [line for line in table.strip().splitlines() if _key(line) != _key(row)]
    write_atomic(path, "\n".join([f"{before}{BEGIN}", *kept, f"{row}", f"{END}{after}"]))


def _key(row: str) -> tuple[str, ...]:
    cells = row.split(" | ")
    return tuple(cells[index].strip("| ") for index in (0, 1, 4)) if len(cells) > 4 else (row,)


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def _stage(number: int, text: str) -> None:
    _say(f"\n[{number}/5] {text}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
