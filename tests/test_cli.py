from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from tests.small_runs import toolkit
from toolkit import cli
from toolkit.errors import JobFailed, Problem, ToolkitError

FRAMEWORKS = (
    "torch", "transformers", "peft", "mlx", "llama_cpp", "tokenizers", "numpy", "pydantic", "rich", "yaml"
)  # fmt: skip


def test_help_loads_no_framework_and_no_command() -> None:
    code = (
        "import sys\nfrom toolkit.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as error:\n    assert error.code == 0\n"
        f"print('LOADED', [name for name in {FRAMEWORKS!r} if name in sys.modules],"
        " [name for name in sys.modules if name.startswith('toolkit.commands.')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "LOADED [] ['toolkit.commands.lazy']"


def test_help_of_finetune_loads_no_framework() -> None:
    code = (
        "import sys\nfrom toolkit.cli import main\n"
        "try:\n    main(['finetune', '--help'])\nexcept SystemExit as error:\n    assert error.code == 0\n"
        f"print('LOADED', [name for name in {FRAMEWORKS[:5]!r} if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "LOADED []"


def test_every_command_of_the_table_loads_under_its_name() -> None:
    assert {name: load().name for name, (_, load) in cli.COMMANDS.items()} == {name: name for name in cli.COMMANDS}


def run_raising(monkeypatch: pytest.MonkeyPatch, error: BaseException, *arguments: str):
    @click.command("boom")
    def boom() -> None:
        raise error

    monkeypatch.setitem(cli.COMMANDS, "boom", ("", lambda: boom))
    return CliRunner().invoke(cli.main, ["boom", *arguments])


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ToolkitError("bad", where="run.yaml:3", hint="Mend it"), 2, "error: run.yaml:3: bad. Mend it\n"),
        (ToolkitError.gather([Problem("one"), Problem("two")]), 2, "error: one\nerror: two\n"),
        (JobFailed("broke"), 1, "error: broke\n"),
        (ToolkitError("two\nlines"), 2, "error: two lines\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted\n"),
        (ZeroDivisionError("x\ny"), 1, "error: ZeroDivisionError: x (run again with --debug to see where)\n"),
    ],
)
def test_errors_become_lines_on_stderr_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, text: str
) -> None:
    result = run_raising(monkeypatch, error)
    assert (result.exit_code, result.stderr, result.stdout) == (code, text, "")


def test_debug_behind_any_command_shows_where_it_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_raising(monkeypatch, ZeroDivisionError("x"), "--debug")
    assert "Traceback" in result.stderr and "in boom" in result.stderr
    assert result.exit_code == 1


def test_a_misspelt_command_or_option_is_one_line() -> None:
    result = toolkit("finetun")
    assert (result.exit_code, result.stderr) == (2, "error: no such command: finetun. Did you mean finetune?\n")
    result = toolkit("finetune", "--dry-rum")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1 and "--dry-rum" in result.stderr


def test_without_a_command_the_help_is_shown() -> None:
    result = toolkit()
    assert result.exit_code == 2
    assert "finetune" in result.stderr and not result.stderr.startswith("error")


def test_the_version_is_printed() -> None:
    assert toolkit("--version").stdout.startswith("toolkit, version ")
