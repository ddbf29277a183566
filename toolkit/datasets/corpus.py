"""Documents for training from scratch: read them, split them, join them into rows of equal length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.datasets.chat import TokenizedExample
from toolkit.datasets.lines import data_suffix, read_values, text_lines
from toolkit.datasets.problems import condense
from toolkit.datasets.randomness import permutation
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.errors import Problem, ToolkitError

Document = Mapping[str, Any]
"""`{"text": str}` or `{"messages": [{"role", "content"}, …]}`, as in a .jsonl file."""

PIECE_CHARACTERS = 4000
"""A .txt file is cut at an empty line once a piece is this long: a single long file still has documents to hold out."""

SEPARATOR = "<|endoftext|>"
_TEXT_SUFFIXES = (".txt", ".md")
_HOLD_OUT, _ORDER = 301, 302
_CHUNK = 1000


def read_corpus(path: Path | str) -> list[Document]:
    """Read a file of text, JSON lines or Parquet, or every such file of a folder, in the order of their names.

    Raises:
        ToolkitError: everything that cannot be read, gathered, with file and line.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise ToolkitError("no such file or folder", where=f"corpus: {path}")
    files = sorted(p for p in place.rglob("*") if _is_read(p)) if place.is_dir() else [place]
    if not files:
        raise ToolkitError("the folder has no .txt or .jsonl file", where=place)
    problems: list[Problem] = []
    documents: list[Document] = []
    for file in files:
        read = _text_pieces if file.suffix.lower() in _TEXT_SUFFIXES else _records
        documents.extend(read(file, problems))
    if not documents and not problems:
        problems.append(Problem("the corpus holds no text", str(place)))
    if problems:
        raise ToolkitError.gather(condense(problems))
    return documents


def _is_read(path: Path) -> bool:
    return path.suffix.lower() in _TEXT_SUFFIXES or bool(data_suffix(path.name))


def split_documents(documents: Iterable[Document], fraction: float, seed: int) -> tuple[list[Document], list[Document]]:
    """Hold out `fraction` of the documents by seed (at least one); return (train, validation), both in their order.

    Raises:
        ToolkitError: there is only one document.
    """
    everything = list(documents)
    if len(everything) < 2:
        raise ToolkitError("a corpus of one document leaves nothing to validate on", where="corpus")
    count = min(max(1, round(fraction * len(everything))), len(everything) - 1)
    held = set(permutation(len(everything), seed, _HOLD_OUT)[:count].tolist())
    train = [document for index, document in enumerate(everything) if index not in held]
    return train, [everything[index] for index in sorted(held)]


def rows(
    documents: Iterable[Document], tokenizer: Tokenizer, row_tokens: int, *, seed: int = 0
) -> list[TokenizedExample]:
    """Join documents, shuffled by seed, with the end-of-text token and cut them into rows.

    Every row is one segment with all weights 1; the last row may be shorter (a rest of one token is left out).
    Documents with `messages` are rendered through the chat template.

    Args:
        documents: as `read_corpus` or a generator gives them.
        tokenizer: the one to encode with.
        row_tokens: length of a row.
        seed: draws the order of the documents.

    Raises:
        ToolkitError: a document has neither `text` nor `messages`, or there is no text at all.
    """
    end = tokenizer.token_to_id(SEPARATOR)
    end = tokenizer.eos_id if end is None else end
    texts = [_as_text(document, tokenizer, index) for index, document in enumerate(documents)]
    order = permutation(len(texts), seed, _ORDER)
    pieces: list[NDArray[np.int32]] = []
    for start in range(0, len(texts), _CHUNK):
        encodings = tokenizer.encode_batch([texts[i] for i in order[start : start + _CHUNK]])
        pieces.extend(np.asarray([*encoding.ids, end], dtype=np.int32) for encoding in encodings)
    stream = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int32)
    cut = [stream[start : start + row_tokens] for start in range(0, len(stream), row_tokens)]
    found = [TokenizedExample(row, np.ones(len(row), dtype=np.float32)) for row in cut if len(row) > 1]
    if not found:
        raise ToolkitError("the corpus holds no text", where="corpus")
    return found


def document_texts(documents: Iterable[Document]) -> Iterator[str]:
    """Yield the plain text of documents, one message at a time, for training a tokenizer on."""
    for document in documents:
        if isinstance(document.get("text"), str):
            yield document["text"]
        else:
            yield from (message["content"] for message in document["messages"])


def _as_text(document: Document, tokenizer: Tokenizer, index: int) -> str:
    problem = _document_problem(document)
    if problem:
        raise ToolkitError(problem, where=f"document {index + 1}")
    if isinstance(document.get("text"), str):
        return document["text"]
    return tokenizer.render(document["messages"], add_generation_prompt=False).rstrip("\n")


def _document_problem(document: object) -> str | None:
    if not isinstance(document, Mapping):
        return "expected a JSON object with `text` or `messages`"
    if isinstance(document.get("text"), str):
        return None
    messages: Sequence[Any] | None = document.get("messages")
    if not isinstance(messages, list) or not messages:
        return "expected a field `text` or `messages`"
    whole = all(isinstance(m, Mapping) and isinstance(m.get("content"), str) and m.get("role") for m in messages)
    return None if whole else "each of `messages` needs a `role` and a `content`"


def _records(file: Path, problems: list[Problem]) -> Iterator[Document]:
    for where, value in read_values(file, problems):
        problem = _document_problem(value)
        if problem:
            problems.append(Problem(problem, where))
        elif isinstance(value, Mapping):
            yield value


def _text_pieces(file: Path, problems: list[Problem]) -> Iterator[Document]:
    """Yield a text file in pieces of whole paragraphs (whole lines where a paragraph is longer than a piece)."""
    piece: list[str] = []
    size = 0
    for _, line in text_lines(file, problems):
        piece.append(line)
        size += len(line) + 1
        if (size >= PIECE_CHARACTERS and not line.strip()) or size >= 2 * PIECE_CHARACTERS:
            yield from _piece(piece)
            piece, size = [], 0
    yield from _piece(piece)


def _piece(lines: Sequence[str]) -> Iterator[Document]:
    text = "\n".join(lines).strip("\n")
    if text.strip():
        yield {"text": text}
