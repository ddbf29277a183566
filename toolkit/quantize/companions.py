"""What lies beside an exported file: verification.json and the Modelfile; and what the file says of its origin."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.atomic_files import write_atomic
from toolkit.backends import Target
from toolkit.quantize.modelfile import modelfile_text
from toolkit.quantize.source import Source
from toolkit.quantize.verify import Gate

VERIFICATION_NAME = "verification.json"
MODELFILE_NAME = "Modelfile"


def general_notes(target: Target) -> dict[str, str]:
    """Say where the model comes from, for the file's `general.` keys."""
    notes = {}
    if target.adapter_folder is not None and target.model_folder is not None:
        notes["base_model.0.name"] = target.model_folder.name
    readme = None if target.model_folder is None else target.model_folder / "README.md"
    if readme is not None and readme.is_file():
        # Model cards begin with YAML between dashes: https://huggingface.co/docs/hub/model-cards
        card = re.match(r"---\n(.*?)\n---", readme.read_text("utf-8", errors="replace"), re.DOTALL)
        licence = card and re.search(r"^license:\s*(\S+)\s*$", card[1], re.MULTILINE)
        if licence:
            notes["license"] = licence[1].strip("'\"")
    return notes


def write_companions(path: Path, source: Source, gates: Sequence[Gate], passed: bool) -> None:
    """Write verification.json (entries of other files in the folder are kept) and, for a good file, the Modelfile."""
    if gates:
        record = path.parent / VERIFICATION_NAME
        entries = [entry for entry in read_entries(record) if entry.get("file") != path.name]
        entries += [
            {"file": path.name, "gate": gate.gate, "passed": gate.passed, "figures": dict(gate.figures)}
            for gate in gates
        ]
        write_atomic(record, json.dumps(entries, indent=2, ensure_ascii=False) + "\n")
    if passed:
        write_atomic(path.parent / MODELFILE_NAME, modelfile_text(path.name, source.tokenizer))


def read_entries(record: Path) -> list[Mapping[str, Any]]:
    """Read verification.json; what is not one counts as empty."""
    try:
        entries = json.loads(record.read_text("utf-8"))
    except (OSError, ValueError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
