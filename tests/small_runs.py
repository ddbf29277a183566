"""What tests of jobs and commands share: a tiny dataset, and the command line in this process."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from toolkit.cli import main


def write_questions(path: Path, count: int = 24) -> Path:
    """Write `count` sums as instruction records and return the path."""
    lines = []
    for number in range(count):
        left, right = divmod(number, 5)
        record = {
            "instruction": f"What is {left} plus {right}?",
            "input": "",
            "output": str(left + right),
            "metadata": {"id": f"q{number}", "key": f"{left}+{right}"},
        }
        lines.append(json.dumps(record) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


def toolkit(*arguments: object) -> Result:
    """Run the command line in this process; `stdout`, `stderr` and `exit_code` are on the result."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def settings(**values: object) -> list[str]:
    """Turn `train__max_steps=3` into `--set train.max_steps=3`."""
    return [part for key, value in values.items() for part in ("--set", f"{key.replace('__', '.')}={value}")]
