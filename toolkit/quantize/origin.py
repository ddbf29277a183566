"""Where an exported model comes from: its base, licence, data and training, and what its adapter was merged into."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.affine import read_quantization
from toolkit.backends import Target, run_of_adapter
from toolkit.config import FinetuneConfig
from toolkit.config_files import load_config
from toolkit.errors import ToolkitError
from toolkit.models import NANO, NANO_FOLDER
from toolkit.nf4_files import is_nf4_folder
from toolkit.quantize.source import read_config
from toolkit.runs import RunFolder

_HUB = "https://huggingface.co"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# A licence's identifier on the Hugging Face hub, by what its text begins with.
_LICENCES = (
    ("apache-2.0", re.compile(r"apache license\s+version 2\.0", re.IGNORECASE)),
    ("mit", re.compile(r"mit license", re.IGNORECASE)),
)
_HEAD_CHARACTERS = 400
_DATA_SUFFIXES = (".jsonl", ".json", ".parquet", ".txt", ".csv")


@dataclass(frozen=True)
class Origin:
    """What is known of a model's making. What is not known is empty.

    base:     name of the model that it was trained from: on the hub (`owner/name`), `nano`, or a folder's last name
    licence:  of the base, as the hub spells it (`apache-2.0`; `other` for a text that is none of the known ones)
    datasets: names of the data
    method:   lora | qlora | full | pretrain
    merged:   what an adapter was merged into
    training: figures of the training, by name
    """

    label: str
    base: str = ""
    licence: str = ""
    datasets: tuple[str, ...] = ()
    method: str = ""
    merged: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)

    def notes(self) -> dict[str, str]:
        """Return the file's `general.` keys that say so; `header` adds the counts of numbered ones."""
        notes = {}
        if self.base:
            notes |= _numbered("base_model.0", self.base)
        for number, name in enumerate(self.datasets):
            notes |= _numbered(f"dataset.{number}", name)
        if self.licence:
            notes["license"] = self.licence
        if self.method and self.base:
            notes["description"] = f"{self.base}, {TRAINED_BY[self.method]}"
        return notes


TRAINED_BY = {
    "lora": "fine-tuned with LoRA",
    "qlora": "fine-tuned with QLoRA",
    "full": "fine-tuned in full",
    "pretrain": "trained from scratch",
}


def origin_of(target: Target) -> Origin:
    """Look at a target's files, and at its run where there is one."""
    folder = target.model_folder
    if folder is None:
        return Origin(target.label)
    path = target.run_folder
    if path is None and target.adapter_folder is not None:
        path = run_of_adapter(target.adapter_folder)
    run = None if path is None else RunFolder(path)
    manifest = {} if run is None else run.manifest()
    config = None if run is None else _config_of(run)
    base = ""
    if target.adapter_folder is not None:
        base = _public_name(str(manifest["model"])) if manifest.get("model") else model_name(folder)
    elif manifest.get("model"):
        base = _public_name(str(manifest["model"]))
    method = str(manifest.get("method") or ("lora" if target.adapter_folder else ""))
    if manifest.get("kind") == "pretrain":
        method = "pretrain"
    data = manifest.get("data")
    return Origin(
        label=target.label,
        base=base,
        licence=licence_of(folder) or _licence_of_base(manifest),
        datasets=(_public_name(str(data)),) if data else (),
        method="qlora" if target.base is not None else method,
        merged=merged_into(target),
        training=_training(manifest, config),
    )


def merged_into(target: Target) -> str:
    """Say which weights an adapter is merged into: those that it was trained on, or a finer or coarser copy of them."""
    folder = target.model_folder
    if target.adapter_folder is None or folder is None:
        return ""
    config = read_config(folder)
    quantization = read_quantization(config, folder)
    if quantization is not None:
        return f"the dequantised {quantization.layout.bits}-bit base"
    if is_nf4_folder(config):
        return "the dequantised 4-bit base (NF4)"
    if target.base is not None:
        return f"the full-precision base (trained on its {target.base.bits or 4}-bit copy)"
    return "the full-precision base"


