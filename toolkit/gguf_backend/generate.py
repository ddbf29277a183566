"""Continue many prompts at once: rows share every pass through the model, finished ones make room."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.gguf_backend.model import Context, Piece
from toolkit.protocols import FinishReason, GeneratedToken, Sampling


@dataclass
class _Row:
    """A prompt on its way. `pending` are tokens that the model has not seen yet, `seen` counts those that it has."""

    index: int
    slot: int
    pending: list[int]
    random: np.random.Generator
    seen: int = 0
    made: int = 0


def generate(context: Context, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterator[GeneratedToken]:
    """Yield tokens of all prompts as they come. Every prompt must be non-empty and shorter than the context."""
    waiting = deque(enumerate(prompts))
    free = list(range(context.sequences))
    active: list[_Row] = []
    while waiting or active:
        while waiting and free:
            index, prompt = waiting.popleft()
            slot = free.pop()
            context.forget(slot)
            active.append(_Row(index, slot, list(prompt), np.random.default_rng((sampling.seed, index))))
        for row, token in _advance(context, active, sampling):
            reason = _finish_reason(context, row, token, sampling)
            if token not in sampling.stop_ids:
                yield GeneratedToken(row.index, token)
            if reason is not None:
                yield GeneratedToken(row.index, None, reason)
                active.remove(row)
                free.append(row.slot)


def _advance(context: Context, active: Sequence[_Row], sampling: Sampling) -> list[tuple[_Row, int]]:
    """Run one batch over the pending tokens and draw a token for every row that has no more of them."""
    budget = context.batch_tokens
    pieces, rows = [], []
    # Rows that only wait for their next token come first, so that a long new prompt does not hold them up.
    for row in sorted(active, key=lambda row: len(row.pending)):
        tokens = row.pending[:budget]
        if not tokens:
            continue
        budget -= len(tokens)
        row.pending = row.pending[len(tokens) :]
        wanted = [False] * len(tokens)
        wanted[-1] = not row.pending
        pieces.append(Piece(row.slot, row.seen, tokens, wanted))
        row.seen += len(tokens)
        rows.append(row)
    drawn = []
    for row, logits in zip(rows, context.run(pieces), strict=True):
        if row.pending:
            continue
        token = draw(logits[0], sampling, row.random)
        row.pending = [token]
        row.made += 1
        drawn.append((row, token))
    return drawn


def _finish_reason(context: Context, row: _Row, token: int, sampling: Sampling) -> FinishReason | None:
    if token in sampling.stop_ids:
        return "stop"
    if row.made >= sampling.max_new_tokens or row.seen >= context.length:
        return "length"
    return None


def draw(logits: NDArray[np.float32], sampling: Sampling, random: np.random.Generator) -> int:
    """Pick a token from (V,) logits: greedy at temperature 0, else after top-k and then nucleus (top-p) filtering."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    scores = logits.astype(np.float64) / sampling.temperature
    order = np.argsort(-scores, kind="stable")
    if sampling.top_k:
        order = order[: sampling.top_k]
    probabilities = np.exp(scores[order] - scores[order[0]])
    probabilities /= probabilities.sum()
    if sampling.top_p < 1:
        # The smallest set that reaches top_p: a token stays when the mass before it is still below.
        kept = np.cumsum(probabilities) - probabilities < sampling.top_p
        order, probabilities = order[kept], probabilities[kept] / probabilities[kept].sum()
    return int(random.choice(order, p=probabilities))
