"""Batched generation with a key/value cache: ragged prompts padded on the left, finished rows dropped as they end.

Shapes: B rows still running, T positions, V vocabulary entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import BatchKVCache, BatchRotatingKVCache, KVCache, RotatingKVCache

from toolkit.errors import ToolkitError
from toolkit.mlx_backend.model import SplitModel
from toolkit.protocols import FinishReason, GeneratedToken, Sampling

_MAX_ROWS = 64
_MAX_CACHED_TOKENS = 65_536


@dataclass
class _Group:
    """The rows that run together. All arrays have one entry per running row.

    rows:    (B,) indices into the prompts
    tokens:  (B, T) int32 to feed next (the padded prompts, then one token a row)
    limits:  (B,) new tokens each row may still get
    cache:   one for each layer; they know how far a row is padded
    """

    rows: np.ndarray
    tokens: mx.array
    limits: np.ndarray
    cache: list[Any]


def generate(split: SplitModel, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterator[GeneratedToken]:
    """Continue every prompt and stream the tokens; rows of like length run together.

    A row ends with `stop` at a stop token (not yielded) or with `length` at `max_new_tokens` or the model's context.
    What is sampled for a row depends on (seed, row) and its prompt, not on the rows that run beside it.

    Raises:
        ToolkitError: a prompt is empty or fills the model's context.
    """
    context = getattr(split.model.args, "max_position_embeddings", None) or 1 << 30
    for row, prompt in enumerate(prompts):
        if not 0 < len(prompt) < context:
            raise ToolkitError(f"prompt {row + 1} has {len(prompt)} tokens; the model takes 1 to {context - 1}")
    order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), row))
    start = 0
    while start < len(order):
        rows = _next_group(order, start, prompts, sampling)
        start += len(rows)
        yield from _run(split, _pad(split, rows, prompts, sampling, context), sampling)


def _next_group(order: list[int], start: int, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[int]:
    rows: list[int] = []
    for row in order[start : start + _MAX_ROWS]:
        longest = len(prompts[row]) + sampling.max_new_tokens
        if rows and longest * (len(rows) + 1) > _MAX_CACHED_TOKENS:
            break
        rows.append(row)
    return rows


def _pad(
    split: SplitModel, rows: list[int], prompts: Sequence[Sequence[int]], sampling: Sampling, context: int
) -> _Group:
    longest = max(len(prompts[row]) for row in rows)
    tokens = np.zeros((len(rows), longest), np.int32)
    for i, row in enumerate(rows):
        tokens[i, longest - len(prompts[row]) :] = prompts[row]
    return _Group(
        rows=np.array(rows),
        tokens=split.to_device(tokens),
        limits=np.array([min(sampling.max_new_tokens, context - len(prompts[row])) for row in rows]),
        cache=_caches(split, [longest - len(prompts[row]) for row in rows]),
    )


def _caches(split: SplitModel, left_padding: list[int]) -> list[Any]:
    """Return a cache for each layer of the kind that the model asks for, in its batched form.

    Raises:
        ToolkitError: a layer keeps a state that mlx-lm does not batch.
    """
    kinds = split.model.make_cache() if hasattr(split.model, "make_cache") else [KVCache() for _ in split.model.layers]
    caches: list[Any] = []
    for kind in kinds:
        if type(kind) is KVCache:
            caches.append(BatchKVCache(left_padding))
        elif type(kind) is RotatingKVCache:
            caches.append(BatchRotatingKVCache(kind.max_size, left_padding))
        else:
            raise ToolkitError(
                f"MLX cannot generate in batches with a {type(kind).__name__}", hint="use backend: torch for this model"
            )
    return caches


def _run(split: SplitModel, group: _Group, sampling: Sampling) -> Iterator[GeneratedToken]:
    draws = {int(row): np.random.default_rng([sampling.seed, int(row)]) for row in group.rows}
    stop_ids = np.array(sampling.stop_ids, np.int64)
    while len(group.rows):
        if (done := group.limits <= 0).any():
            yield from _finish(group, done, "length")
            _keep(split, group, ~done)
            continue
        logits = _next_logits(split, group)
        uniform = np.array([draws[int(row)].random() for row in group.rows]) if sampling.temperature > 0 else None
        chosen = np.array(pick(logits, sampling, uniform))
        group.limits = group.limits - 1
        stopped = np.isin(chosen, stop_ids)
        for row, token in zip(group.rows[~stopped], chosen[~stopped], strict=True):
            yield GeneratedToken(int(row), int(token))
        yield from _finish(group, stopped, "stop")
        full = ~stopped & (group.limits <= 0)
        yield from _finish(group, full, "length")
        group.tokens = split.to_device(chosen[:, None].astype(np.int32))
        _keep(split, group, ~(stopped | full))


def _finish(group: _Group, which: np.ndarray, reason: FinishReason) -> Iterator[GeneratedToken]:
    for row in group.rows[which]:
        yield GeneratedToken(int(row), None, reason)


def _keep(split: SplitModel, group: _Group, which: np.ndarray) -> None:
    """Drop the rows that are done, from the cache too."""
    if which.all():
        return
    group.rows, group.limits = group.rows[which], group.limits[which]
    if len(group.rows) == 0:
        return
    kept = split.to_device(np.flatnonzero(which).astype(np.int32))
    group.tokens = group.tokens[kept]
    if group.cache[0].keys is None:  # nothing has been fed yet: a cache that shrinks its padding would miss the tokens'
        padding = np.array(group.cache[0].left_padding)[which]
        group.tokens = group.tokens[:, int(padding.min()) :]
        group.cache = _caches(split, (padding - padding.min()).tolist())
        return
    for cache in group.cache:
        cache.filter(kept)


def _next_logits(split: SplitModel, group: _Group) -> mx.array:
    """Feed the pending tokens and return (B, V) float32 logits for what follows."""
    with split.arithmetic():
        hidden = split.decoder(group.tokens, cache=group.cache)[:, -1]
        logits = split.head(hidden).astype(mx.float32)
        mx.eval(logits)
    return logits


def pick(logits: mx.array, sampling: Sampling, uniform: np.ndarray | None) -> mx.array:
    """Choose a token per row: the likeliest, or by inverting the cumulative distribution at `uniform` (B,) in [0, 1).

    The filters apply in the usual order: temperature, top-k, top-p (Holtzman et al. 2020, arXiv:1904.09751); the last
    keeps the fewest tokens that hold probability `top_p` and always the first.
    """
    if uniform is None:
        return logits.argmax(axis=-1)
    ids = mx.argsort(-logits, axis=-1)
    values = mx.take_along_axis(logits, ids, axis=-1) / sampling.temperature
    places = mx.arange(logits.shape[-1])
    if sampling.top_k > 0:
        values = mx.where(places < sampling.top_k, values, -mx.inf)
    probabilities = mx.softmax(values, axis=-1)
    before = probabilities.cumsum(axis=-1) - probabilities
    probabilities = mx.where((before < sampling.top_p) | (places == 0), probabilities, 0.0)
    cumulative = probabilities.cumsum(axis=-1)
    target = mx.array(uniform.astype(np.float32))[:, None] * cumulative[:, -1:]
    index = (cumulative <= target).sum(axis=-1, keepdims=True)
    last = (probabilities > 0).sum(axis=-1, keepdims=True) - 1
    return mx.take_along_axis(ids, mx.minimum(index, last), axis=1).squeeze(1)
