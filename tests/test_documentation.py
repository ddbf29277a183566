"""The documents keep their word: commands exist, options exist, links lead somewhere, and the quickstart runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from scripts import command_docs
from toolkit.cli import main as toolkit_group
from toolkit.config import FinetuneConfig, PretrainConfig
from toolkit.config_files import option_paths

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(
    r"(?:^<!-- (?P<note>[^\n]*?) -->\n)?^```(?P<language>\w+)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE
)
LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)(?:#[^)]*)?\)")
MODELS = {"finetune": FinetuneConfig, "pretrain": PretrainConfig}
SHORT = ["--set", "train.max_steps=4", "--set", "train.eval_every=4", "--set", "train.save_every=2"]


@dataclass(frozen=True)
class Line:
    """A command as a reader would type it, and the note of the block that it stands in."""

    where: str
    words: tuple[str, ...]
    note: str


def blocks(path: Path) -> Iterator[tuple[int, str, str, str]]:
    """Yield (line number, note, language, body) of every fenced block."""
    text = path.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, match["note"] or "", match["language"], match["body"]


def typed_lines(path: Path) -> Iterator[Line]:
    for number, note, language, body in blocks(path):
        if language in ("sh", "console"):
            for line in body.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if words:
                    yield Line(f"{path.relative_to(ROOT)}, block at line {number}: {line}", tuple(words), note)


def all_commands() -> list[Line]:
    """Collect the commands in fenced blocks, in indented ones, and in running text and tables."""
    lines = [line for path in DOCUMENTS for line in typed_lines(path) if line.words[0] == "toolkit"]
    for path in DOCUMENTS:
        prose = BLOCK.sub("", path.read_text(encoding="utf-8"))
        for text in re.findall(r"^    (toolkit .*)$|`(toolkit [a-z-][^`]*)`", prose, re.MULTILINE):
            words = shlex.split(re.sub(r"[\[\]]", "", "".join(text)), comments=True)  # a synopsis: [--out FILE]
            lines.append(Line(f"{path.relative_to(ROOT)}: {' '.join(words)}", tuple(words), ""))
    return lines


def parse(command: click.Command, words: list[str], name: str, parent: click.Context | None = None) -> None:
    """Parse as the command line does, but without looking at the disk. Raises click.UsageError."""
    context = click.Context(command, parent=parent, info_name=name, **command.context_settings)
    values, rest, _ = command.make_parser(context).parse_args(list(words))
    if isinstance(command, click.Group):
        if rest:
            child = command.get_command(context, rest[0])
            if child is None:
                raise click.UsageError(f"no such command: {name} {rest[0]}")
            parse(child, rest[1:], rest[0], context)
        return
    if rest:
        raise click.UsageError(f"unexpected words: {rest}")
    for parameter in command.params:
        value = values.get(parameter.name)
        placeholder = isinstance(value, str) and value.isalpha() and value.isupper()
        if isinstance(parameter.type, click.Choice) and isinstance(value, str) and not placeholder:
            parameter.type.convert(value, parameter, context)
    known = dict(option_paths(MODELS[command.name])) if command.name in MODELS else {}
    for override in values.get("overrides") or ():
        key = override.partition("=")[0]
        if known and key not in known:
            raise click.UsageError(f"no such option of the config: {key}")


def test_the_documents_hold_commands_to_check():
    assert len(all_commands()) > 15


@pytest.mark.parametrize("line", all_commands(), ids=lambda line: " ".join(line.words)[:60])
def test_every_documented_command_and_option_exists(line):
    words = list(line.words[1:])
    try:
        parse(toolkit_group, words, "toolkit")
    except click.BadOptionUsage:  # running text may name an option without a value
        assert words[-1].startswith("--"), line.where
        parse(toolkit_group, [*words, "value"], "toolkit")


def test_a_command_that_does_not_exist_would_be_noticed():
    for words in (["finetun"], ["finetune", "--modle", "nano"], ["finetune", "--set", "train.max_step=3"]):
        with pytest.raises(click.UsageError):
            parse(toolkit_group, words, "toolkit")


def test_every_make_target_in_the_documents_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))
    for path in DOCUMENTS:
        for line in typed_lines(path):
            if line.words[0] == "make":
                assert line.words[1] in targets, line.where


def test_links_between_documents_lead_to_files():
    for path in DOCUMENTS:
        for target in LINK.findall(path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.relative_to(ROOT)} links to {target}"


def test_every_test_that_evidence_names_exists():
    text = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    named = re.findall(r"`pytest (tests/[\w/]+\.py)(?:::(\w+)| -k (\w+))?`", text)
    assert len(named) > 20
    assert len(named) == text.count("`pytest ")
    for file, name, keyword in named:
        tests = re.findall(r"^def (test_\w+)", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
        assert (name in tests) if name else any(keyword in test for test in tests), f"{file} {name}{keyword}"


def test_the_commands_page_equals_the_help_texts():
    assert command_docs.TARGET.read_text(encoding="utf-8") == command_docs.render(), "type: make docs"


def test_every_option_has_a_help_text():
    for context in command_docs.walk(toolkit_group, "toolkit"):
        for parameter in context.command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{context.command_path} {parameter.opts[-1]}"


def write_files(document: Path, folder: Path) -> None:
    """Write the blocks that the document says to save under a name."""
    for _, note, _, body in blocks(document):
        if note.startswith("file: "):
            (folder / note.removeprefix("file: ")).write_text(body, encoding="utf-8")


@pytest.mark.slow
def test_the_quickstart_runs_as_written_with_fewer_steps(tmp_path):
    document = ROOT / "docs" / "quickstart.md"
    write_files(document, tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TOOLKIT_RUNS_DIR": "runs"}
    ran = []
    for line in typed_lines(document):
        if line.words[0] != "toolkit" or line.note.startswith("not run"):
            continue
        trains = line.words[1] == "finetune" and "--dry-run" not in line.words
        words = [*line.words[1:], *(SHORT if trains else [])]
        words = ["train.max_steps=4" if word.startswith("train.epochs=") else word for word in words]
        if "--config" in words:
            settings = tmp_path / words[words.index("--config") + 1]
            settings.write_text(settings.read_text().replace("epochs: 20", "max_steps: 4"))
        done = subprocess.run(
            [sys.executable, "-m", "toolkit", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=300,
        )
        assert done.returncode == 0, f"{line.where}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        ran.append(line.words[1])
    assert {"finetune", "runs", "evaluate", "chat", "export"} <= set(ran)
    assert (tmp_path / "runs" / "mine" / "export" / "mine-Q4_K_M.gguf").is_file()
