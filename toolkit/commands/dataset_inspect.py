"""`toolkit dataset inspect`: examples as the model will see them, the trained tokens coloured."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import click

from toolkit.commands.dataset_options import data_mapping, mapping_option, model_option, paths_argument
from toolkit.datasets.chat import TokenizedExample, tokenize_examples, trained_pieces
from toolkit.datasets.passing_on import read_records
from toolkit.datasets.schema import Example
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.datasets.validation.sources import find_sources
from toolkit.errors import ToolkitError
from toolkit.models import find_model

_LONGEST = 1 << 20
_PRINTED = 5


@click.command("inspect")
@paths_argument
@model_option
@click.option("--id", "identity", help="Only the example with this metadata.id, or at this line, such as 12.")
@click.option("--category", help="Only examples of this category.")
@click.option("--skip", type=click.IntRange(min=0), default=0, show_default=True, help="Examples to pass over.")
@click.option(
    "--count",
    type=click.IntRange(min=1),
    help=f"Examples to show. [default: all in a terminal, {_PRINTED} elsewhere]",
)
@click.option("--ids", is_flag=True, help="Show token ids too.")
@click.option("--plain", is_flag=True, help="No colours and no paging: trained tokens stand between « and ».")
@mapping_option
def inspect(
    paths: tuple[Path, ...],
    model_name: str,
    identity: str | None,
    category: str | None,
    skip: int,
    count: int | None,
    ids: bool,
    plain: bool,
    overrides: tuple[str, ...],
) -> None:
    """Page through PATH as the model will see it: rendered by its chat template, trained tokens coloured.

    In a terminal any key shows the next example and q ends; elsewhere everything is printed at once.
    """
    data = data_mapping(overrides)
    sources = find_sources(paths)
    tokenizer = Tokenizer.load(find_model(model_name).folder)
    paged = sys.stdout.isatty() and sys.stdin.isatty() and not plain
    chosen = (example for _, example in read_records(sources, data) if _is_chosen(example, identity, category))
    stop = None if paged and count is None else skip + (count or _PRINTED)
    shown = 0
    for example in islice(chosen, skip, stop):
        if shown and paged and click.getchar(echo=False).lower() == "q":
            break
        (tokenized,) = tokenize_examples([example], tokenizer, _LONGEST).examples
        click.echo("\n".join(_page(example, tokenized, tokenizer, coloured=paged, ids=ids)))
        shown += 1
    if not shown:
        raise ToolkitError("no such example", hint="Leave out --id, --category or --skip")


def _is_chosen(example: Example, identity: str | None, category: str | None) -> bool:
    if category is not None and example.category != category:
        return False
    line = example.where.rpartition(":")[2].rpartition(" ")[2]
    return identity is None or identity in (str(example.metadata.get("id")), line)


def _page(
    example: Example, tokenized: TokenizedExample, tokenizer: Tokenizer, *, coloured: bool, ids: bool
) -> Iterator[str]:
    names = ("id", "category", "difficulty", "preservation", "key")
    known = [f"{name} {example.metadata[name]}" for name in names if name in example.metadata]
    yield _styled(f"── {example.where}", coloured, bold=True)
    counts = f"{len(tokenized.tokens):,} tokens, {tokenized.trained_tokens:,} trained"
    yield _styled("   " + ", ".join([counts, *known]), coloured, dim=True)
    yield "".join(_marked(text, trained, coloured) for text, trained in trained_pieces(tokenized, tokenizer))
    if ids:
        yield "".join(_ids(tokenized, coloured))
    yield ""


def _marked(text: str, trained: bool, coloured: bool) -> str:
    if not trained:
        return text
    return click.style(text, fg="green", bold=True) if coloured else f"«{text}»"


def _ids(tokenized: TokenizedExample, coloured: bool) -> list[str]:
    marks: Sequence[bool] = (tokenized.loss_weights != 0).tolist()
    return [
        _marked(f"{token}", trained, coloured) + " "
        for token, trained in zip(tokenized.tokens.tolist(), marks, strict=True)
    ]


def _styled(text: str, coloured: bool, **style: bool) -> str:
    return click.style(text, **style) if coloured else text
