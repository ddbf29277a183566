"""Write docs/commands.md from the help texts, or check that it is up to date.

python -m scripts.command_docs [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from toolkit.cli import main as toolkit_group

TARGET = Path(__file__).resolve().parents[1] / "docs" / "commands.md"
WIDTH = 100
HEADER = """\
# Commands

The help text of every command, as `toolkit COMMAND --help` prints it. Written by `make docs`; `make check` fails when
it is out of date, so do not edit it by hand.
"""


def walk(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[click.Context]:
    """Yield a context of the command and of everything below it, depth first."""
    settings = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH, "color": False}
    context = click.Context(command, parent=parent, info_name=name, **settings)
    yield context
    if isinstance(command, click.Group):
        for child_name in command.list_commands(context):
            child = command.get_command(context, child_name)
            if child is not None and not child.hidden:
                yield from walk(child, child_name, context)


def render() -> str:
    """Return the whole page."""
    sections = [
        f"## {context.command_path}\n\n```text\n{context.command.get_help(context).rstrip()}\n```\n"
        for context in walk(toolkit_group, "toolkit")
    ]
    return "\n".join([HEADER, *sections])


def main() -> int:
    """Write or check the page; return the exit code."""
    page = render()
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(page, encoding="utf-8")
        return 0
    if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != page:
        print(f"{TARGET.name} differs from the help texts; type: make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
