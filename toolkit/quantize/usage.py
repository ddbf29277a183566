"""The command lines that run an exported file or folder elsewhere."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from toolkit.quantize.requests import ExportFormat

MODELFILE_NAME = "Modelfile"


def command_lines(path: Path, label: str, form: ExportFormat) -> list[tuple[str, str]]:
    """Return (program, command line) for each program that runs what was exported.

    path: the .gguf file or the model folder, as it is to be typed
    """
    quoted = shlex.quote(str(path))
    if form == "safetensors":
        made = f'pipeline("text-generation", {json.dumps(str(path))})'
        call = f'from transformers import pipeline; print({made}("Hello"))'
        return [("transformers", f"python -c {shlex.quote(call)}"), ("toolkit", f"toolkit chat {quoted}")]
    if form == "mlx":
        return [
            ("mlx-lm", f"mlx_lm.generate --model {quoted} --prompt 'Hello'"),
            ("mlx-lm's server", f"mlx_lm.server --model {quoted}"),
            ("toolkit", f"toolkit chat {quoted}"),
        ]
    name = ollama_name(label)
    enter = "" if path.parent == Path() else f"cd {shlex.quote(str(path.parent))} && "
    return [
        ("llama.cpp", f"llama-cli -m {quoted} -cnv"),
        ("Ollama", f"{enter}ollama create {name} -f {MODELFILE_NAME} && ollama run {name}"),
        ("LM Studio", f"lms import {quoted}"),
        ("toolkit", f"toolkit chat {quoted}"),
    ]


def ollama_name(label: str) -> str:
    """Spell a label as Ollama allows: lower case, letters, digits, points, dashes."""
    return re.sub(r"[^a-z0-9._-]+", "-", label.lower()).strip("-._") or "model"
