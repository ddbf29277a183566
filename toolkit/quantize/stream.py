"""Write a GGUF file block of rows by block of rows: read, merge, lay out, quantise, on a few threads, in order.

However large the model, only the blocks in flight are in memory, and nothing lies on the disk but the file itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from toolkit.atomic_files import flush_to_disk
from toolkit.errors import JobFailed
from toolkit.gguf_backend.model import usable_threads
from toolkit.quantize import ggml
from toolkit.quantize.header import write_header
from toolkit.quantize.plan import FilePlan, PlannedTensor, padded
from toolkit.quantize.source import Source
from toolkit.tensor_files import StoredTensor

# 2 MB of float32. With copies on the way a block takes about 8 MB, and there are two more of them than threads.
BLOCK_WEIGHTS = 2**19
_FLOATS = (Kind.F32, Kind.F16, Kind.BF16)

Progress = Callable[[int, int], None]
_Piece = TypeVar("_Piece")
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class _Block:
    """Rows `start` to `stop` (exclusive) of a tensor; `last` when nothing of it follows."""

    tensor: PlannedTensor
    start: int
    stop: int
    last: bool


def write_gguf(
    path: Path,
    source: Source,
    plan: FilePlan,
    notes: Mapping[str, str],
    threads: int | None = None,
    progress: Progress = lambda done, total: None,
) -> None:
    """Write the planned file.

    threads:  default: the physical cores that this process may use
    progress: told bytes written and bytes in all, after every tensor

    Raises:
        OSError: the system refuses (a full disk).
        JobFailed: a weight is not a number, or too large for the type.
    """
    write_header(path, source, plan.tensors, plan.kind.file_type, notes)
    extra = source.decoder.extra_tensors()
    for kind in {tensor.kind for tensor in plan.tensors} - set(_FLOATS):
        ggml.prepare(kind)

    def make(block: _Block) -> NDArray[Any]:
        return _packed(source, extra, block)

    with path.open("r+b") as file, ThreadPoolExecutor(threads := threads or usable_threads()) as pool:
        file.seek(0, 2)
        size = 0
        for block, packed in in_order(pool, make, _blocks(source, plan), threads + 2):
            file.write(packed.data)
            size += packed.nbytes
            if block.last:
                file.write(bytes(padded(size) - size))
                size = 0
                progress(file.tell(), plan.file_bytes)
        flush_to_disk(file)


def convert(tensor: StoredTensor, kind: Kind) -> NDArray[np.generic]:
    """Return a tensor's numbers as F32, F16 or BF16 (as uint16 bits), rounded to nearest where that loses something."""
    if kind == Kind.BF16:
        return tensor.to_bfloat16().array
    if kind == Kind.F16:
        with np.errstate(over="ignore"):  # what does not fit is found when the rows are checked
            return tensor.array if tensor.dtype == "float16" else tensor.to_float32().astype(np.float16)
    return tensor.array if tensor.dtype == "float32" else tensor.to_float32()


def _blocks(source: Source, plan: FilePlan) -> Iterator[_Block]:
    """Cut the file into blocks, in order, none of them through a unit of rows that belong together."""
    for tensor in plan.tensors:
        rows = tensor.shape[0]
        unit = 1 if tensor.source is None else source.decoder.row_unit(tensor.source)
        columns = tensor.elements // rows
        step = max(1, BLOCK_WEIGHTS // (columns * unit)) * unit
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            yield _Block(tensor, start, stop, stop == rows)


def _packed(source: Source, extra: Mapping[str, NDArray[np.float32]], block: _Block) -> NDArray[Any]:
    """Make the bytes of a block, as the file holds them."""
    tensor = block.tensor
    if tensor.source is None:
        return np.ascontiguousarray(extra[tensor.name][block.start : block.stop])
    stored = source.tensors.rows(tensor.source, block.start, block.stop)
    laid_out = StoredTensor(stored.name, stored.dtype, source.decoder.arrange(tensor.source, stored.array))
    if tensor.kind in _FLOATS:
        packed = np.ascontiguousarray(convert(laid_out, tensor.kind))
        sound = True
    else:
        rows = laid_out.to_float32()
        # A NaN can vanish in a block's maximum and leave numbers that look sound.
        sound = bool(np.isfinite(rows).all())
        packed = ggml.quantise_rows(rows, tensor.kind)
    if not (sound and ggml.is_sound(packed, tensor.kind)):
        raise JobFailed(
            f"{tensor.source} holds numbers that {tensor.kind.name} cannot hold (NaN, infinite or too large)",
            where=source.folder,
            hint="Try BF16" if tensor.kind == Kind.F16 else "Such a model cannot answer: look at its training",
        )
    return packed


def in_order(
    pool: ThreadPoolExecutor, make: Callable[[_Piece], _Made], pieces: Iterable[_Piece], window: int
) -> Iterator[tuple[_Piece, _Made]]:
    """Yield pieces and what was made of them in their order, never more than `window` of them under way."""
    waiting: deque[tuple[_Piece, Future[_Made]]] = deque()
    try:
        for piece in pieces:
            waiting.append((piece, pool.submit(make, piece)))
            if len(waiting) >= window:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        for _, future in waiting:
            future.cancel()
