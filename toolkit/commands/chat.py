"""`toolkit chat`: talk to a run, an adapter, a model folder or a .gguf; answers appear token by token."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import get_args

import click

from toolkit.backends import OpenTarget, open_target, resolve_target
from toolkit.commands.options import backend_option, full_base_option
from toolkit.commands.progress import say as tell
from toolkit.config import DeviceChoice
from toolkit.datasets.schema import Message
from toolkit.errors import ToolkitError
from toolkit.protocols import Sampling
from toolkit.runs import runs_root

HELP_LINE = "/reset starts anew, /exit or Ctrl-D leaves, Ctrl-C stops an answer"
# A model may write anything; only line breaks and tabs may steer the terminal.
_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


@dataclass
class Conversation:
    """What was said so far, and the model that answers. `note` says why the last answer ended early, if it did."""

    target: OpenTarget
    sampling: Sampling
    system: str | None = None
    messages: list[Message] = field(default_factory=list)
    note: str = ""

    def __post_init__(self) -> None:
        """Begin with the system message, if there is one."""
        self.reset()

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages = [Message("system", self.system)] if self.system else []
        self.note = ""

    def ask(self, text: str) -> Iterator[str]:
        """Yield the answer to `text` piece by piece, never half a character.

        The turn is remembered as far as the answer has come, also when the caller stops reading. Raises ToolkitError,
        with nothing remembered, when the conversation leaves no room for an answer.
        """
        asked = [*self.messages, Message("user", text)]
        tokenizer, context = self.target.tokenizer, self.target.context
        prompt = tokenizer.encode_chat(asked, True)
        if len(prompt) >= context:
            raise ToolkitError(
                f"the conversation has {len(prompt):,} tokens and the model's context is {context:,}, "
                "so there is no room for an answer",
                hint="Ask something shorter, or start anew with /reset",
            )
        self.note = ""
        pieces: list[str] = []
        try:
            for piece in self._generate(prompt):
                pieces.append(piece)
                yield piece
        finally:
            self.messages = [*asked, Message("assistant", "".join(pieces))]

    def _generate(self, prompt: list[int]) -> Iterator[str]:
        stream = self.target.tokenizer.stream()
        made = 0
        for item in self.target.scorer.generate([prompt], self.sampling):
            if item.token is not None:
                made += 1
                if piece := stream.push(item.token):
                    yield piece
            if item.finish_reason == "length":
                self.note = self._why_short(len(prompt) + made)
        if rest := stream.flush():
            yield rest

    def _why_short(self, tokens: int) -> str:
        if tokens >= self.target.context:
            return f"the model's context of {self.target.context:,} tokens is full; /reset starts anew"
        return f"stopped after {self.sampling.max_new_tokens:,} tokens; --max-tokens allows more"


@click.command()
@click.argument("target")
@click.option("--prompt", help="Ask this one thing and leave. Without it: standard input, or a conversation.")
@click.option("--system", help="System message to begin with.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Longest answer.")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="0 always takes the likeliest token; 0.7 is livelier.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Draws above temperature 0.")
@click.option(
    "--device", type=click.Choice(get_args(DeviceChoice)), default="auto", show_default=True, help="Where to compute."
)
@backend_option
@full_base_option
def chat(
    target: str,
    prompt: str | None,
    system: str | None,
    max_tokens: int,
    temperature: float,
    seed: int,
    device: str,
    backend: str,
    full_base: bool,
) -> None:
    """Talk to TARGET: a run, an adapter folder, a model folder, a hub name, nano or a .gguf file.

    With --prompt, or with text on standard input, answers once on standard output.
    """
    interactive = prompt is None and sys.stdin.isatty()
    text = prompt if prompt is not None else "" if interactive else sys.stdin.read()
    if not interactive and not text.strip():
        raise ToolkitError("the prompt is empty", where="--prompt" if prompt is not None else "standard input")
    found = resolve_target(target, runs_root())
    opened = open_target(found, device, backend_choice=backend, full_base=full_base, report=tell)
    sampling = Sampling(max_tokens, temperature, seed=seed, stop_ids=tuple(opened.tokenizer.stop_ids))
    try:
        conversation = Conversation(opened, sampling, system)
        if interactive:
            converse(conversation)
        else:
            say(conversation, text.strip())
    finally:
        opened.scorer.close()


def say(conversation: Conversation, text: str) -> None:
    """Print an answer as it comes; what cut it short goes to stderr."""
    for piece in conversation.ask(text):
        click.echo(piece.translate(_CONTROLS) if sys.stdout.isatty() else piece, nl=False)
    click.echo()
    if conversation.note:
        click.echo(f"({conversation.note})", err=True)


def converse(conversation: Conversation) -> None:
    """Take turns until /exit or the end of the input."""
    _edit_lines()
    click.echo(f"{conversation.target.label} · {HELP_LINE}", err=True)
    while (text := _read_turn()) is not None:
        if text == "/exit":
            return
        if text == "/reset":
            conversation.reset()
            click.echo("(started anew)", err=True)
        elif text.startswith("/"):
            click.echo(f"({HELP_LINE})", err=True)
        elif text:
            _answer_turn(conversation, text)


def _edit_lines() -> None:
    """Switch on line editing and history in `input`, where this Python has it."""
    try:
        import readline  # noqa: F401
    except ImportError:
        pass


def _read_turn() -> str | None:
    """Read a line; None at the end of the input, empty after Ctrl-C."""
    try:
        return input("› ").strip()
    except EOFError:
        click.echo()
        return None
    except KeyboardInterrupt:
        click.echo(f"\n({HELP_LINE})", err=True)
        return ""


def _answer_turn(conversation: Conversation, text: str) -> None:
    """Answer one turn; neither Ctrl-C nor a full context ends the conversation."""
    try:
        say(conversation, text)
    except KeyboardInterrupt:
        click.echo("\n(stopped)", err=True)
    except ToolkitError as error:
        for problem in error.problems:
            click.echo(f"({problem})", err=True)
