"""Writes the folder that `toolkit init` makes."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from toolkit.atomic_files import write_atomic, write_failed
from toolkit.config import FinetuneConfig
from toolkit.errors import Problem, ToolkitError
from toolkit.models import NANO, find_model
from toolkit.new_project.template import config_template

EXAMPLES = Path(__file__).with_name("examples.jsonl")
CONFIG_NAME, DATA_NAME, README_NAME = "run.yaml", "data/train.jsonl", "README.md"


@dataclass(frozen=True)
class NewProject:
    """What was written, and the commands that go on from there."""

    folder: Path
    files: tuple[Path, ...]
    next_commands: tuple[str, ...]


def create_project(folder: Path, model: str, *, force: bool = False) -> NewProject:
    """Write run.yaml, ten examples and a README into `folder`, which may exist.

    Raises:
        ToolkitError: one of these files exists and `force` is not set, or the model is a folder that is not there or
            not one of a model; nothing was written. A name on the hub is not looked up.
        JobFailed: the folder cannot be written.
    """
    model = _settled(model)
    texts = {
        DATA_NAME: EXAMPLES.read_text("utf-8"),
        CONFIG_NAME: project_config(model),
        README_NAME: _readme(folder, _next_commands(Path(), model)),
    }
    if folder.exists() and not folder.is_dir():
        raise ToolkitError("this is a file, not a folder", where=folder)
    existing = [folder / name for name in texts if (folder / name).exists()]
    if existing and not force:
        hint = "Choose another folder (toolkit init FOLDER), or give --force to replace it"
        raise ToolkitError.gather([Problem("exists already", str(path), hint) for path in existing])
    for name, text in texts.items():
        try:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_failed(error, folder / name) from error
        write_atomic(folder / name, text)
    return NewProject(folder, tuple(folder / name for name in texts), _next_commands(folder, model))


def project_config(model: str) -> str:
    """Return run.yaml's text for a model."""
    defaults = FinetuneConfig()
    chosen = {
        "model": model,
        "method": defaults.method,
        "data.path": DATA_NAME,
        "data.validation": 0.1,
        "lora.rank": defaults.lora.rank,
        "lora.alpha": defaults.lora.alpha,
        "train.epochs": 3.0,
        "train.batch_size": 4,
        "train.seed": defaults.train.seed,
    }
    return config_template(FinetuneConfig, chosen)


def _settled(model: str) -> str:
    """Return a model's name as it is and a folder's path in full, since the config will stand elsewhere."""
    is_folder = model != NANO and (model.startswith((".", "/", "~")) or Path(model).is_dir())
    return str(find_model(model).folder.resolve()) if is_folder else model


def _next_commands(folder: Path, model: str) -> tuple[str, ...]:
    config = shlex.quote(str(folder / CONFIG_NAME))
    data = shlex.quote(str(folder / DATA_NAME))
    return (
        f"toolkit finetune --config {config} --dry-run",
        f"toolkit finetune --config {config} --name mine",
        f"toolkit evaluate {shlex.quote(model)} mine --data {data}",
        "toolkit export mine --quant Q4_K_M",
        'toolkit chat mine --prompt "What is a blue ticket?"',
    )


def _readme(folder: Path, commands: tuple[str, ...]) -> str:
    look, train, evaluate, export, chat = commands
    name = folder.resolve().name
    return f"""\
# {name}

Made by `toolkit init`. `{DATA_NAME}` holds ten examples: put yours in their place, one JSON object a line.
`{CONFIG_NAME}` holds the settings, each with what it does.

The commands are typed in this folder, with the environment of the toolkit active. Look at the plan, and at one example
with its trained tokens marked; nothing is trained yet:

```sh
{look}
```

Train, measure, export to GGUF, and talk to the result:

```sh
{train}
{evaluate}
{export}
{chat}
```

Ten examples teach a form, not knowledge: a few hundred are a beginning. Say the same thing in several ways, and keep
fifty questions back in a file of their own to evaluate with. After a crash or Ctrl-C: `toolkit finetune --resume mine`.
"""
