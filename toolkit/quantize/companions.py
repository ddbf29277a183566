"""What lies beside an exported file: verification.json, the Modelfile and the model card."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolkit.atomic_files import write_atomic
from toolkit.quantize.model_card import card_text, write_card
from toolkit.quantize.modelfile import modelfile_text
from toolkit.quantize.origin import Origin
from toolkit.quantize.places import file_label
from toolkit.quantize.source import Source
from toolkit.quantize.usage import MODELFILE_NAME
from toolkit.quantize.verify import Gate

VERIFICATION_NAME = "verification.json"


def write_companions(path: Path, source: Source, gates: Sequence[Gate], origin: Origin, first: Path | None) -> None:
    """Write what lies beside a GGUF file: verification.json and, for a good one, Modelfile and card.

    first: a good file of the same export that came before: Modelfile and command lines name that one
    """
    record = path.parent / VERIFICATION_NAME
    if gates:
        record_gates(record, path.name, gates)
    if any(not gate.passed for gate in gates):
        return
    if first is None:
        write_atomic(path.parent / MODELFILE_NAME, modelfile_text(path.name, source.tokenizer))
    label = file_label(origin.label)
    mine = path.stem.startswith(f"{label}-")
    verified = {
        file: summary
        for file, summary in summaries(read_entries(record)).items()
        if (file.startswith(f"{label}-") if mine else file == path.name) and (path.parent / file).is_file()
    }
    card = path.with_name(f"{label}.md") if mine else path.with_suffix(".md")
    text = card_text(origin, "gguf", Path((first or path).name), verified, ("llama.cpp", "Ollama", "LM Studio"))
    write_card(card, text)


def record_gates(record: Path, name: str, gates: Sequence[Gate]) -> None:
    """Write what the gates said of a file into verification.json; entries of other files are kept."""
    entries = [entry for entry in read_entries(record) if entry.get("file") != name]
    write_atomic(record, json.dumps([*entries, *gate_entries(name, gates)], indent=2, ensure_ascii=False) + "\n")


def gate_entries(name: str, gates: Iterable[Gate]) -> list[dict[str, Any]]:
    """Return the gates of a file as verification.json holds them."""
    return [{"file": name, "gate": gate.gate, "passed": gate.passed, "figures": dict(gate.figures)} for gate in gates]


def with_merge(gates: Sequence[Gate], merged: str) -> list[Gate]:
    """Let the first gate's figures say what an adapter was merged into, if there was one."""
    if not merged or not gates:
        return list(gates)
    return [replace(gates[0], figures={**gates[0].figures, "adapter_merged_into": merged}), *gates[1:]]


def read_entries(record: Path) -> list[Mapping[str, Any]]:
    """Read verification.json; what is not one counts as empty."""
    try:
        entries = json.loads(record.read_text("utf-8"))
    except (OSError, ValueError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def summaries(entries: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Sum entries up by file: {gates: how many, failed: their names}, and the figures of structure and behaviour."""
    files: dict[str, dict[str, Any]] = {}
    for entry in entries:
        summary = files.setdefault(str(entry.get("file")), {"gates": 0, "failed": []})
        summary["gates"] += 1
        if not entry.get("passed"):
            summary["failed"].append(str(entry.get("gate")))
        if entry.get("gate") in ("structure", "behaviour"):
            numbers = {key: value for key, value in entry.get("figures", {}).items() if isinstance(value, int | float)}
            summary.update(numbers)
    return files
