"""A commented config, written from the option's own docstrings, so that it cannot say something else than they do."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from toolkit.config_files import expected, section_of, value_text

WIDTH = 110
HEADER = """\
# What to train on what, and how. Every option of `toolkit finetune` stands here; those that matter most are set.
#
# A line that begins with # and no space is an option at its default: take the # away and change the value.
# Paths are looked for beside this file first, then in the folder where the command is typed.
# Look before you train: toolkit finetune --config THIS_FILE --dry-run
"""


def config_template(model: type[BaseModel], chosen: Mapping[str, Any]) -> str:
    """Write every option of a config model as YAML: those in `chosen` (by dotted path) set, the others commented out.

    Raises:
        KeyError: `chosen` names an option that the model does not have.
    """
    left = dict(chosen)
    lines = [*HEADER.splitlines(), *_section(model, "", left, "")]
    if left:
        raise KeyError(f"no such option: {', '.join(left)}")
    return "\n".join(lines) + "\n"


def _section(model: type[BaseModel], prefix: str, left: dict[str, Any], indent: str) -> Iterator[str]:
    for name, info in model.model_fields.items():
        section = section_of(info)
        yield ""
        if section is not None:
            yield from _comment(_sentence(info), indent)
            yield f"{indent}{name}:"
            yield from list(_section(section, f"{prefix}{name}.", left, indent + "  "))[1:]
            continue
        yield from _comment(_describe(info), indent)
        if prefix + name in left:
            yield f"{indent}{name}: {value_text(left.pop(prefix + name))}"
        else:
            yield f"{indent}#{name}: {value_text(info.get_default(call_default_factory=True))}"


def _describe(info: FieldInfo) -> str:
    takes = expected(info)
    return f"{_sentence(info)} ({takes})" if takes.startswith("one of") else _sentence(info)


def _sentence(info: FieldInfo) -> str:
    return " ".join((info.description or "").split())


def _comment(text: str, indent: str) -> list[str]:
    return [f"{indent}# {line}" for line in textwrap.wrap(text, WIDTH - len(indent))]
