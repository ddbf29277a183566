"""Put a pretrained model into the package as `nano`: weights rounded to bfloat16, tokenizer and configs as they are.

python -m scripts.install_nano MODEL_FOLDER [TARGET]
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

from toolkit.atomic_files import write_atomic
from toolkit.models import NANO_FOLDER
from toolkit.tensor_files import SINGLE_NAME, FolderTensors, write_tensors

MAX_BYTES = 16_000_000
COPIED = ("generation_config.json", "tokenizer.json", "tokenizer_config.json")


def install(source: Path, target: Path) -> str:
    """Write the model of folder `source` into `target` and return the SHA-256 of its weights' file."""
    tensors = FolderTensors(source)
    rounded = {name: tensors[name].to_bfloat16() for name in sorted(tensors)}
    weights = target / SINGLE_NAME
    target.mkdir(parents=True, exist_ok=True)
    write_tensors(weights, rounded, {"format": "pt"})
    if weights.stat().st_size > MAX_BYTES:
        raise SystemExit(f"{weights}: {weights.stat().st_size:,} bytes are more than the {MAX_BYTES:,} that may be shipped")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config = {name: value for name, value in config.items() if name not in ("dtype", "torch_dtype")}
    write_atomic(target / "config.json", json.dumps({**config, "torch_dtype": "bfloat16"}, indent=2) + "\n")
    for name in COPIED:
        shutil.copyfile(source / name, target / name)
    return hashlib.sha256(weights.read_bytes()).hexdigest()


if __name__ == "__main__":
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else NANO_FOLDER
    print(f"{install(Path(sys.argv[1]), folder)}  {folder / SINGLE_NAME}")
