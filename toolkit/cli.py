"""The click group: lazy dispatch to `toolkit.commands`, and the one place that turns errors into text and exit codes.

`toolkit --help` imports no command, hence no framework.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from toolkit import __version__
from toolkit.commands.lazy import Entries, LazyGroup
from toolkit.errors import ToolkitError

INTERRUPTED = 130


def _dataset() -> click.Command:
    from toolkit.commands.dataset import dataset

    return dataset


def _finetune() -> click.Command:
    from toolkit.commands.finetune import finetune

    return finetune


def _pretrain() -> click.Command:
    from toolkit.commands.pretrain import pretrain

    return pretrain


def _evaluate() -> click.Command:
    from toolkit.commands.evaluate import evaluate

    return evaluate


def _export() -> click.Command:
    from toolkit.commands.export import export

    return export


def _chat() -> click.Command:
    from toolkit.commands.chat import chat

    return chat


def _serve() -> click.Command:
    from toolkit.commands.serve import serve

    return serve


def _mcp() -> click.Command:
    from toolkit.commands.mcp import mcp

    return mcp


def _gguf() -> click.Command:
    from toolkit.commands.gguf import gguf

    return gguf


def _runs() -> click.Command:
    from toolkit.commands.runs import runs

    return runs


def _checkpoint() -> click.Command:
    from toolkit.commands.checkpoint import checkpoint

    return checkpoint


def _demo() -> click.Command:
    from toolkit.commands.demo import demo

    return demo


def _init() -> click.Command:
    from toolkit.commands.init import init

    return init


def _doctor() -> click.Command:
    from toolkit.commands.doctor import doctor

    return doctor


# Plain imports in functions rather than names of modules, so that import-linter sees every arrow.
COMMANDS: Entries = {
    "init": ("Make a folder to begin with.", _init),
    "dataset": ("Make, check and mix instruction data.", _dataset),
    "finetune": ("Teach a model your data.", _finetune),
    "evaluate": ("Measure what a model answers right.", _evaluate),
    "export": ("Write GGUF for llama.cpp and prove it.", _export),
    "chat": ("Talk to a run, an adapter or a .gguf.", _chat),
    "serve": ("Answer OpenAI's API on this machine.", _serve),
    "mcp": ("Give MCP clients memory and search.", _mcp),
    "gguf": ("Look into .gguf files and compare them.", _gguf),
    "runs": ("List and show runs.", _runs),
    "checkpoint": ("Verify, list and prune checkpoints.", _checkpoint),
    "doctor": ("Check this machine; say how to mend it.", _doctor),
    "pretrain": ("Train a small model from scratch.", _pretrain),
    "demo": ("Fine-tune, export and compare the bundled model.", _demo),
}


class Toolkit(LazyGroup):
    """The group of all commands; the one place where an error ends as text and an exit code."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> NoReturn:
        """Run a command; print errors as `error: …` lines on stderr and exit with their code."""
        arguments = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in arguments
        arguments = [argument for argument in arguments if argument != "--debug"]
        extra["standalone_mode"] = False
        extra.setdefault("prog_name", "toolkit")
        if not debug:  # Frameworks announce their own deprecations, which no user of ours can act on.
            warnings.filterwarnings("ignore", category=FutureWarning)
        try:
            code = super().main(arguments, *rest, **extra)
        except BaseException as error:
            if debug and not isinstance(error, SystemExit):
                traceback.print_exc()
            code = _report(error)
        sys.exit(code if isinstance(code, int) else 0)


def _report(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        _say("interrupted")
        return INTERRUPTED
    if isinstance(error, ToolkitError):
        for problem in error.problems:
            _say(f"error: {problem}")
        return error.exit_code
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return 2
    if isinstance(error, click.ClickException):
        help_line = (
            f". Try: {error.ctx.command_path} --help" if isinstance(error, click.UsageError) and error.ctx else ""
        )
        _say(f"error: {error.format_message().rstrip('.')}{help_line}")
        return 2
    if isinstance(error, BrokenPipeError):
        # Whoever read our output has left (`| head`); closing stderr keeps Python from complaining at exit.
        sys.stderr.close()
        return 0
    _say(f"error: {type(error).__name__}: {_first_line(error)} (run again with --debug to see where)")
    return 1


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]


def _say(text: str) -> None:
    click.echo(" ".join(text.split("\n")), err=True)


@click.group(
    cls=Toolkit, entries=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120}
)
@click.version_option(__version__, prog_name="toolkit")
@click.option("--debug", is_flag=True, help="Show where an error comes from (may stand behind any command).")
def main(debug: bool) -> None:
    """Fine-tune a language model on this machine, export it to GGUF and prove the export in llama.cpp."""
