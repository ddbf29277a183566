"""The packaged recipes: ready configs for well-known models, named after their files in `toolkit/configs/`."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from toolkit.errors import ToolkitError

RECIPES = Path(__file__).parent / "configs"

Command = Literal["finetune", "pretrain"]


def recipe_names(command: Command) -> list[str]:
    """Return the recipes that a command takes; those for `toolkit pretrain` end in `-pretrain`."""
    names = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    return [name for name in names if name.endswith("-pretrain") == (command == "pretrain")]


def recipe(name: str) -> Path | None:
    """Return a packaged recipe's path (with or without `.yaml`), or None where it is not shipped."""
    path = RECIPES / f"{name.removesuffix('.yaml')}.yaml"
    return path if path.is_file() else None


def find_config(text: Path | str, command: Command) -> Path:
    """Return the config that a user names: a file, else a recipe.

    Raises:
        ToolkitError: there is neither; the hint names the recipes, the nearest first.
    """
    path = Path(text).expanduser()
    if path.exists():
        return path
    names = recipe_names(command)
    named = path.name.removesuffix(".yaml")
    if path.parent == Path() and named in names:
        return RECIPES / f"{named}.yaml"
    near = get_close_matches(named, names, n=1, cutoff=0.4)
    hint = f"Did you mean {near[0]}? " if near else ""
    hint += f"Recipes for toolkit {command}: {', '.join(names)}"
    raise ToolkitError("no such config file, and no recipe of this name", where=text, hint=hint)
