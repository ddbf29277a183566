"""The model card beside an export: what it is, what it was made from, how, how faithful it is, how to run it.

Markdown with the hub's YAML in front (https://huggingface.co/docs/hub/model-cards), so that it can be uploaded as it
is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from toolkit import __version__
from toolkit.atomic_files import write_atomic
from toolkit.quantize.origin import TRAINED_BY, Origin, hub_url
from toolkit.quantize.places import MARK
from toolkit.quantize.requests import ExportFormat
from toolkit.quantize.usage import command_lines

_LIBRARIES = {"gguf": "gguf", "safetensors": "transformers", "mlx": "mlx"}
_FIGURES = (
    ("bits_per_weight", "bits per weight"),
    ("mean_kl", "mean KL"),
    ("p99_kl", "99th percentile"),
    ("top1_agreement", "same top token"),
    ("greedy_agreement", "same greedy choice"),
    ("perplexity_ratio", "perplexity ratio"),
)


def write_card(path: Path, text: str) -> bool:
    """Write a card unless there is one that somebody wrote; say whether it was written."""
    if path.exists() and MARK not in path.read_text("utf-8", errors="replace"):
        return False
    write_atomic(path, text)
    return True


def card_text(
    origin: Origin, form: ExportFormat, usable: Path, verified: Mapping[str, Mapping[str, Any]], used_by: Sequence[str]
) -> str:
    """Write the card.

    usable:   the file or folder that the command lines name, relative to where the reader is
    verified: for each exported file {gates, failed, figures…}, as `companions.summaries` gives them
    used_by:  programs that read such an export
    """
    parts = [
        f"---\n{_front(origin, form)}---",
        MARK,
        f"# {origin.label}",
        _what(origin, form, used_by),
        _training(origin),
        _proof(verified),
        _licence(origin),
        _usage(origin, form, usable),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front(origin: Origin, form: ExportFormat) -> str:
    front: dict[str, Any] = {
        "license": origin.licence or None,
        # The hub refuses names that it does not know.
        "base_model": origin.base if hub_url(origin.base) else None,
        "datasets": [name for name in origin.datasets if hub_url(name)] or None,
        "library_name": _LIBRARIES[form],
        "pipeline_tag": "text-generation",
        "tags": sorted({"local-training-toolkit", *([form] if form != "safetensors" else [])}),
    }
    kept = {key: value for key, value in front.items() if value is not None}
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)


def _what(origin: Origin, form: ExportFormat, used_by: Sequence[str]) -> str:
    made = TRAINED_BY.get(origin.method, "")
    of = f"{_linked(origin.base) or 'A language model'} {made}".rstrip()
    holds = {
        "gguf": "as GGUF",
        "safetensors": "as safetensors, in the precision of its base",
        "mlx": "in MLX's affine layout",
    }
    lines = [f"{of}, exported {holds[form]} for {', '.join(used_by)}."]
    if origin.datasets:
        lines.append(f"Trained on {', '.join(_linked(name, dataset=True) for name in origin.datasets)}.")
    if origin.merged:
        lines.append(f"Its adapter is merged into {origin.merged}.")
    return " ".join(lines) + f" Made by local-training-toolkit {__version__}."


def _training(origin: Origin) -> str:
    if not origin.training:
        return ""
    rows = [f"| {name.replace('_', ' ')} | {_shown(value)} |" for name, value in origin.training.items()]
    return "\n".join(["## How it was trained", "", "| | |", "|---|---|", *rows])


def _proof(verified: Mapping[str, Mapping[str, Any]]) -> str:
    if not verified:
        return "## How faithful it is\n\nNot verified (exported with `--no-verify`)."
    head = ["file", "gates", *(title for _, title in _FIGURES)]
    rows = []
    for file, summary in verified.items():
        gates = f"FAILED: {', '.join(summary['failed'])}" if summary["failed"] else f"{summary['gates']} passed"
        rows.append([file, gates, *(_shown(summary.get(key, "–")) for key, _ in _FIGURES)])
    table = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    words = (
        "Against the trained model, unquantised: KL divergence of its predictions (nats), how often both rank the same "
        "token first, how often both choose the same token of the answers, and perplexity of the file over that of the "
        "model. Every gate stands in `verification.json`."
    )
    return "\n".join(["## How faithful it is", "", *table, "", words])


def _licence(origin: Origin) -> str:
    if not origin.licence:
        return "## Licence\n\nThe base model's folder states none: look at where it came from."
    whose = "The base model's, which holds for what is made from it too" if origin.base else "The model's"
    named = "its own (see its LICENSE)" if origin.licence == "other" else origin.licence
    return f"## Licence\n\n{whose}: {named}."


def _usage(origin: Origin, form: ExportFormat, usable: Path) -> str:
    lines = [f"{command}  # {program}" for program, command in command_lines(usable, origin.label, form)]
    return "\n".join(["## How to run it", "", "```sh", *lines, "```"])


def _linked(name: str, *, dataset: bool = False) -> str:
    url = hub_url(name, dataset=dataset)
    return f"[{name}]({url})" if url else name


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")
