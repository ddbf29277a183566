"""What an export's verification.json says, as the report page shows it: what each file lost, and gate by gate."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Figures of the gates `structure` and `behaviour`, with the heading of their column.
LOSSES = (
    ("bits_per_weight", "bits"),
    ("bytes", "size"),
    ("mean_kl", "mean KL"),
    ("p99_kl", "p99 KL"),
    ("top1_agreement", "top token"),
    ("greedy_agreement", "greedy"),
    ("perplexity_ratio", "perplexity"),
)
_SHARES = ("top1_agreement", "greedy_agreement")


def read_entries(record: Path) -> list[Mapping[str, Any]]:
    """Read verification.json: `[{file, gate, passed, figures}]`; what is not one counts as empty."""
    try:
        entries = json.loads(record.read_text("utf-8"))
    except (OSError, ValueError):
        return []
    wanted = {"file", "gate", "passed", "figures"}
    return [entry for entry in entries if isinstance(entry, dict) and wanted <= entry.keys()]


def exported_files(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a record for each file: {file, failed, losses, gates: [{gate, passed, figures}], merged}, all as text."""
    files: dict[str, dict[str, Any]] = {}
    for entry in entries:
        name = str(entry["file"])
        file = files.setdefault(name, {"file": name, "failed": [], "losses": {}, "gates": [], "merged": ""})
        figures: Mapping[str, Any] = entry["figures"]
        if not entry["passed"]:
            file["failed"].append(str(entry["gate"]))
        if entry["gate"] in ("structure", "behaviour"):
            file["losses"] |= {key: _shown(key, figures[key]) for key, _ in LOSSES if key in figures}
            file["merged"] = str(figures.get("adapter_merged_into") or file["merged"])
        gate = {"gate": str(entry["gate"]), "passed": bool(entry["passed"]), "figures": gate_line(entry)}
        file["gates"].append(gate)
    return list(files.values())


def loss_columns(files: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the columns (key, heading) that at least one file has a figure for."""
    return [(key, title) for key, title in LOSSES if any(key in file["losses"] for file in files)]


def gate_line(entry: Mapping[str, Any]) -> str:
    """Pick the figures of a gate worth a line: numbers and short texts; lists and tables only where it failed."""
    figures: Mapping[str, Any] = entry["figures"]
    shown = {key: value for key, value in figures.items() if key != "sha256" and _is_plain(value)}
    if not entry["passed"]:
        shown |= {key: value for key, value in figures.items() if key not in shown and value and key != "sha256"}
    return ", ".join(f"{key.replace('_', ' ')} {_shown(key, value)}" for key, value in shown.items())


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str) and not isinstance(value, bool) and value != ""


def _shown(key: str, value: Any) -> str:
    if key == "bytes":
        return f"{value / 1e6:,.1f} MB"
    if key in _SHARES and isinstance(value, int | float):
        return f"{value:.1%}"
    if key == "perplexity_ratio":
        return f"{value:.3f}"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
