"""llama.cpp behind the Scorer protocol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import ToolkitError
from toolkit.gguf_backend.generate import generate
from toolkit.gguf_backend.model import CACHE_BUDGET_BYTES, MAX_SEQUENCES, Context, LoadedModel, Piece
from toolkit.gguf_backend.tokenizer import GgufTokenizer
from toolkit.gguf_backend.weights import named_weights
from toolkit.protocols import Batch, GeneratedToken, Sampling
from toolkit.tensor_files import StoredTensor


@dataclass(frozen=True)
class _Segment:
    """One packed sequence of a batch: row `row`, positions `start` to `end` (exclusive)."""

    row: int
    start: int
    end: int


class GgufScorer:
    """A GGUF file that can be asked. Implements `protocols.Scorer`."""

    def __init__(
        self, path: Path | str, *, exact: bool = False, threads: int | None = None, adapter: Path | None = None
    ) -> None:
        """Load a file. Raises ToolkitError with llama.cpp's words when it refuses.

        exact:   float32 KV cache, plain attention, CPU: what comparisons with the trained model need
        threads: default: the physical cores that this process may use, fewer for a small model
        adapter: a LoRA adapter in GGUF, applied on top
        """
        self.path = Path(path)
        self._exact = exact
        self._threads = threads
        self._model = LoadedModel(self.path, on_cpu=exact, adapter=adapter)
        self._context: Context | None = None
        self._tokenizer = GgufTokenizer(self._model)

    def tokenizer(self) -> GgufTokenizer:
        """Return the tokenizer that the file brings along (valid until `close`)."""
        return self._tokenizer

    @property
    def context_length(self) -> int:
        """Longest sequence the model was made for, in tokens."""
        return self._model.context_length

    def evaluate(self, batch: Batch) -> tuple[float, float]:
        """Return (sum of weighted NLL in nats, sum of weights) over the positions that train."""
        same = np.zeros(batch.tokens.shape, bool)
        same[:, 1:] = batch.segment_ids[:, 1:] == batch.segment_ids[:, :-1]
        weights = np.where(same, batch.loss_weights, 0).astype(np.float64)
        logprobs = self._logprobs(batch, weights != 0)
        return float(-(logprobs * weights).sum()), float(weights.sum())

    def token_logprobs(self, batch: Batch) -> NDArray[np.float32]:
        """Return (B, T) log-probabilities of `tokens[:, t]` given what precedes it; 0 where nothing precedes."""
        return self._logprobs(batch, np.ones(batch.tokens.shape, bool)).astype(np.float32)

    def logits(self, tokens: NDArray[np.int32]) -> Iterator[NDArray[np.float32]]:
        """Yield float32 chunks (B, t, V) that concatenate along axis 1 to (B, T, V)."""
        rows, length = tokens.shape
        context = self._open(rows, length, at_least=rows)
        step = max(1, context.batch_tokens // rows)
        for start in range(0, length, step):
            end = min(start + step, length)
            wanted = [True] * (end - start)
            pieces = [Piece(row, start, tokens[row, start:end].tolist(), wanted) for row in range(rows)]
            yield np.stack(context.run(pieces))

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterator[GeneratedToken]:
        """Continue every prompt, batched, yielding tokens as they come.

        A row that reaches the model's context ends with `length`. Raises ToolkitError for prompts that do not fit.
        """
        limit = self.context_length
        for number, prompt in enumerate(prompts, 1):
            if not 0 < len(prompt) < limit:
                raise ToolkitError(
                    f"prompt {number} has {len(prompt)} tokens; the model takes 1 to {limit - 1}", where=self.path
                )
        if not prompts:
            return
        length = min(limit, max(map(len, prompts)) + sampling.max_new_tokens)
        yield from generate(self._open(len(prompts), length), prompts, sampling)

    def named_weights(self) -> Iterator[StoredTensor]:
        """Yield the file's tensors under their Hugging Face names, dequantised one at a time."""
        return named_weights(self.path)

    def close(self) -> None:
        """Release the memory; the scorer is of no use afterwards."""
        if self._context is not None:
            self._context.close()
            self._context = None
        self._model.close()

    def _open(self, sequences: int, length: int, *, at_least: int = 1) -> Context:
        """Return an empty context for `sequences` rows of `length` tokens, or for fewer if they are big."""
        if length > self.context_length:
            raise ToolkitError(f"{length} tokens do not fit: the model takes {self.context_length}", where=self.path)
        affordable = CACHE_BUDGET_BYTES // (length * self._model.cache_bytes_per_token(4 if self._exact else 2))
        sequences = max(at_least, min(sequences, MAX_SEQUENCES, affordable), 1)
        held = self._context
        if held is None or held.sequences < sequences or held.length < length:
            if held is not None:
                held.close()
            self._context = held = Context(
                self._model, sequences=sequences, length=length, exact=self._exact, threads=self._threads
            )
        held.forget()
        return held

    def _logprobs(self, batch: Batch, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return (B, T) log-probabilities, computed where `chosen` (B, T) and something precedes, else 0."""
        result = np.zeros(batch.tokens.shape, np.float64)
        segments = [segment for segment in _segments(batch.segment_ids) if segment.end - segment.start > 1]
        if not segments:
            return result
        longest = max(segment.end - segment.start for segment in segments)
        context = self._open(len(segments), longest)
        for first in range(0, len(segments), context.sequences):
            context.forget()
            self._score_wave(context, batch.tokens, segments[first : first + context.sequences], chosen, result)
        return result

    def _score_wave(
        self,
        context: Context,
        tokens: NDArray[np.int32],
        segments: Sequence[_Segment],
        chosen: NDArray[np.bool_],
        result: NDArray[np.float64],
    ) -> None:
        """Fill `result` for segments that fit into the context together (the logits after t - 1 predict t)."""
        step = max(1, context.batch_tokens // len(segments))
        longest = max(segment.end - segment.start for segment in segments)
        for offset in range(0, longest - 1, step):
            pieces, spans = [], []
            for slot, segment in enumerate(segments):
                start, end = segment.start + offset, min(segment.start + offset + step, segment.end - 1)
                if start < end:
                    wanted = chosen[segment.row, start + 1 : end + 1]
                    pieces.append(Piece(slot, offset, tokens[segment.row, start:end].tolist(), wanted.tolist()))
                    spans.append((segment.row, start + 1 + np.flatnonzero(wanted)))
            for (row, positions), logits in zip(spans, context.run(pieces), strict=True):
                result[row, positions] = _log_softmax_at(logits, tokens[row, positions])


def _segments(segment_ids: NDArray[np.int32]) -> list[_Segment]:
    """Find the runs of equal non-zero ids in (B, T)."""
    found = []
    for row, ids in enumerate(segment_ids):
        edges = [0, *(np.flatnonzero(ids[1:] != ids[:-1]) + 1).tolist(), len(ids)]
        found += [_Segment(row, start, end) for start, end in zip(edges, edges[1:], strict=False) if ids[start] != 0]
    return found


def _log_softmax_at(logits: NDArray[np.float32], ids: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the log-probability of `ids` (n,) under `logits` (n, V), in float64."""
    wide = logits.astype(np.float64)
    top = wide.max(axis=1)
    normaliser = top + np.log(np.exp(wide - top[:, None]).sum(axis=1))
    return wide[np.arange(len(ids)), ids] - normaliser