def model_name(folder: Path) -> str:
    """Return what people call a model: its name on the hub where the folder is of the hub's cache, else the folder's.

    The cache's folders are `models--owner--name/snapshots/<commit>`, whose last part says nothing.
    """
    resolved = folder.resolve()
    if resolved == NANO_FOLDER.resolve():
        return NANO
    cached = next((part for part in reversed(folder.absolute().parts) if part.startswith("models--")), None)
    return resolved.name if cached is None else cached.removeprefix("models--").replace("--", "/")


def licence_of(folder: Path) -> str:
    """Return a model's licence: as its card states it, else as its LICENSE file begins."""
    if folder.resolve() == NANO_FOLDER.resolve():
        return "apache-2.0"
    readme = folder / "README.md"
    if readme.is_file():
        # Model cards begin with YAML between dashes: https://huggingface.co/docs/hub/model-cards
        card = re.match(r"---\r?\n(.*?)\r?\n---", readme.read_text("utf-8", errors="replace"), re.DOTALL)
        stated = card and re.search(r"^license:\s*(\S+)\s*$", card[1], re.MULTILINE)
        if stated:
            return stated[1].strip("'\"")
    for path in sorted(folder.glob("LICENSE*")):
        head = " ".join(path.read_text("utf-8", errors="replace")[:_HEAD_CHARACTERS].split())
        return next((name for name, text in _LICENCES if text.search(head)), "other")
    return ""


def _licence_of_base(manifest: Mapping[str, Any]) -> str:
    """Look where a run's base lies: a model that was trained in full brings no licence of its own."""
    folder = manifest.get("model_folder")
    return licence_of(Path(folder)) if isinstance(folder, str) and Path(folder).is_dir() else ""


def hub_url(name: str, *, dataset: bool = False) -> str:
    """Return where a name is found on the hub; empty for a name that is none of the hub's."""
    if not _HUB_NAME.fullmatch(name):
        return ""
    return f"{_HUB}/datasets/{name}" if dataset else f"{_HUB}/{name}"


def _numbered(prefix: str, name: str) -> dict[str, str]:
    notes = {f"{prefix}.name": name}
    url = hub_url(name, dataset=prefix.startswith("dataset"))
    if url:
        notes |= {f"{prefix}.organization": name.partition("/")[0], f"{prefix}.repo_url": url}
    return notes


def _public_name(text: str) -> str:
    """Return a hub name as it is, and of a path its last part: nobody else is helped by this machine's folders."""
    path = Path(text).expanduser()
    name = text.partition("@")[0].partition(":")[0]  # a data set's may say which revision and which part
    if path.exists() or path.suffix in _DATA_SUFFIXES or not _HUB_NAME.fullmatch(name):
        return path.name or text
    return name


def _config_of(run: RunFolder) -> FinetuneConfig | None:
    try:
        return load_config(FinetuneConfig, run.config_path)
    except ToolkitError:
        return None  # of a pretraining, or damaged


def _training(manifest: Mapping[str, Any], config: FinetuneConfig | None) -> dict[str, Any]:
    backend, final = manifest.get("backend") or {}, manifest.get("final") or {}
    figures = {
        "examples": (manifest.get("data_figures") or {}).get("train_examples"),
        "steps": manifest.get("result_step") or manifest.get("total_steps"),
        "best_validation_loss": final.get("best_val_loss"),
        "seed": manifest.get("seed"),
        "backend": " on ".join(str(backend[key]) for key in ("name", "device") if backend.get(key)) or None,
        "finished": str(manifest.get("finished") or "")[:10] or None,
    }
    if config is not None:
        adapter = config.method != "full"
        figures |= {
            "learning_rate": config.train.learning_rate,
            "batch_size": config.train.batch_size,
            "lora_rank": config.lora.rank if adapter else None,
            "lora_alpha": config.lora.alpha if adapter else None,
            "lora_variant": config.lora.variant if adapter else None,
        }
    return {name: value for name, value in figures.items() if value is not None}
